"""`code`: does a program pass its tests? It runs in the sandbox, on a route on which it cannot forge the answer.

- Function calls (JSON tests, and asserts that are literal calls, which are most of HumanEval and MBPP): the calls go in, plain
  values come out, and the comparison happens here. An object with an `__eq__` of its own is no value.
- Programs: one run for each case; what was printed is compared here.
- Other asserts: the test code runs in a process of another user and asks the submission's process for plain values.

A set of asserts takes one route as a whole: see `code_lift`. What a submission does is its own fault and scores 0, whatever it
is; a sandbox that fails, or tests that are broken, give no score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from rlvr.errors import ConfigError, VerifierError
from rlvr.sandbox.jobs import Plain, Sandbox
from rlvr.sandbox.shared import shared_sandbox
from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.call import clip
from rlvr.verifiers.code_checks import plan_asserts, plan_check
from rlvr.verifiers.code_extract import (
    Extract,
    Language,
    completed,
    defines,
    extract_code,
    prompt_source,
    split_prompt,
    unrunnable,
    with_imports,
)
from rlvr.verifiers.code_interpret import NeedsChecksError
from rlvr.verifiers.code_lift import LiftedAssert, lift_asserts, lift_check
from rlvr.verifiers.code_run import Bounds, CallTest, Kind, Run, TestResult, run_calls, run_checks, run_programs
from rlvr.verifiers.code_tests import AssertTests, CallCase, CallTests, HumanEvalTests, IoTests, Tests, TestSet, read_tests
from rlvr.verifiers.code_values import json_equal, show

Scoring: TypeAlias = Literal["all", "fraction", "first_k"]
Which: TypeAlias = Literal["all", "public", "private"]

DEFAULT_TEST_S = 6.0  # as LiveCodeBench's
DEFAULT_MEMORY_MB = 1024
MAX_CPU_S = 250.0  # the sandbox gives an execution ten minutes at most, and a busy machine half a core
MAX_LISTED = 100
MAX_NOTED = 5
MAX_NAME_CHARS = 40
MAX_NOTE_CHARS = 200

T = TypeVar("T")


def _warm_up() -> None:
    shared_sandbox().warm_up()


@verifier("code", isolated=False, waits=True, warm_up=_warm_up, grades="answer")
def code(
    problem: Problem,
    rollout: Rollout,
    *,
    language: Language = "python",
    extract: Extract = "last_block",
    strict: bool = False,
    scoring: Scoring = "all",
    k: int = 1,
    which: Which = "all",
    challenge: bool = False,
    max_tests: int | None = None,
    time_limit_s: float | None = None,
    total_limit_s: float = 30.0,
    memory_limit_mb: int | None = None,
    imports: bool = True,
) -> Verdict:
    """Correct when the program in the response passes its tests, in the sandbox.

    The gold answer holds the tests, in the shapes of `code_tests`. `extract` says where the program stands: the last fenced block
    (of several, the last that defines the function asked for), the first, all of them joined, the answer tag, or the whole
    response; `strict` wants a closed block behind thinking that ended. A response to a HumanEval prompt may be the function or
    its body.

    `scoring`: "all" tests must pass; "fraction" gives the share that do; "first_k" runs the first `k` alone, and all must pass.
    `which` keeps to public or private tests, `max_tests` to so many, spread evenly; `challenge` adds MBPP's. `time_limit_s` is
    CPU time for each test (wall-clock time may be twice as long) and `total_limit_s` for all of them; unset, `time_limit_s` and
    `memory_limit_mb` are what the tests say, or 6 s and 1 GiB. `imports` puts what LeetCode imports in front of submissions to
    JSON tests of calls.

    `language = "cpp"` (g++, C++17) is for programs that read standard input.
    """
    _check_settings(
        k=k,
        max_tests=max_tests,
        time_limit_s=time_limit_s,
        total_limit_s=total_limit_s,
        memory_limit_mb=memory_limit_mb,
    )
    found = read_tests(problem.answer, problem.metadata)
    picks = _Picks(which, k if scoring == "first_k" else None, max_tests, challenge=challenge)
    bounds = _bounds(found, time_limit_s, total_limit_s, memory_limit_mb, stops_at_failure=scoring != "fraction")
    subject = _subject(found.tests, problem, picks, bounds, language, has_imports=imports)
    extraction = extract_code(rollout.response, extract, language, is_strict=strict, entry_point=subject.entry_point)
    if extraction.code is None:
        return Verdict.unparsed(extraction.reason)
    shown = extraction.code.strip("\n")
    program = subject.assemble(extraction.code)
    reason = f"it does not define {subject.entry_point}" if program is None else unrunnable(program)
    if program is None or reason is not None:
        return Verdict.incorrect(shown, reason or "", kind=Kind.COMPILE_ERROR.value)
    return _verdict(subject.run(shared_sandbox(), program), shown, scoring)


@dataclass(frozen=True, slots=True)
class _Picks:
    """Which of a problem's tests are run."""

    which: Which
    first: int | None
    at_most: int | None
    challenge: bool

    def of(self, tests: Sequence[T], is_public: Callable[[int], bool]) -> list[T]:
        """
        Raises:
            VerifierError: none is left.
        """
        indices = [i for i in range(len(tests)) if self.which == "all" or is_public(i) == (self.which == "public")]
        if not indices:
            raise VerifierError(f"none of the {len(tests)} tests is {self.which}")
        if self.first is not None:
            indices = indices[: self.first]
        if self.at_most is not None and len(indices) > self.at_most:
            last = len(indices) - 1
            indices = [indices[round(i * last / max(1, self.at_most - 1))] for i in range(self.at_most)]
        return [tests[i] for i in indices]


