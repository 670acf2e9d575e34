"""Verifiers that wait for a sandbox run in threads: many at once, in order, with the event loop free."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.errors import PluginError, SandboxError, VerifierError
from rlvr.types import Outcome, Problem, Rollout
from rlvr.verifiers.api import BlockingGrader
from rlvr.verifiers.base import Verifier
from rlvr.verifiers.bulk import grade_lines
from rlvr.verifiers.runner import Grader, WeightedVerifier
from rlvr.verifiers.stream import verify_stream
from rlvr.verifiers.threads import Threads

PLUGINS = Path(__file__).parent / "plugins" / "waiting.py"
MEETS = WeightedVerifier(f"{PLUGINS}:meets_others")
IN_TURN = WeightedVerifier(f"{PLUGINS}:waits_its_turn")
WITHOUT = WeightedVerifier(f"{PLUGINS}:needs_sandbox")
TOGETHER = 8


def rollout(response: str) -> Rollout:
    return Rollout.from_response(Problem("p", (), "5"), response)


def outcomes(graded: list[Rollout]) -> set[Outcome | None]:
    return {one.verdict.outcome if one.verdict is not None else None for one in graded}


@pytest.fixture
def threads_of_graders() -> Callable[[], list[str]]:
    """The names of graders' threads that were started during the test; other tests' graders may still be open."""
    before = set(threading.enumerate())
    return lambda: [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("rlvr-verifier")]


def test_many_are_graded_at_once_while_the_event_loop_is_free(threads_of_graders: Callable[[], list[str]]) -> None:
    graded = [rollout(str(index)) for index in range(TOGETHER)]
    ticks = 0

    async def run() -> None:
        nonlocal ticks
        async with Grader([MEETS, WeightedVerifier("exact")]) as grader:
            assert grader.has_waiting
            assert not grader.has_isolated
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(grader.grade(one)) for one in graded]
                while not all(task.done() for task in tasks):
                    ticks += 1
                    await asyncio.sleep(0.001)

    asyncio.run(run())
    assert outcomes(graded) == {Outcome.CORRECT}
    assert all(list(one.verdicts) == ["meets_others", "exact"] for one in graded)
    assert {one.verdicts["meets_others"].extracted for one in graded} >= {f"rlvr-verifier_{n}" for n in range(TOGETHER)}
    assert ticks > 0
    assert not threads_of_graders()  # closed with the grader


def test_a_stream_comes_back_in_order() -> None:
    responses = [str(index) for index in range(20)]
    graded = list(verify_stream(IN_TURN, map(rollout, responses), workers=1))
    assert [one.verdicts["waits_its_turn"].extracted for one in graded] == responses


def test_bulk_grades_many_lines_at_once() -> None:
    lines = [f'{{"id": {index}, "answer": "5", "response": "x"}}\n' for index in range(TOGETHER)]
    graded = list(grade_lines(lines, "lines", MEETS, workers=1, timeout_s=5.0, alone_cpu_s=0.0))
    assert [one.outcomes for one in graded] == [{"correct": 1}] * TOGETHER


def test_a_blocking_grader_grades_many_at_once() -> None:
    graded = [rollout(str(index)) for index in range(TOGETHER)]
    with BlockingGrader([MEETS], workers=1) as grader:
        grader.grade(graded)
    assert outcomes(graded) == {Outcome.CORRECT}


def test_prepare_says_at_once_that_there_is_no_sandbox() -> None:
    with pytest.raises(SandboxError, match="no Docker engine answers"):
        Grader([WITHOUT]).prepare()
    gated = WeightedVerifier("gate", 1.0, {"of": WITHOUT.reference, "requires": ["format"]})
    with pytest.raises(SandboxError, match="no Docker engine answers"):
        Grader([WeightedVerifier("exact"), gated]).prepare()
    Grader([WeightedVerifier("exact"), IN_TURN]).prepare()


def test_a_sandbox_that_fails_is_no_score() -> None:
    one = rollout("5")
    with BlockingGrader([WITHOUT]) as grader:
        grader.grade([one])
    assert one.verdict is not None
    assert one.verdict.outcome is Outcome.VERIFIER_ERROR
    assert one.reward is None


def test_each_part_of_a_combination_runs_where_it_belongs() -> None:
    settings = {"of": [f"{PLUGINS}:tells_worker", MEETS.reference, "f1"]}
    mixed = WeightedVerifier("all_of", 1.0, settings)
    grader = Grader([mixed])
    assert grader.has_isolated
    assert grader.has_waiting
    graded = [rollout("5") for _ in range(TOGETHER)]
    with BlockingGrader([mixed], workers=2) as blocking:
        blocking.grade(graded)
    assert outcomes(graded) == {Outcome.CORRECT}
    isolated, waiting, here = (
        {one.verdict.details["parts"][part]["extracted"] for one in graded if one.verdict is not None} for part in range(3)
    )
    assert str(os.getpid()) not in isolated
    assert all(name.startswith("rlvr-verifier") for name in waiting)
    assert here == {"5"}


def test_a_closed_grader_gives_no_score() -> None:
    one = rollout("5")

    async def run() -> None:
        grader = Grader([IN_TURN])
        await grader.close()
        await grader.grade(one)

    asyncio.run(run())
    assert one.verdict is not None
    assert "was closed" in one.verdict.reason


def test_closing_leaves_a_verdict_behind_that_does_not_come() -> None:
    never, begun = threading.Event(), threading.Event()
    threads: Threads[str] = Threads(1, lambda: "refused")

    def wait() -> str:
        begun.set()
        never.wait(60.0)
        return "late"

    stuck, queued = threads.submit(wait), threads.submit(lambda: "done")
    assert begun.wait(60.0)
    threads.close(grace_s=0.05)
    assert queued.result(0) == "refused"
    assert threads.submit(lambda: "done").result(0) == "refused"
    assert not stuck.done()
    never.set()
    assert stuck.result(60.0) == "late"


def test_a_process_ends_although_a_verdict_does_not_come() -> None:
    code = "import threading, rlvr.verifiers.threads as t; t.Threads(1, str).submit(threading.Event().wait); print('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "end\n"


def test_threads_are_started_as_they_are_needed_and_used_again(threads_of_graders: Callable[[], list[str]]) -> None:
    threads: Threads[str] = Threads(4, lambda: "refused")
    names = set()
    for _ in range(50):
        names.add(threads.submit(lambda: threading.current_thread().name).result(60.0))
        while not threads._idle:  # it has not come back yet
            time.sleep(0)
    assert len(names) == 1
    threads.close(grace_s=60.0)
    assert not threads_of_graders()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("bad")])
def test_work_that_would_end_its_thread_is_an_error_and_the_next_is_done(error: BaseException) -> None:
    threads: Threads[str] = Threads(1, lambda: "refused")

    def leave() -> str:
        raise error

    with pytest.raises(VerifierError, match=type(error).__name__):
        threads.submit(leave).result(60.0)
    assert threads.submit(lambda: "done").result(60.0) == "done"
    threads.close(grace_s=60.0)


def test_a_verifier_is_isolated_or_waits_but_not_both() -> None:
    with pytest.raises(PluginError, match="waits=True, which is for isolated=False"):
        Verifier("both", lambda problem, rollout: None, waits=True)  # type: ignore[arg-type, return-value]
