"""Read what a problem says of its tests; the shapes are those in which data sets write them.

    {"type": "humaneval", "entry_point", "code", "prompt"?}                       openai/human-eval
    {"type": "asserts", "setup", "asserts": [...], "challenge": [...]}            MBPP
    {"type": "stdin_stdout", "checker": {...}, "cases": [{"input", "output", "group"?, "is_public"?}]}
    {"type": "calls", "fn_name", "inputs": [[...], ...], "outputs": [...], "float_tolerance"?}
    {"fn_name"?, "inputs": [...], "outputs": [...]}                               APPS, LiveCodeBench: JSON lines, or values
    [{"input", "output", "testtype": "functional" | "stdin"}, ...]                LiveCodeBench's columns

They stand in `answer["tests"]`, or are the answer itself, or either as JSON text. Any of them may say how many of its first
tests are public (`public`, a number) and what it may use (`time_limit_s`, `memory_limit_mb`).
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rlvr.errors import VerifierError
from rlvr.types import JSON
from rlvr.verifiers.code_checkers import Checker
from rlvr.verifiers.code_values import MAX_DEPTH

MAX_TESTS = 10_000

_PUBLIC_GROUPS = frozenset({"sample", "samples", "example", "examples", "public"})
_FUNCTION_KEYS = ("fn_name", "func_name", "function", "entry_point")


@dataclass(frozen=True, slots=True)
class IoCase:
    """One run of a program: what it reads, and what it must print."""

    name: str
    input: bytes
    output: bytes
    is_public: bool


@dataclass(frozen=True, slots=True)
class CallCase:
    """One call: its arguments, and the values of which it must return one."""

    name: str
    args: tuple[JSON, ...]
    accepted: tuple[JSON, ...]
    is_public: bool


@dataclass(frozen=True, slots=True)
class IoTests:
    cases: tuple[IoCase, ...]
    checker: Checker


@dataclass(frozen=True, slots=True)
class CallTests:
    function: str
    cases: tuple[CallCase, ...]
    float_tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class AssertTests:
    """Asserts about whatever they call; `setup` runs after the submission and before them. The first `public` are public."""

    setup: str
    asserts: tuple[str, ...]
    challenge: tuple[str, ...] = ()
    public: int = 0


@dataclass(frozen=True, slots=True)
class HumanEvalTests:
    """`code` defines `check(candidate)`; `prompt` is the source that the submission completes, where the tests bring it."""

    entry_point: str
    code: str
    prompt: str | None = None


Tests: TypeAlias = IoTests | CallTests | AssertTests | HumanEvalTests


@dataclass(frozen=True, slots=True)
class TestSet:
    """A problem's tests, and what it lets a test use (None: the verifier's own limits)."""

    tests: Tests
    time_limit_s: float | None = None
    memory_limit_mb: int | None = None

    __test__ = False  # not one of pytest's


class _Recent:
    """The tests that were read last, by the identity of the answer: a group's rollouts share one, and it may be megabytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()  # guards the following
        self._found: OrderedDict[int, tuple[JSON, Mapping[str, JSON], TestSet]] = OrderedDict()

    def get(self, answer: JSON, metadata: Mapping[str, JSON]) -> TestSet | None:
        with self._lock:
            known = self._found.get(id(answer))
        return known[2] if known is not None and known[0] is answer and known[1] == metadata else None

    def keep(self, answer: JSON, metadata: Mapping[str, JSON], found: TestSet) -> None:
        with self._lock:
            self._found[id(answer)] = (answer, metadata, found)
            self._found.move_to_end(id(answer))
            if len(self._found) > self._size:
                self._found.popitem(last=False)


_recent = _Recent(128)


def read_tests(answer: JSON, metadata: Mapping[str, JSON]) -> TestSet:
    """The tests in a gold answer. `metadata` may name the function (`fn_name`, `func_name`), and how many tests are public
    (`public_tests`). An answer that was read must not be changed afterwards.

    Raises:
        VerifierError: there are none, or they are broken.
    """
    found = _recent.get(answer, metadata)
    if found is None:
        found = _read(answer, metadata)
        _recent.keep(answer, metadata, found)
    return found


def _read(answer: JSON, metadata: Mapping[str, JSON]) -> TestSet:
    described = _described(answer)
    public = _public_count(described, metadata)
    return TestSet(
        _tests(described, metadata, public), _limit(described, "time_limit_s"), _whole(_limit(described, "memory_limit_mb"))
    )


def _described(answer: JSON) -> Mapping[str, Any]:
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise VerifierError(f"the gold answer is text, but no JSON with tests: {error}") from error
    if isinstance(answer, Mapping) and "tests" in answer:
        return _described(answer["tests"]) if isinstance(answer["tests"], str) else _as_mapping(answer["tests"])
    return _as_mapping(answer)


