"""Run a submission against tests in the sandbox, by the route on which it cannot forge the result.

- calls: the functions' values come back as plain data and are compared here;
- program, binary: what was printed is compared here;
- checks: the tests run in a process of another user, which asks the submission's process for plain values.

Expected values and checking code never enter the process of the submission.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from rlvr.errors import VerifierError
from rlvr.sandbox.jobs import (
    Binary,
    Call,
    Calls,
    Checks,
    Compile,
    Execution,
    Failure,
    Job,
    Limits,
    Plain,
    Program,
    Returned,
    Sandbox,
    Status,
)
from rlvr.verifiers.call import clip
from rlvr.verifiers.code_checkers import Checker, difference
from rlvr.verifiers.code_checks import CheckPlan
from rlvr.verifiers.code_extract import Language
from rlvr.verifiers.code_tests import IoCase

WALL_PER_CPU = 2.0  # a busy machine gives a process half a core: CPU time is what is limited first
WALL_SLACK_S = 2.0
MAX_WALL_S = 600.0
AT_ONCE = 4
COMPILE_CPU_S = 30.0
COMPILE_MEMORY_MB = 2048
MAX_NOTE_CHARS = 300
NEARLY = 0.9  # of its CPU time: a submission that vanished after so much of it was ended by the limit

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")
_SYNTAX_ERRORS = frozenset({"SyntaxError", "IndentationError", "TabError", "CompileError"})


class Kind(StrEnum):
    """What a test found."""

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    COMPILE_ERROR = "compile_error"
    TIME_OUT = "time_out"
    OUT_OF_MEMORY = "out_of_memory"
    TRUNCATED_OUTPUT = "truncated_output"
    NOT_RUN = "not_run"  # an earlier test settled the verdict, or took the submission's process with it


class Route(StrEnum):
    """How a submission was asked."""

    CALLS = "calls"
    CHECKS = "checks"
    PROGRAM = "program"
    BINARY = "binary"


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test; `note` says what was seen where it failed."""

    name: str
    kind: Kind
    note: str = ""

    __test__ = False  # not one of pytest's

    @property
    def is_passed(self) -> bool:
        return self.kind is Kind.PASSED


@dataclass(frozen=True, slots=True)
class Run:
    """Every selected test, in order, and where they ran."""

    results: tuple[TestResult, ...]
    route: Route
    image: str = ""

    @property
    def passed(self) -> int:
        return sum(result.is_passed for result in self.results)


