"""Isolated verifiers on two 'nodes' of a Ray cluster: what holds for workers of one machine holds there, too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.integrations.ray_grading import RayPool
from rlvr.types import Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

PLUGINS = Path(__file__).parents[1] / "unit" / "verifiers" / "plugins" / "misbehaving.py"
LIMITS = {"workers": 2, "timeout_s": 5.0, "retries": 1, "memory_mb": 4096}

pytestmark = pytest.mark.processes


def rollout(response: str) -> Rollout:
    return Rollout.from_response(Problem("p", (Message("user", "?"),), "5"), response)


def graded(responses: Sequence[str], reference: str, timeout_s: float = 5.0, **settings: Any) -> list[Verdict]:
    rollouts = [rollout(response) for response in responses]

    async def run() -> None:
        verifier = WeightedVerifier(reference, 1.0, settings)
        async with (
            Grader([verifier], timeout_s=timeout_s, workers=2, make_pool=RayPool) as grader,
            asyncio.TaskGroup() as group,
        ):
            for item in rollouts:
                group.create_task(grader.grade(item))

    asyncio.run(run())
    return [next(iter(item.verdicts.values())) for item in rollouts]


def test_verdicts_come_from_workers_of_both_nodes_and_are_those_of_one_machine(cluster: Any) -> None:
    found = graded([f"\\boxed{{{number}}}" for number in range(12)], "math")
    assert [verdict.score for verdict in found] == [float(number == 5) for number in range(12)]
    everywhere = graded([f"answer {number}" for number in range(16)], f"{PLUGINS}:misbehaving")
    assert len({verdict.details["pid"] for verdict in everywhere}) > 2  # more than one node's two workers


def test_what_a_response_does_to_its_worker_stays_there(cluster: Any, tmp_path: Path) -> None:
    hang, end, error, fine, once = graded(
        ["hang", "exit", "raise", "fine", "die once"], f"{PLUGINS}:misbehaving", timeout_s=3.0, directory=str(tmp_path)
    )
    assert (fine.outcome, once.outcome) == (Outcome.CORRECT, Outcome.CORRECT)
    assert (hang.score, end.score, error.score) == (None, None, None)
    assert "took longer than 3 s" in hang.reason
    assert "last words" in end.reason


async def until_replaced(pool: RayPool, losses: int) -> None:
    deadline = time.monotonic() + 240.0
    while pool.losses < losses:
        assert time.monotonic() < deadline
        await pool.grade("mirror", f"{PLUGINS}:mirror", rollout("x"), {})


def test_an_actor_that_dies_is_replaced_and_its_work_is_done_again(cluster: Any) -> None:
    async def run() -> list[Verdict]:
        pool = RayPool([f"{PLUGINS}:mirror"], **LIMITS)  # type: ignore[arg-type]
        try:
            first = await pool.pids()
            assert len(first) == 2
            asked = [asyncio.create_task(pool.grade("mirror", f"{PLUGINS}:mirror", rollout(str(n)), {})) for n in range(24)]
            os.kill(first[0], signal.SIGKILL)
            found = await asyncio.gather(*asked)
            await until_replaced(pool, 1)
            assert first[0] not in await pool.pids()
            return found
        finally:
            await pool.close()

    found = asyncio.run(run())
    assert [(verdict.score, verdict.extracted) for verdict in found] == [(0.5, str(number)) for number in range(24)]


async def busy_pids(pool: RayPool) -> list[int]:
    while not any(node.in_flight for node in pool._nodes.members):
        await asyncio.sleep(0.05)
    return [await node.handle.pid.remote() for node in pool._nodes.members if node.in_flight]


def test_work_that_was_lost_twice_has_no_score(cluster: Any) -> None:
    async def run() -> Verdict:
        pool = RayPool([f"{PLUGINS}:misbehaving"], **{**LIMITS, "timeout_s": 60.0})  # type: ignore[arg-type]
        try:
            asked = asyncio.create_task(pool.grade("misbehaving", f"{PLUGINS}:misbehaving", rollout("hang"), {}))
            for losses in (1, 2):
                (busy,) = await busy_pids(pool)
                os.kill(busy, signal.SIGKILL)
                while pool.losses < losses:
                    await asyncio.sleep(0.05)
            return await asked
        finally:
            await pool.close()

    verdict = asyncio.run(run())
    assert verdict.score is None
    assert "a grading actor was lost" in verdict.reason
    assert "2 attempts" in verdict.reason


def test_chunks_of_lines_are_graded_on_the_cluster(cluster: Any) -> None:
    lines = ['{"prompt": "?", "response": "4", "answer": "4"}', '{"prompt": "?", "response": "5", "answer": "4"}']

    async def run(**where: Any) -> Any:
        async with Grader([WeightedVerifier("exact")], **where) as grader:
            return await grader.grade_chunk(lines, "lines", 1)

    assert asyncio.run(run(make_pool=RayPool)) == asyncio.run(run())