@dataclass(frozen=True, slots=True)
class _Subject:
    """How to make a submission a program (None: it is none), and how to run it against the chosen tests."""

    entry_point: str
    assemble: Callable[[str], str | None]
    run: Callable[[Sandbox, str], Run]


def _subject(tests: Tests, problem: Problem, picks: _Picks, bounds: Bounds, language: Language, *, has_imports: bool) -> _Subject:
    if isinstance(tests, IoTests):
        return _of_programs(tests, picks, bounds, language)
    if language != "python":
        raise VerifierError(
            f"language = {language!r} is for programs that read standard input; these tests call Python functions"
        )
    if isinstance(tests, CallTests):
        return _of_calls(tests, picks, bounds, has_imports=has_imports)
    if isinstance(tests, AssertTests):
        return _of_asserts(tests, picks, bounds)
    return _of_humaneval(tests, problem, picks, bounds)


def _of_programs(tests: IoTests, picks: _Picks, bounds: Bounds, language: Language) -> _Subject:
    cases = picks.of(tests.cases, lambda index: tests.cases[index].is_public)

    def run(sandbox: Sandbox, program: str) -> Run:
        return run_programs(sandbox, program, language, cases, tests.checker, bounds)

    return _Subject("", lambda text: text, run)


def _of_calls(tests: CallTests, picks: _Picks, bounds: Bounds, *, has_imports: bool) -> _Subject:
    cases = picks.of(tests.cases, lambda index: tests.cases[index].is_public)
    called = [_call_test(case, tests) for case in cases]

    def assemble(text: str) -> str | None:
        if not defines(text, tests.function):
            return None  # some of the imports define functions, too: a submission shall not pass by their names
        return with_imports(text) if has_imports else text

    return _Subject(
        tests.function, assemble, lambda sandbox, program: run_calls(sandbox, program, tests.function, called, bounds)
    )


def _of_asserts(tests: AssertTests, picks: _Picks, bounds: Bounds) -> _Subject:
    everything = [*tests.asserts, *(tests.challenge if picks.challenge or not tests.asserts else ())]
    numbered = picks.of(list(enumerate(everything, 1)), lambda index: index < tests.public)
    names = [f"test {number}" for number, _ in numbered]
    asserts = tuple(source for _, source in numbered)
    lifted = lift_asserts(tests.setup, asserts)
    plan = plan_asserts(tests.setup, asserts) if lifted is None else None
    function = lifted.function if lifted is not None else plan.entry_points[0] if plan is not None else ""

    def run(sandbox: Sandbox, program: str) -> Run:
        if lifted is not None and (found := _lifted(sandbox, program, lifted.function, lifted.asserts, bounds)) is not None:
            return found
        return run_checks(sandbox, program, plan or plan_asserts(tests.setup, asserts), names, bounds)

    return _Subject(function, lambda text: text, run)