def _as_mapping(tests: JSON) -> Mapping[str, Any]:
    if isinstance(tests, Mapping):
        return tests
    if isinstance(tests, list):
        return {"type": "livecodebench", "cases": tests}
    raise VerifierError(
        f"tests are {type(tests).__name__}; an object with a type is needed (docs/verifiers-code.md lists the types)"
    )


def _tests(described: Mapping[str, Any], metadata: Mapping[str, JSON], public: int) -> Tests:
    kind = described.get("type")
    if kind is None and "inputs" in described:
        kind = "apps"
    match kind:
        case "humaneval":
            prompt = described.get("prompt")
            return HumanEvalTests(_text(described, "entry_point"), _text(described, "code"), prompt if prompt else None)
        case "asserts":
            return _asserts(described, public)
        case "stdin_stdout":
            return _io(_list(described, "cases"), _checker(described.get("checker")), public)
        case "calls":
            return _calls(described, _function(described, metadata), public)
        case "apps":
            return _apps(described, metadata, public)
        case "livecodebench":
            return _livecodebench(_list(described, "cases"), metadata, public)
    raise VerifierError(f"unknown type of tests: {kind!r}; known: humaneval, asserts, stdin_stdout, calls")


# -- the shapes


def _asserts(described: Mapping[str, Any], public: int) -> AssertTests:
    asserts = tuple(_texts(described, "asserts"))
    challenge = tuple(_texts(described, "challenge")) if described.get("challenge") else ()
    if not asserts and not challenge:
        raise VerifierError("there is no test: 'asserts' is empty")
    setup = described.get("setup") or ""
    if not isinstance(setup, str):
        raise VerifierError(f"'setup' of the tests is {type(setup).__name__}, not text")
    return AssertTests(setup, asserts, challenge, public)


def _io(cases: Sequence[Any], checker: Checker, public: int) -> IoTests:
    read: list[IoCase] = []
    for index, case in enumerate(cases):
        if not isinstance(case, Mapping):
            raise VerifierError(f"test {index + 1} is {type(case).__name__}, not an object with input and output")
        group = str(case.get("group") or "")
        is_public = bool(case.get("is_public", group.lower() in _PUBLIC_GROUPS or index < public))
        name = f"test {index + 1}" + (f" ({group})" if group else "")
        read.append(IoCase(name, _bytes(case, "input", index), _bytes(case, "output", index), is_public))
    return IoTests(tuple(_some(read)), checker)


def _calls(described: Mapping[str, Any], function: str, public: int) -> CallTests:
    inputs, outputs = _pairs(described)
    cases = []
    for index, (args, wanted) in enumerate(zip(inputs, outputs, strict=True)):
        if not isinstance(args, list):
            raise VerifierError(f"inputs[{index}] is {type(args).__name__}, not a list of arguments")
        _check_depth((args, wanted), index)
        cases.append(CallCase(f"test {index + 1}", tuple(args), (wanted,), index < public))
    return CallTests(function, tuple(_some(cases)), _tolerance(described))


def _apps(described: Mapping[str, Any], metadata: Mapping[str, JSON], public: int) -> Tests:
    inputs, outputs = _pairs(described)
    if not any(described.get(key) or metadata.get(key) for key in _FUNCTION_KEYS):
        cases = [{"input": _joined(given), "output": _joined(wanted)} for given, wanted in zip(inputs, outputs, strict=True)]
        checker = _checker(described["checker"]) if described.get("checker") else Checker("numbers")
        return _io(cases, checker, public)
    return CallTests(
        _function(described, metadata),
        tuple(_some([_apps_call(index, *pair, index < public) for index, pair in enumerate(zip(inputs, outputs, strict=True))])),
        _tolerance(described),
    )


def _apps_call(index: int, given: Any, wanted: Any, is_public: bool) -> CallCase:  # noqa: FBT001
    """LiveCodeBench writes a line of JSON for each argument, APPS a list of arguments and, often, a list around the output."""
    if isinstance(given, str):
        args = [_json(line, f"inputs[{index}]") for line in given.split("\n") if line.strip()]
        accepted = (_json(wanted, f"outputs[{index}]") if isinstance(wanted, str) else wanted,)
    elif isinstance(given, list):
        args = given
        accepted = (wanted, *wanted) if isinstance(wanted, list) and len(wanted) == 1 else (wanted,)
    else:
        raise VerifierError(f"inputs[{index}] is {type(given).__name__}; lines of JSON, or a list of arguments, are needed")
    _check_depth((args, list(accepted)), index)
    return CallCase(f"test {index + 1}", tuple(args), accepted, is_public)


