"""`rlvr.grade` and the blocking grader: from any thread, inside a running loop, after a fork, through pickle."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import rlvr
from rlvr.errors import ConfigError, PluginError
from rlvr.types import Outcome, Problem, Rollout, Verdict
from rlvr.verifiers import api
from rlvr.verifiers.api import BlockingGrader, grade, grade_all, shared_grader
from rlvr.verifiers.background import background
from rlvr.verifiers.base import verifier
from rlvr.verifiers.runner import Grader, WeightedVerifier

SAME_TEXT = f"{Path(__file__).parent / 'plugins' / 'same_text.py'}:same_text"


def rollout(response: str, answer: str = "72") -> Rollout:
    return Rollout.from_response(Problem("p", (), answer), response)


@pytest.fixture(scope="module")
def grader() -> Iterator[BlockingGrader]:
    with BlockingGrader([WeightedVerifier(SAME_TEXT)], workers=1) as grader:
        yield grader


def worker_pids(grader: BlockingGrader) -> list[int]:
    pool = grader._grader._pool
    return [] if pool is None else [worker.process.pid for worker in pool._all]


def test_grade_is_one_call_with_the_verifier_s_settings() -> None:
    assert rlvr.grade("so <answer>72</answer>", "72", "number").outcome is Outcome.CORRECT
    assert rlvr.grade(r"\boxed{71} or <answer>72</answer>", "72", "number", extract="boxed").outcome is Outcome.INCORRECT


def test_others_get_their_turn_while_verdicts_come_without_waiting() -> None:
    async def turns_of_another() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        async with Grader([WeightedVerifier("number")]) as grader:
            await grade_all(grader, [rollout("<answer>72</answer>") for _ in range(50)], at_once=2)
        task.cancel()
        return turns

    assert asyncio.run(turns_of_another()) >= 10


def test_an_unknown_verifier_or_setting_is_an_error_not_a_verdict() -> None:
    with pytest.raises(PluginError, match="did you mean 'math'"):
        grade("72", "72", "maths")
    with pytest.raises(ConfigError, match="no setting 'extracts'"):
        grade("72", "72", "number", extracts="boxed")


def test_grade_works_inside_a_running_event_loop() -> None:
    async def notebook_cell() -> Verdict:
        return grade("<answer>72</answer>", "72", "number")

    assert asyncio.run(notebook_cell()).outcome is Outcome.CORRECT


def test_the_workers_stay_alive_between_calls_and_end_with_close() -> None:
    with BlockingGrader([WeightedVerifier(SAME_TEXT)], workers=1) as grader:
        first = [rollout("72"), rollout("71")]
        grader.grade(first)
        assert [one.reward for one in first] == [1.0, 0.0]
        pids = worker_pids(grader)
        grader.grade([rollout("72")])
        assert worker_pids(grader) == pids
        assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_many_threads_share_one_grader(grader: BlockingGrader) -> None:
    with ThreadPoolExecutor(8) as threads:
        batches = [[rollout(str(number), "3")] for number in range(16)]
        list(threads.map(grader.grade, batches))
    assert [batch[0].reward for batch in batches] == [float(number == 3) for number in range(16)]


def test_close_waits_for_the_calls_under_way(grader: BlockingGrader) -> None:
    batch = [rollout(str(number), "3") for number in range(50)]
    other = threading.Thread(target=grader.grade, args=(batch,))
    other.start()
    while not grader._calls and other.is_alive():
        time.sleep(0)
    grader.close()
    other.join()
    assert sum(one.reward or 0.0 for one in batch) == 1.0
    assert all(one.is_scored for one in batch)


def test_equal_arguments_share_a_grader_and_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_SHARED", 2)
    monkeypatch.setattr(api, "_shared", type(api._shared)())
    first = shared_grader("number", {})
    assert shared_grader("number", {}) is first
    shared_grader("number", {"extract": "boxed"})
    shared_grader("exact", {})
    assert shared_grader("number", {}) is not first
    assert len(api._shared) == 2


def test_a_pickled_grader_is_a_new_one_with_the_same_settings(grader: BlockingGrader) -> None:
    copy = pickle.loads(pickle.dumps(grader))  # noqa: S301
    assert copy.provenance() == grader.provenance()
    assert copy is not grader


@pytest.mark.usefixtures("own_plugins")
def test_a_verifier_that_waits_for_another_one_is_an_error_instead_of_a_deadlock() -> None:
    @verifier("nested", isolated=False)
    def nested(problem: Problem, rollout: Rollout) -> Verdict:
        return grade(rollout.response, problem.answer, "number")

    verdict = grade("72", "72", "nested")
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "declare it isolated=True" in verdict.reason


FORK = """
import os, sys
from rlvr.types import Problem, Rollout
from rlvr.verifiers.api import BlockingGrader
from rlvr.verifiers.runner import Grader, WeightedVerifier

grader = BlockingGrader([WeightedVerifier(sys.argv[1])], workers=1)
def reward():
    rollout = Rollout.from_response(Problem("p", (), "72"), "72")
    grader.grade([rollout])
    return rollout.reward
assert reward() == 1.0
before = [worker.process.pid for worker in grader._grader._pool._all]
child = os.fork()
if child == 0:
    os._exit(0 if reward() == 1.0 and [w.process.pid for w in grader._grader._pool._all] != before else 1)
assert os.waitpid(child, 0)[1] == 0, "the child could not grade"
assert reward() == 1.0, "the parent's worker was hurt"
assert [worker.process.pid for worker in grader._grader._pool._all] == before
print(before[0])
"""


@pytest.mark.processes
def test_a_forked_child_grades_with_its_own_workers_and_nothing_outlives_the_process() -> None:
    answer = subprocess.run([sys.executable, "-c", FORK, SAME_TEXT], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(answer.stdout), 0)


def test_the_end_of_the_process_cancels_what_still_runs() -> None:
    started = threading.Event()
    cancelled = threading.Event()

    async def long() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def wait() -> None:
        with pytest.raises(concurrent.futures.CancelledError):
            background().run(long())

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(60)
    background().stop()
    thread.join(60)
    assert cancelled.is_set()