def _of_humaneval(tests: HumanEvalTests, problem: Problem, picks: _Picks, bounds: Bounds) -> _Subject:
    source = tests.prompt or prompt_source(problem, tests.entry_point) or ""
    before, signature = split_prompt(source, tests.entry_point)
    lifted = lift_check(tests.code, tests.entry_point)
    plan = plan_check(before, tests.code, tests.entry_point) if lifted is None else None
    asserts = picks.of(lifted.asserts if lifted is not None else (), lambda index: False) if lifted is not None else []
    if lifted is None:
        picks.of(["check"], lambda index: False)

    def assemble(text: str) -> str | None:
        return completed(text, before, signature, tests.entry_point) if signature or defines(text, tests.entry_point) else None

    def run(sandbox: Sandbox, program: str) -> Run:
        if lifted is not None and (found := _lifted(sandbox, program, lifted.function, asserts, bounds)) is not None:
            return found
        return run_checks(sandbox, program, plan or plan_check(before, tests.code, tests.entry_point), ["check"], bounds)

    return _Subject(tests.entry_point, assemble, run)


def _lifted(sandbox: Sandbox, program: str, function: str, asserts: Sequence[LiftedAssert], bounds: Bounds) -> Run | None:
    """None: what came back cannot be judged from plain values, so the tests must run beside the submission after all."""
    tests = [CallTest(f"test {number}", one.calls, _assert_rule(one)) for number, one in enumerate(asserts, 1)]
    try:
        return run_calls(sandbox, program, function, tests, bounds)
    except NeedsChecksError:
        return None


def _assert_rule(one: LiftedAssert) -> Callable[[Sequence[Plain]], str | None]:
    def decide(values: Sequence[Plain]) -> str | None:
        if one.holds(values):
            return None
        returned = ", ".join(show(value) for value in values)
        return f"returned {returned}, which fails `assert {clip(one.source, MAX_NOTE_CHARS)}`"

    return decide


def _call_test(case: CallCase, tests: CallTests) -> CallTest:
    from rlvr.sandbox.jobs import Call

    def decide(values: Sequence[Plain]) -> str | None:
        (value,) = values
        if any(json_equal(value, accepted, tests.float_tolerance) for accepted in case.accepted):
            return None
        given = ", ".join(show(argument) for argument in case.args)
        return f"{tests.function}({clip(given, MAX_NOTE_CHARS)}) returned {show(value)}, not {show(case.accepted[0])}"

    return CallTest(case.name, (Call(case.args),), decide)


# -- verdicts


def _verdict(run: Run, shown: str, scoring: Scoring) -> Verdict:
    total, passed = len(run.results), run.passed
    failed = next((result for result in run.results if not result.is_passed), None)
    details: dict[str, JSON] = {
        "kind": (failed.kind if failed is not None else Kind.PASSED).value,
        "passed": passed,
        "total": total,
        "route": run.route.value,
        "image": run.image,
        "tests": _listed(run.results),
    }
    if failed is None:
        return Verdict.correct(shown, **details)
    said = f"{failed.name} of {total}: {failed.kind.value.replace('_', ' ')}" + (f": {failed.note}" if failed.note else "")
    if scoring != "fraction" or passed == 0:
        return Verdict.incorrect(shown, said, **details)
    return Verdict.partial(passed / total, shown, f"{passed} of {total} tests pass; {said}", **details)


def _listed(results: Sequence[TestResult]) -> list[JSON]:
    """The first tests, by name and kind; of the first that failed also what was seen."""
    listed: list[JSON] = []
    noted = 0
    for result in results[:MAX_LISTED]:
        entry: dict[str, JSON] = {"name": clip(result.name, MAX_NAME_CHARS), "kind": result.kind.value}
        if result.note and noted < MAX_NOTED:
            noted += 1
            entry["note"] = clip(result.note, MAX_NOTE_CHARS)
        listed.append(entry)
    return listed


# -- settings


def _check_settings(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"verifier 'code': setting {name} = {value}; it must be positive")


def _bounds(
    found: TestSet, time_limit_s: float | None, total_limit_s: float, memory_limit_mb: int | None, *, stops_at_failure: bool
) -> Bounds:
    test_s = min(time_limit_s or found.time_limit_s or DEFAULT_TEST_S, MAX_CPU_S)
    total_s = min(max(total_limit_s, test_s), MAX_CPU_S)  # tests that say how long one may take mean each of them
    return Bounds(test_s, total_s, memory_limit_mb or found.memory_limit_mb or DEFAULT_MEMORY_MB, stops_at_failure)
