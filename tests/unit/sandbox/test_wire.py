from __future__ import annotations

import json
from collections import deque
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from rlvr.sandbox.jobs import (
    Binary,
    Call,
    Calls,
    Cell,
    Checks,
    Compile,
    Execution,
    Failure,
    Job,
    Limits,
    Program,
    Returned,
    Status,
)
from rlvr.sandbox.plain import NotPlainError, Opaque
from rlvr.sandbox.wire import (
    WireError,
    decode_cell,
    decode_execution,
    decode_job,
    decode_limits,
    encode_cell,
    encode_execution,
    encode_job,
    encode_limits,
)

EVERY_VALUE = (
    None, True, 7, 10**400, 2.5, float("inf"), "text \ud800", b"\0\xff", 1 + 2j, Decimal("1.10"), Fraction(1, 3), range(1, 9, 2),
    [1, [2]], (1, (2,)), {3, 4}, frozenset({5}), {"a": 1}, {1: "b", (2, 3): None}, deque([1]), {"~": "tilde"},
)  # fmt: skip
JOBS: list[Job] = [
    Program("print(input())", b"\0stdin\xff"),
    Calls("def f(*a, **k): ...", "f", (Call(EVERY_VALUE), Call((), {"x": (1,)})), stops_when_late=True),
    Checks("def f(): ...", ("f", "g"), ("assert f()", "assert g()"), "import math", "check(f)"),
    Compile("int main() {}"),
    Binary(b"\x7fELF", b"in"),
]
EXECUTION = Execution(
    Status.KILLED, exit_code=3, signal=9, stdout=b"\xff", stdout_bytes=100, stderr=b"e", failure=Failure("E", "m"),
    returned=(Returned(EVERY_VALUE), Returned(failure=Failure("ValueError", "no"))), passed=(True, False),
    check_failures=(None, Failure("AssertionError", "")), is_checked=False, unsupported="a generator", binary=b"\x7f",
    wall_s=1.5, cpu_s=0.5, peak_memory_mb=12.0, image="sha256:1",
)  # fmt: skip
CELL = Cell(Status.TIMED_OUT, "out", "42", Failure("E", "m"), "Traceback", is_truncated=True, is_alive=False, wall_s=2.0)


def travelled(message: Any) -> Any:
    return json.loads(json.dumps(message))


def parts_left_at_their_default(value: Any) -> list[str]:
    assert is_dataclass(value)
    return [field.name for field in fields(value) if field.default is not MISSING and getattr(value, field.name) == field.default]


@pytest.mark.parametrize("value", [*JOBS, EXECUTION, CELL], ids=lambda value: type(value).__name__)
def test_the_examples_below_leave_no_part_out(value: Any) -> None:
    assert parts_left_at_their_default(value) == []


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_arrives_as_it_was(job: Job) -> None:
    assert decode_job(travelled(encode_job(job))) == job


def test_an_execution_arrives_as_it_was() -> None:
    assert decode_execution(travelled(encode_execution(EXECUTION))) == EXECUTION
    assert decode_execution(travelled(encode_execution(Execution(Status.EXITED)))) == Execution(Status.EXITED)


def test_a_cell_arrives_as_it_was() -> None:
    assert decode_cell(travelled(encode_cell(CELL))) == CELL


def test_limits_arrive_as_they_were() -> None:
    limits = Limits(wall_s=3, cpu_s=2.5, call_s=0.5, memory_mb=64, processes=3, file_mb=2, output_bytes=10)
    assert decode_limits(travelled(encode_limits(limits))) == limits
    assert decode_limits({}) == Limits()


@pytest.mark.parametrize("value", [Opaque("Evil"), [1, Opaque("Evil")], {"k": (Opaque("Evil"),)}, deque([Opaque("Evil")])])
def test_what_is_no_plain_value_stays_none(value: Any) -> None:
    (returned,) = decode_execution(travelled(encode_execution(Execution(Status.EXITED, returned=(Returned(value),))))).returned
    assert returned.value != value, "an object of a submission equals nothing, so neither does what holds it"
    assert returned.value is not None
    assert "Opaque" in repr(returned.value)


def test_an_argument_that_is_no_plain_data_is_refused_before_it_travels() -> None:
    with pytest.raises(NotPlainError, match="object"):
        encode_job(Calls("", "f", (Call((object(),)),)))


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("text", "job is str, not an object"),
        ({"kind": "shell"}, "unknown kind of job 'shell'; known: program, calls, checks, compile, binary"),
        ({"kind": ["program"]}, "unknown kind of job"),
        ({"kind": "program"}, "a program job has no 'code'"),
        ({"kind": "program", "code": 7}, "'code' is int, not str"),
        ({"kind": "program", "code": "", "stdin": "***"}, "not base64"),
        ({"kind": "program", "code": "", "shell": "sh"}, "unknown part 'shell' of a program job; known: code, stdin"),
        ({"kind": "calls", "code": "", "function": "f", "calls": {}}, "'calls' is dict, not list"),
        ({"kind": "calls", "code": "", "function": "f", "calls": [[1]]}, "a call is a list of arguments"),
        ({"kind": "calls", "code": "", "function": "f", "calls": [[[{"~": "shell"}], {}]]}, "an argument is not plain data"),
        ({"kind": "calls", "code": "", "function": "f", "calls": [], "stops_when_late": 1}, "'stops_when_late' is int, not bool"),
        ({"kind": "checks", "code": "", "entry_points": [1], "tests": []}, "'entry_points' has parts that are no texts"),
    ],
)
def test_what_is_no_job_is_refused_with_the_part_that_is_wrong(message: Any, what: str) -> None:
    with pytest.raises(WireError, match=what):
        decode_job(message)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ([], "limits is list, not an object"),
        ({"wall": 1}, "unknown limit 'wall'; known: wall_s"),
        ({"wall_s": "1"}, "the limit wall_s is '1', not a number"),
        ({"memory_mb": 1.5}, "the limit memory_mb is 1.5, not a whole number"),
        ({"memory_mb": True}, "the limit memory_mb is True"),
        ({"wall_s": 1e9}, "at most 600 seconds"),
        ({"processes": 0}, "must be positive"),
    ],
)
def test_limits_that_are_none_are_refused(message: Any, what: str) -> None:
    with pytest.raises(WireError, match=what):
        decode_limits(message)


@pytest.mark.parametrize(
    "message",
    [
        None,
        {},
        {"status": "happy"},
        {"status": "exited", "stdout": 7},
        {"status": "exited", "returned": [7]},
        {"status": "exited", "returned": [{"value": {"~": "shell"}}]},
        {"status": "exited", "failure": ["one"]},
        {"status": "exited", "surprise": 1},
    ],
)
def test_an_answer_that_is_no_execution_is_refused(message: Any) -> None:
    with pytest.raises(WireError):
        decode_execution(message)