def _livecodebench(cases: Sequence[Any], metadata: Mapping[str, JSON], public: int) -> Tests:
    if not cases or not all(isinstance(case, Mapping) and "input" in case and "output" in case for case in cases):
        raise VerifierError("a list of tests needs objects with input and output, and at least one")
    described = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]}
    is_functional = any(case.get("testtype") == "functional" for case in cases)
    if is_functional:
        return _apps({**described, "fn_name": _function({}, metadata)}, metadata, public)
    return _io(cases, Checker("numbers"), public)


# -- their parts


def _pairs(described: Mapping[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    inputs, outputs = _list(described, "inputs"), _list(described, "outputs")
    if len(inputs) != len(outputs):
        raise VerifierError(f"there are {len(inputs)} inputs, but {len(outputs)} outputs")
    return inputs, outputs


def _function(described: Mapping[str, Any], metadata: Mapping[str, JSON]) -> str:
    for source in (described, metadata):
        for key in _FUNCTION_KEYS:
            if isinstance(name := source.get(key), str) and name:
                if not all(part.isidentifier() for part in name.split(".")):
                    raise VerifierError(f"{key} = {name[:80]!r} is no name of a function")
                return name
    raise VerifierError("tests of calls do not say which function they call: fn_name is missing")


def _checker(described: JSON) -> Checker:
    if described is None:
        return Checker()
    if not isinstance(described, Mapping):
        raise VerifierError(f"the checker is {type(described).__name__}, not an object with a type")
    kind = described.get("type", "tokens")
    if kind not in ("tokens", "lines", "numbers", "exact"):
        raise VerifierError(f"unknown checker {kind!r}; known: tokens, lines, numbers, exact")
    tolerance = described.get("float_tolerance")
    if tolerance is not None and not _is_tolerance(tolerance):
        raise VerifierError(f"the checker's float_tolerance is {tolerance!r}; a number of 0 or more, or null, is needed")
    return Checker(kind, tolerance, described.get("case_sensitive", True) is not False)


def _tolerance(described: Mapping[str, Any]) -> float:
    tolerance = described.get("float_tolerance") or 0.0
    if not _is_tolerance(tolerance):
        raise VerifierError(f"float_tolerance is {tolerance!r}; a number of 0 or more is needed")
    return float(tolerance)


def _is_tolerance(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _limit(described: Mapping[str, Any], key: str) -> float | None:
    value = described.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise VerifierError(f"{key} of the tests is {value!r}; a positive number is needed")
    return float(value)


def _whole(value: float | None) -> int | None:
    return None if value is None else math.ceil(value)


def _public_count(described: Mapping[str, Any], metadata: Mapping[str, JSON]) -> int:
    count = described.get("public", metadata.get("public_tests", 0))
    return count if isinstance(count, int) and not isinstance(count, bool) else 0


def _text(described: Mapping[str, Any], key: str) -> str:
    value = described.get(key)
    if not isinstance(value, str) or not value.strip():
        raise VerifierError(f"{key!r} of the tests is {'missing' if value is None else repr(value)[:80]}; text is needed")
    return value


def _texts(described: Mapping[str, Any], key: str) -> Sequence[str]:
    values = _list(described, key)
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise VerifierError(f"{key}[{index}] is {repr(value)[:80]}; Python code is needed")
    return values


def _list(described: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = described.get(key)
    if isinstance(value, str):
        value = _json(value, key)
    if not isinstance(value, list):
        raise VerifierError(f"{key!r} of the tests is {'missing' if value is None else type(value).__name__}; a list is needed")
    if len(value) > MAX_TESTS:
        raise VerifierError(f"{key!r} of the tests has {len(value)} entries; at most {MAX_TESTS} are run")
    return value


def _some(cases: list[Any]) -> list[Any]:
    if not cases:
        raise VerifierError("there is no test")
    return cases


def _bytes(case: Mapping[str, Any], key: str, index: int) -> bytes:
    value = case.get(key)
    if not isinstance(value, str):
        raise VerifierError(f"test {index + 1} has {key} = {repr(value)[:80]}; text is needed")
    return value.encode("utf-8", "surrogatepass")


def _joined(value: Any) -> Any:
    """APPS sometimes has a list of lines for a text."""
    return "\n".join(value) if isinstance(value, list) and all(isinstance(line, str) for line in value) else value


def _json(text: str, where: str) -> JSON:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VerifierError(f"{where} of the tests is not JSON: {error}") from error


def _check_depth(value: JSON, index: int) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH - 4):
        level = [
            inner
            for one in level
            if isinstance(one, (list, tuple, dict))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise VerifierError(f"test {index + 1} nests more than {MAX_DEPTH - 4} deep")