@dataclass(frozen=True, slots=True)
class CallTest:
    """A test that is decided by what its calls return: `decide` gives what is wrong, or None."""

    name: str
    calls: tuple[Call, ...]
    decide: Callable[[Sequence[Plain]], str | None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """CPU seconds of a test and of all of them, and memory. `stops_at_failure`: one failure settles the verdict."""

    test_s: float
    total_s: float
    memory_mb: int
    stops_at_failure: bool = True

    def limits(self, cpu_s: float, *, call_s: float | None = None, output_bytes: int = 65_536) -> Limits:
        return Limits(
            wall_s=min(MAX_WALL_S, WALL_PER_CPU * cpu_s + WALL_SLACK_S),
            cpu_s=cpu_s,
            call_s=call_s,
            memory_mb=self.memory_mb,
            file_mb=max(16, 1 + output_bytes // 2**19),
            output_bytes=output_bytes,
        )

    def of_tests(self, count: int) -> Limits:
        """For `count` tests in one process."""
        return self.limits(min(self.total_s, self.test_s * count), call_s=WALL_PER_CPU * self.test_s)


def run_calls(sandbox: Sandbox, code: str, function: str, tests: Sequence[CallTest], bounds: Bounds) -> Run:
    """All tests in one process, in order; where one failure settles the verdict, a call that takes too long is the last.

    Raises:
        SandboxError: the sandbox failed.
        NeedsChecksError: a rule cannot be decided from plain values.
    """
    calls = tuple(call for test in tests for call in test.calls)
    done = sandbox.execute(Calls(code, function, calls, bounds.stops_at_failure), bounds.of_tests(len(tests)))
    is_late = bounds.stops_at_failure and bool(done.returned) and _is_late(done.returned[-1])
    results: list[TestResult] = []
    start = 0
    for test in tests:
        returned = done.returned[start : start + len(test.calls)]
        results.append(_called(test, returned, done, bounds, is_cut=is_late or start > len(done.returned)))
        start += len(test.calls)
    return Run(tuple(results), Route.CALLS, done.image)


def run_checks(sandbox: Sandbox, code: str, plan: CheckPlan, names: Sequence[str], bounds: Bounds) -> Run:
    """Test code in a process of its own. `names` are those of the tests, and of `finish` where there is one.

    Raises:
        SandboxError: the sandbox failed.
        VerifierError: the tests are broken, or want to hand over what cannot leave their process.
    """
    job = Checks(code, plan.entry_points, plan.tests, plan.setup, plan.finish)
    limits = bounds.of_tests(len(names))
    done = sandbox.execute(job, limits)
    if not done.is_checked and done.status is Status.EXITED:
        if done.unsupported:
            raise VerifierError(f"the tests cannot run apart from the submission: {done.unsupported}")
        cause = f"{done.failure.kind}: {done.failure.message}" if done.failure is not None else "their setup failed"
        raise VerifierError(f"the tests are broken: {clip(cause, MAX_NOTE_CHARS)}")
    results: list[TestResult] = []
    for index, name in enumerate(names):
        failure = done.check_failures[index] if index < len(done.check_failures) else None
        if index < len(done.passed):
            results.append(
                _checked(name, failure, bounds, is_passed=done.passed[index], is_spent=done.cpu_s >= NEARLY * limits.cpu_s)
            )
        elif done.unsupported and all(result.is_passed for result in results):
            raise VerifierError(f"the tests cannot run apart from the submission: {done.unsupported}")
        else:
            results.append(_unfinished(name, done, bounds, is_first=index == len(done.passed) and all(done.passed)))
    return Run(tuple(results), Route.CHECKS, done.image)


def run_programs(
    sandbox: Sandbox, code: str, language: Language, cases: Sequence[IoCase], checker: Checker, bounds: Bounds
) -> Run:
    """A process for each case: one after the other up to the first failure, or else all of them, a few at a time.

    Raises:
        SandboxError: the sandbox failed.
    """
    if language == "python":
        return _run_cases(sandbox, lambda case: Program(code, case.input), cases, checker, bounds, Route.PROGRAM)
    limits = replace(bounds.limits(COMPILE_CPU_S), memory_mb=max(COMPILE_MEMORY_MB, bounds.memory_mb), file_mb=64)
    compiled = sandbox.execute(Compile(code), limits)
    if not compiled.binary or compiled.failure is not None or compiled.status is not Status.EXITED:
        cause = compiled.failure.message if compiled.failure is not None else f"the compiler ended with {compiled.status}"
        first = TestResult(cases[0].name, Kind.COMPILE_ERROR, clip(cause.strip(), MAX_NOTE_CHARS))
        return Run((first, *_not_run(cases[1:])), Route.BINARY, compiled.image)
    binary = compiled.binary
    return _run_cases(sandbox, lambda case: Binary(binary, case.input), cases, checker, bounds, Route.BINARY)


# -- programs


class _Budget:
    """What is left of the time of all tests. Threads may lose a race for its rest: each is bounded by its own test's limit."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    def spend(self, done: Execution) -> None:
        self.left_s -= max(done.cpu_s, (done.wall_s - WALL_SLACK_S) / WALL_PER_CPU)


def _run_cases(
    sandbox: Sandbox,
    job_of: Callable[[IoCase], Job],
    cases: Sequence[IoCase],
    checker: Checker,
    bounds: Bounds,
    route: Route,
) -> Run:
    budget = _Budget(bounds.total_s)
    images: list[str] = []

    def run(case: IoCase) -> TestResult:
        if budget.left_s <= 0:
            return TestResult(case.name, Kind.TIME_OUT, f"the tests before it used up the {bounds.total_s:g} s of all tests")
        limits = bounds.limits(min(bounds.test_s, budget.left_s), output_bytes=max(65_536, 2 * len(case.output) + 4096))
        done = sandbox.execute(job_of(case), limits)
        budget.spend(done)
        images.append(done.image)
        return _printed(case, done, checker, bounds)

    if bounds.stops_at_failure:
        results = list(_up_to_failure(run, cases))
    else:
        with ThreadPoolExecutor(min(AT_ONCE, len(cases)), thread_name_prefix="rlvr-cases") as executor:
            results = list(executor.map(run, cases))
    return Run((*results, *_not_run(cases[len(results) :])), route, images[0] if images else "")


def _up_to_failure(run: Callable[[IoCase], TestResult], cases: Iterable[IoCase]) -> Iterable[TestResult]:
    for case in cases:
        result = run(case)
        yield result
        if not result.is_passed:
            return


def _printed(case: IoCase, done: Execution, checker: Checker, bounds: Bounds) -> TestResult:
    if not done.is_success:
        return _unfinished(case.name, done, bounds, is_first=True)
    if done.is_truncated:
        note = f"it printed {done.stdout_bytes} bytes, of which {len(done.stdout)} were kept; {len(case.output)} are expected"
        return TestResult(case.name, Kind.TRUNCATED_OUTPUT, note)
    found = difference(done.stdout, case.output, checker)
    return TestResult(case.name, Kind.PASSED) if found is None else TestResult(case.name, Kind.WRONG_ANSWER, found)


def _not_run(cases: Iterable[IoCase]) -> Iterable[TestResult]:
    return (TestResult(case.name, Kind.NOT_RUN) for case in cases)


# -- calls


def _called(test: CallTest, returned: Sequence[Returned], done: Execution, bounds: Bounds, *, is_cut: bool) -> TestResult:
    failure = next((one.failure for one in returned if one.failure is not None), None)
    if failure is not None:
        return TestResult(test.name, _kind_of_failure(failure), _said(failure))
    if len(returned) < len(test.calls):
        return _unfinished(test.name, done, bounds, is_first=not is_cut)
    found = test.decide([one.value for one in returned])
    if found is None:
        return TestResult(test.name, Kind.PASSED)
    return TestResult(test.name, Kind.WRONG_ANSWER, clip(found, MAX_NOTE_CHARS))


def _is_late(returned: Returned) -> bool:
    return returned.failure is not None and _kind_of_failure(returned.failure) is Kind.TIME_OUT


# -- checks


def _checked(name: str, failure: Failure | None, bounds: Bounds, *, is_passed: bool, is_spent: bool) -> TestResult:
    if is_passed:
        return TestResult(name, Kind.PASSED)
    if is_spent and failure is not None and failure.kind == "SubmissionGone":
        return TestResult(name, Kind.TIME_OUT, _too_slow(bounds))
    return TestResult(name, _kind_of_failure(failure, of_checks=True), _said(failure))


# -- how an execution ended


def _unfinished(name: str, done: Execution, bounds: Bounds, *, is_first: bool) -> TestResult:
    """A test that the execution did not get to, or that ended it."""
    if not is_first:
        return TestResult(name, Kind.NOT_RUN)
    if done.status is Status.TIMED_OUT:
        return TestResult(name, Kind.TIME_OUT, _too_slow(bounds))
    if done.status is Status.OUT_OF_MEMORY:
        return TestResult(name, Kind.OUT_OF_MEMORY, "it used more memory than it may")
    if done.failure is not None:
        return TestResult(name, _kind_of_failure(done.failure), _said(done.failure))
    if done.status is Status.KILLED:
        return TestResult(name, Kind.RUNTIME_ERROR, f"it was ended by signal {done.signal}")
    return TestResult(name, Kind.RUNTIME_ERROR, f"it ended with exit code {done.exit_code}")


def _too_slow(bounds: Bounds) -> str:
    return f"it takes longer than {bounds.test_s:g} s ({bounds.total_s:g} s for all tests)"


def _kind_of_failure(failure: Failure | None, *, of_checks: bool = False) -> Kind:
    if failure is None:
        return Kind.WRONG_ANSWER
    if failure.kind in _SYNTAX_ERRORS:
        return Kind.COMPILE_ERROR
    if failure.kind == "MemoryError":
        return Kind.OUT_OF_MEMORY
    if failure.kind == "TimeoutError":
        return Kind.TIME_OUT
    return Kind.WRONG_ANSWER if of_checks and failure.kind == "AssertionError" else Kind.RUNTIME_ERROR


def _said(failure: Failure | None) -> str:
    if failure is None:
        return ""
    said = f"{failure.kind}: {failure.message}" if failure.message else failure.kind
    return clip(_ADDRESS.sub("0x…", said), MAX_NOTE_CHARS)  # addresses differ from run to run, verdicts should not
