"""Whatever comes out of a container is data: it ends as a value, a wrong answer or a SandboxError, in bounded time."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.errors import SandboxError
from rlvr.sandbox.backend import Backend
from rlvr.sandbox.channel import ChannelLostError, Frames
from rlvr.sandbox.jobs import Binary, Call, Calls, Checks, Compile, Execution, Job, Limits, Program, Status
from rlvr.sandbox.lane import Lane
from rlvr.sandbox.plain import NotPlainError, Opaque, decode, encode
from rlvr.sandbox.protocol import execution
from rlvr.sandbox.session import PooledSession, SessionKeeper

NONCE = "0123"
CALLS = Calls("def f(x): return x", "f", (Call((1,)), Call((2,))))
CHECKS = Checks("def f(x): return x", ("f",), ("assert f(1) == 1", "assert f(2) == 2"))
JOBS: tuple[Job, ...] = (CALLS, CHECKS, Program("print(1)"), Compile("int main(){}"), Binary(b"\x7fELF"))
HEADER: dict[str, Any] = {"st": "exit", "code": 0, "wall": 0.1, "cpu": 0.1, "rss": 1000, "out": 0, "err": 0, "left": 0}
VERDICT: dict[str, Any] = {
    "nonce": NONCE,
    "passed": [True, True],
    "failures": [None, None],
    "checked": True,
    "unsupported": "",
    "fatal": None,
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e999999999", "\ud800", "nan", "inf", "9" * 4301, "f" * 4000, "exit", "late", -1, 10**40, 1e300])
)
TAGS = "ref opaque ndarray dict tuple set frozenset deque int float bytes bytearray complex range Fraction Decimal type nonsense"
tags = st.sampled_from(TAGS.split())


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text(max_size=3) | st.sampled_from(["e", "v", "late", "fatal", "kind", "message", "nonce", "passed", "failures"])
    tagged = st.fixed_dictionaries({"~": tags | inner}, optional={"v": inner, "c": inner, "id": inner})
    pairs = st.lists(st.tuples(inner, inner).map(list), max_size=3)
    return st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4) | tagged | pairs


hostile = st.recursive(scalars, containers, max_leaves=20)


class Scripted:
    """A channel that answers with the given pieces, and then closes."""

    def __init__(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        self.pieces = list(pieces)
        self.pause_s = pause_s

    def send(self, data: bytes) -> None:
        pass

    def receive(self, deadline_s: float) -> bytes:
        time.sleep(self.pause_s)
        if not self.pieces:
            raise ChannelLostError("closed")
        return self.pieces.pop(0)

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


def framed(header: Any, *blobs: bytes) -> bytes:
    data = json.dumps(header).encode()
    return struct.pack("!I", len(data)) + data + b"".join(blobs)


def answered(job: Job, header: dict[str, Any], *blobs: bytes) -> Execution | None:
    """None: it was refused as a SandboxError."""
    try:
        return execution(job, NONCE, header, list(blobs), "image")
    except SandboxError:
        return None


# -- frames


@given(st.binary(max_size=64), st.integers(1, 7))
def test_random_bytes_are_an_answer_or_a_lost_channel(data: bytes, step: int) -> None:
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    try:
        answer, _ = Frames(Scripted(*pieces)).ask({}, (), 1.0)
    except ChannelLostError:
        return
    assert isinstance(answer, dict)


@given(hostile | st.fixed_dictionaries({"b": hostile | st.lists(scalars)}))
def test_any_json_as_a_header_is_an_answer_or_a_lost_channel(header: Any) -> None:
    try:
        answer, blobs = Frames(Scripted(framed(header, b"x" * 64))).ask({}, (), 1.0)
    except ChannelLostError:
        return
    assert isinstance(answer, dict)
    assert [len(blob) for blob in blobs] == answer.get("b", [])


@pytest.mark.parametrize(
    "sizes", [[-1], [10**15, -(10**15)], [True], ["1"], [1.0], {"0": 1}, 7, "12", None, [1e999], [1 << 40], [math.nan]]
)
def test_lengths_that_are_none_lose_the_channel(sizes: Any) -> None:
    with pytest.raises(ChannelLostError):
        Frames(Scripted(framed({"b": sizes}, b"x" * 64))).ask({}, (), 1.0)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", 0xFFFFFFFF),
        struct.pack("!I", 60_000) + b"[" * 60_000,
        struct.pack("!I", 5) + b"\xff\xfe{}\x00",
        struct.pack("!I", 4) + b"null",
        framed({"b": [3]}, b"ab"),
        framed({"b": [3]})[:-1],
        b"",
    ],
    ids=["a giant header", "deep nesting", "no UTF-8", "no object", "a blob cut short", "a header cut short", "nothing"],
)
def test_a_broken_frame_loses_the_channel(data: bytes) -> None:
    with pytest.raises(ChannelLostError):
        Frames(Scripted(data)).ask({}, (), 1.0)


def test_the_last_of_two_equal_keys_counts() -> None:
    data = b'{"b": [3], "b": [2], "st": "exit", "st": "late"}'
    answer, blobs = Frames(Scripted(struct.pack("!I", len(data)) + data + b"abc")).ask({}, (), 1.0)
    assert (answer["st"], blobs) == ("late", [b"ab"])


def test_an_answer_that_drips_is_lost_at_the_deadline() -> None:
    dripping = Scripted(*[bytes([byte]) for byte in framed({"b": [5000]}, bytes(5000))], pause_s=0.002)
    started = time.monotonic()
    with pytest.raises(ChannelLostError, match="only a part"):
        Frames(dripping).ask({}, (), 0.05)
    assert time.monotonic() - started < 5.0  # all of it would take ten


# -- executions


@given(st.sampled_from(JOBS), hostile, st.sampled_from(sorted(HEADER)), st.lists(st.binary(max_size=40), max_size=4))
@settings(max_examples=120)
def test_a_header_with_a_wrong_field_is_an_execution_or_a_sandbox_error(
    job: Job, value: Any, field: str, blobs: list[bytes]
) -> None:
    done = answered(job, {**HEADER, field: value}, *blobs)
    assert done is None or done.status in Status


@pytest.mark.parametrize("field", ["st", "code", "wall", "cpu", "rss", "out"])
@pytest.mark.parametrize(
    "value", [None, "x", [], {}, math.nan, math.inf, 10**400, -(10**400), True], ids=lambda value: str(value)[:6]
)
def test_a_header_field_of_a_wrong_type_is_the_sandboxs_failure(field: str, value: Any) -> None:
    with pytest.raises(SandboxError, match="nonsense"):
        execution(Program(""), NONCE, {**HEADER, field: value}, [b"", b"", b""], "image")


@pytest.mark.parametrize("field", ["st", "code", "wall", "cpu", "rss", "out"])
def test_a_header_without_a_field_is_the_sandboxs_failure(field: str) -> None:
    header = {key: value for key, value in HEADER.items() if key != field}
    with pytest.raises(SandboxError, match="nonsense"):
        execution(Program(""), NONCE, header, [b"", b"", b""], "image")


@given(st.lists(hostile, max_size=5), st.binary(max_size=20))
@settings(max_examples=120)
def test_any_result_lines_of_calls_are_values_or_failures(lines: list[Any], rest: bytes) -> None:
    result = b"\n".join([*(json.dumps(line).encode() for line in lines), rest])
    done = answered(CALLS, HEADER, result, b"", b"")
    assert done is not None
    assert len(done.returned) <= len(CALLS.calls)
    for one in done.returned:
        if one.failure is not None:
            (one.failure.kind + one.failure.message).encode()  # a report is UTF-8


@given(hostile)
@settings(max_examples=120)
def test_a_verdict_without_the_nonce_never_passes(verdict: Any) -> None:
    done = answered(CHECKS, HEADER, json.dumps(verdict).encode(), b"", b"")
    assert done is None or not any(done.passed)


@given(st.sampled_from(sorted(VERDICT)), hostile)
@settings(max_examples=120)
def test_a_verdict_with_a_wrong_field_is_an_execution_or_a_sandbox_error(field: str, value: Any) -> None:
    done = answered(CHECKS, HEADER, json.dumps({**VERDICT, field: value}).encode(), b"", b"")
    assert done is None or len(done.passed) == len(done.check_failures)


@pytest.mark.parametrize("passed", [[1, "true"], [[], {}], ["x", 1.0]])
def test_only_true_passes(passed: list[Any]) -> None:
    done = answered(CHECKS, HEADER, json.dumps({**VERDICT, "passed": passed}).encode(), b"", b"")
    assert done is not None
    assert done.passed == (False, False)


def test_more_results_than_calls_are_not_read() -> None:
    result = b'{"v": 1}\n' * 900_000
    done = answered(CALLS, HEADER, result, b"", b"")
    assert done is not None
    assert [one.value for one in done.returned[:2]] == [1, 1]
    assert len(done.returned) <= 3


def test_a_failure_does_not_smuggle_what_no_file_takes() -> None:
    line = {"e": {"kind": "\ud800" * 100, "message": {"no": "text"}}}
    done = answered(CALLS, HEADER, json.dumps(line).encode() + b"\n", b"", b"")
    assert done is not None
    assert done.returned[0].failure is not None
    assert done.returned[0].failure.kind == "?" * 80
    assert done.returned[0].failure.message == ""


# -- values


@given(hostile)
@settings(max_examples=100)
def test_any_json_is_a_value_or_refused(data: Any) -> None:
    try:
        value = decode(data)
    except NotPlainError:
        return
    assert type(value).__module__ in ("builtins", "collections", "decimal", "fractions") or isinstance(value, Opaque)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.fractions()
    | st.builds(range, st.integers(), st.integers(), st.integers(1)),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
    | st.sets(st.integers() | st.text()) | st.frozensets(st.fractions()),
    max_leaves=15,
)  # fmt: skip


@given(plain)
def test_plain_data_comes_back_as_it_went(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert type(back) is type(value)
    assert back == value


COLLIDING = [index * (2**61 - 1) for index in range(20_000)]  # one hash


@pytest.mark.timeout(30)  # each of them would take minutes, or for ever
@pytest.mark.parametrize(
    "make",
    [
        lambda: {"~": "Fraction", "v": ["1e999999999", None]},
        lambda: {"~": "Fraction", "v": [{"~": "Decimal", "v": "1e999999999"}, 1]},
        lambda: {"~": "Fraction", "v": [{"~": "int", "v": "f" * 4_000_000}, {"~": "int", "v": "e" * 3_999_999}]},
        lambda: {"~": "Decimal", "v": "7" * 8_000_000},
        lambda: {"~": "Decimal", "v": [0, [1], 999_999_999]},
        lambda: {"~": "set", "v": COLLIDING},
        lambda: {"~": "frozenset", "v": [{"~": "tuple", "v": [number, 0]} for number in COLLIDING]},
        lambda: {"~": "dict", "v": [[number, 0] for number in COLLIDING]},
        lambda: {"~": "range", "v": ["9" * 4000, 1, 1]},
        lambda: {"~": "complex", "v": ["1j", 0]},
    ],
)
def test_a_value_made_to_be_slow_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(NotPlainError):
        decode(make())


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [b"[" * 4_000_000, b'{"v":' * 1_000_000, b'{"v": [' + b"[]," * 2_700_000 + b"[]]}", b'{"v": {"~": "tuple", "v": ' * 300_000],
    ids=["deep lists", "deep objects", "millions of lists", "deep tuples"],
)
def test_a_result_that_is_too_much_is_a_failure_of_the_call(text: bytes) -> None:
    done = answered(CALLS, HEADER, text + b"\n", b"", b"")
    assert done is not None
    assert not [one for one in done.returned if one.failure is None]


def test_nesting_just_too_deep_is_no_value() -> None:
    done = answered(CALLS, HEADER, b'{"v": ' + b"[" * 300 + b"]" * 300 + b"}\n", b"", b"")
    assert done is not None
    assert isinstance(done.returned[0].value, Opaque)


@pytest.mark.parametrize("other", [None, 0, "", [], Opaque("A"), 1.5, Fraction(1, 2), Decimal(1)])
def test_an_opaque_object_equals_nothing(other: Any) -> None:
    opaque = Opaque("A")
    assert opaque != other
    assert other != opaque
    assert opaque != opaque


# -- sessions


class OneSlot:
    """A lane's slot whose answers are scripted."""

    def __init__(self, *answers: bytes) -> None:
        self.frames = Frames(Scripted(*answers))

    def connected(self) -> Frames:
        return self.frames


