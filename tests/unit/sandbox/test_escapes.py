"""The self-test is known to bite: a sandbox in which something gets through is told so."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox import escapes
from rlvr.sandbox.escapes import ESCAPES, run_escapes
from rlvr.sandbox.jobs import Calls, Checks, Execution, Job, Limits, Program, Returned, Sandbox, Session, Status

HELD = Execution(Status.EXITED, image="sha256:1")


class OneSandbox:
    """Answers harmless programs as it should, and attempts by `answer`; where that gives None, nothing gets through."""

    capacity = 1

    def __init__(self, answer: Callable[[Job], Execution | None] | None = None, *, harmless: Execution | None = None) -> None:
        self.answer = answer or (lambda job: None)
        self.harmless = harmless
        self.tried: list[Job] = []

    def execute(self, job: Job, limits: Limits = escapes.QUICK, *, run: str = "") -> Execution:
        if isinstance(job, Program) and "6 * 7" in job.code:
            return self.harmless or replace(HELD, stdout=b"42 []\n")
        if isinstance(job, Program) and "isdir" in job.code and "rlvr-escape" not in job.code and "tried" not in job.code:
            return self.answer(job) or replace(HELD, stdout=b"False\n")
        self.tried.append(job)
        given = self.answer(job)
        if given is not None:
            return given
        return replace(HELD, status=Status.TIMED_OUT) if isinstance(job, Program) and "SIG_IGN" in job.code else HELD

    async def run(self, job: Job, limits: Limits = escapes.QUICK, *, run: str = "") -> Execution:
        return self.execute(job, limits, run=run)

    async def open_session(self, limits: Limits = escapes.QUICK, *, run: str = "", idle_s: float = 600.0) -> Session:
        raise NotImplementedError

    def close(self) -> None:
        pass


def through(sandbox: Sandbox) -> dict[str, str]:
    return {outcome.name: outcome.detail for outcome in run_escapes(sandbox) if not outcome.is_contained}


def test_a_sandbox_that_holds_stops_every_attempt() -> None:
    sandbox = OneSandbox()
    assert through(sandbox) == {}
    assert len(sandbox.tried) >= len(ESCAPES)


def test_what_an_attempt_prints_got_through() -> None:
    def answer(job: Job) -> Execution | None:
        is_network = isinstance(job, Program) and "1.1.1.1" in job.code
        return replace(HELD, stdout=b"reached ('1.1.1.1', 53)\n") if is_network else None

    assert through(OneSandbox(answer)) == {"network": "reached ('1.1.1.1', 53)"}


def test_an_assert_that_passes_without_a_solution_got_through() -> None:
    def answer(job: Job) -> Execution | None:
        return replace(HELD, passed=(True,)) if isinstance(job, Checks) and "__eq__" in job.code else None

    assert through(OneSandbox(answer)) == {"always equal": "a submission that solves nothing passed an assert"}


def test_an_expected_value_that_comes_back_got_through() -> None:
    leaked: list[int] = []

    def answer(job: Job) -> Execution | None:
        if isinstance(job, Checks):
            (comparison,) = [node for node in ast.walk(ast.parse(job.tests[0])) if isinstance(node, ast.Compare)]
            leaked.append(ast.literal_eval(comparison.comparators[0]))
        if isinstance(job, Calls) and "_getframe" in job.code:
            return replace(HELD, returned=(Returned(leaked[-1]),))
        return None

    assert through(OneSandbox(answer)) == {"frames": "a submission that solves nothing returned what was expected"}
    assert len(set(leaked)) == len(leaked), "every attempt is asked for another number"


def test_a_program_that_outlives_its_limit_got_through() -> None:
    ended = OneSandbox(lambda job: HELD if isinstance(job, Program) and "while time.monotonic() < end" in job.code else None)
    assert list(through(ended)) == ["no end"]


def test_output_beyond_the_limit_got_through() -> None:
    flood = replace(HELD, stdout=b"x" * (3 * escapes.QUICK.output_bytes))
    sandbox = OneSandbox(lambda job: flood if isinstance(job, Program) and 'b"flood"' in job.code else None)
    assert list(through(sandbox)) == ["flood"]


def test_a_slot_that_is_no_longer_clean_got_through() -> None:
    sandbox = OneSandbox()

    def leave_a_file(job: Job) -> None:
        if isinstance(job, Program) and "left-behind" in job.code:
            sandbox.harmless = replace(HELD, stdout=b"42 ['left-behind']\n")

    sandbox.answer = leave_a_file
    found = through(sandbox)
    assert "left-behind" in found["left behind"]
    assert "network" not in found, "what was tried before it was stopped"


def test_a_sandbox_that_runs_nothing_is_an_error() -> None:
    with pytest.raises(SandboxError, match="the sandbox does not work: a harmless program ended as killed"):
        run_escapes(OneSandbox(harmless=replace(HELD, status=Status.KILLED)))


@pytest.mark.parametrize("seen", [replace(HELD, stdout=b"True\n"), replace(HELD, stdout=b"False\n", image="unsafe")])
def test_nothing_is_tried_where_nothing_would_be_stopped(seen: Execution) -> None:
    sandbox = OneSandbox(lambda job: seen)
    with pytest.raises(SandboxError, match="nothing would be stopped, so nothing is tried"):
        run_escapes(sandbox)
    assert sandbox.tried == []


def test_no_attempt_kills_removes_or_overwrites_what_is_not_its_own() -> None:
    """They run on users' machines, in a sandbox that may turn out to be broken."""
    for name, code in vars(escapes).items():
        if isinstance(code, str) and name.isupper() and name.startswith("_"):
            assert "SIGKILL" not in code, name
            assert "SIGTERM)" not in code, name
            assert "rmtree" not in code, name
            assert "while True" not in code, f"{name} has no end of its own"


def test_every_attempt_is_python_that_compiles() -> None:
    sandbox = OneSandbox()
    run_escapes(sandbox)
    for job in sandbox.tried:
        assert not isinstance(job, Program | Calls | Checks) or compile(job.code, "attempt", "exec")