@pytest.fixture
def lane() -> Lane:
    backends: list[Backend] = []
    return Lane(backends, "standard", [])


def session_of(lane: Lane, keeper: SessionKeeper, *answers: bytes) -> PooledSession:
    session = PooledSession(OneSlot(*answers), lane, keeper, Limits(), 60.0)  # type: ignore[arg-type]
    lane.recover = lambda slot: False  # type: ignore[method-assign]
    return session


def told(answer: bytes, out: bytes = b"", **header: Any) -> bytes:
    described = {"st": "ok", "wall": 0.1, "out": len(out), "b": [len(answer), len(out)], **header}
    return framed(described, answer, out)


@given(hostile | st.fixed_dictionaries({}, optional={"e": hostile, "shown": hostile, "traceback": hostile, "content": hostile}))
@settings(max_examples=100)
def test_whatever_a_session_answers_is_a_cell_of_text(answer: Any) -> None:
    keeper = SessionKeeper(1)
    session = session_of(Lane([], "standard", []), keeper, told(json.dumps(answer).encode()))
    cell = session.run_cell("1")
    assert cell.status is Status.EXITED
    failure = "" if cell.failure is None else cell.failure.kind + cell.failure.message
    "".join((cell.stdout, cell.value or "", cell.traceback, failure)).encode()


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"content": 7}', b'{"content": "zz"}', b'{"content": null}', b"[1]", b'{"content": {"a": 1}}', b"\xff"]
)
def test_a_file_that_is_none_is_not_found(answer: bytes, lane: Lane) -> None:
    session = session_of(lane, SessionKeeper(1), told(answer))
    with pytest.raises(FileNotFoundError):
        asyncio.run(session.read_file("a.txt"))


@pytest.mark.parametrize("error", [1, "x", [], {}, {"message": None}, {"message": ["\ud800"]}, None])
def test_a_file_that_cannot_be_written_says_so(error: Any, lane: Lane) -> None:
    session = session_of(lane, SessionKeeper(1), told(json.dumps({"e": error}).encode()))
    with pytest.raises(SandboxError, match="cannot write"):
        asyncio.run(session.write_file("a.txt", b"a"))


@pytest.mark.parametrize(
    "answer",
    [told(b"{}", wall=None), told(b"{}", wall="1"), told(b"{}", wall=[]), framed({"st": "ok", "b": []}), b"\0\0"],
    ids=["no time", "a time in words", "a list", "no blobs", "half a frame"],
)
def test_a_slot_that_answers_a_session_with_nonsense_is_lost(answer: bytes, lane: Lane) -> None:
    session = session_of(lane, SessionKeeper(1), answer)
    with pytest.raises(SandboxError):
        session.run_cell("1")
