"""Sharing requests among instances of vLLM, losing some of them, and bringing them back: with scripted instances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from rlvr.engines.vllm.pool import Pool
from rlvr.engines.vllm.request import Draw, ReplicaLostError, Request, Weights
from rlvr.errors import EngineError
from rlvr.types import Sampling

FIRST, SECOND = Weights("/memory/1", "run-1"), Weights("/memory/2", "run-2")
REQUEST = Request((1, 2), Sampling(4), 4, (0,))


class Scripted:
    """A replica that is lost `losses` times, each time while it answers, and starts at most `starts` times."""

    def __init__(self, name: str, *, losses: int = 0, starts: int = 99, finish: str = "stop") -> None:
        self.name = name
        self.losses = losses
        self.starts_left = starts
        self.finish = finish
        self.version: str | None = None
        self.log: list[str] = []
        self.busy = 0
        self.most_busy = 0

    async def start(self) -> None:
        self.log.append("start")
        if self.starts_left == 0:
            raise EngineError(f"{self.name} does not start")
        self.starts_left -= 1
        self.version = None

    async def draw(self, request: Request) -> Draw:
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(0)
        self.busy -= 1
        if self.losses:
            self.losses -= 1
            raise ReplicaLostError(f"{self.name} died")
        self.log.append("draw")
        return Draw((7,), (-0.5,), self.finish, self.version)

    async def load(self, weights: Weights) -> None:
        self.log.append(f"load {weights.version}")
        self.version = weights.version

    async def close(self) -> None:
        self.log.append("close")


def with_pool(replicas: Sequence[Scripted], work: Callable[[Pool], object], *, restarts: int = 3) -> Pool:
    async def main() -> Pool:
        pool = Pool(replicas, restarts=restarts)
        await pool.start(FIRST)
        try:
            await work(pool)  # type: ignore[misc]
        finally:
            await pool.close()
        return pool

    return asyncio.run(main())


def test_requests_are_shared_evenly() -> None:
    replicas = [Scripted("a"), Scripted("b"), Scripted("c")]
    with_pool(replicas, lambda pool: asyncio.gather(*(pool.draw(REQUEST) for _ in range(30))))
    assert [replica.most_busy for replica in replicas] == [10, 10, 10]


def test_what_a_lost_replica_was_asked_is_asked_again_and_it_comes_back_with_the_present_weights() -> None:
    lost, other = Scripted("lost", losses=5), Scripted("other")

    async def work(pool: Pool) -> None:
        await pool.load(SECOND)
        answers = await asyncio.gather(*(pool.draw(REQUEST) for _ in range(10)))
        assert {answer.version for answer in answers} == {"run-2"}
        assert len(answers) == 10

    pool = with_pool([lost, other], work)
    assert pool.restarts == 1
    assert lost.log[:5] == ["start", "load run-1", "load run-2", "start", "load run-2"]


def test_the_only_replica_is_waited_for() -> None:
    only = Scripted("only", losses=1)
    with_pool([only], lambda pool: pool.draw(REQUEST))
    assert only.log == ["start", "load run-1", "start", "load run-1", "draw", "close"]


def test_a_request_that_is_lost_three_times_is_given_up() -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(EngineError, match="a request was lost 3 times; the last time: only died"):
            await pool.draw(REQUEST)

    with_pool([Scripted("only", losses=9)], work)


def test_an_answer_that_vllm_broke_off_is_asked_for_again_and_never_returned() -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(EngineError, match="only gave up with 'abort'"):
            await pool.draw(REQUEST)

    pool = with_pool([Scripted("only", finish="abort")], work)
    assert pool.restarts == 0


def test_restarts_are_bounded_and_then_the_reason_is_told_at_once() -> None:
    async def work(pool: Pool) -> None:
        for _ in range(2):
            with pytest.raises(EngineError, match=r"no instance of vLLM is left: only died \(it was brought back as often as"):
                await pool.draw(REQUEST)

    only = Scripted("only", losses=99)
    assert with_pool([only], work, restarts=1).restarts == 1
    assert only.log.count("start") == 2


def test_a_replica_that_does_not_come_back_says_why() -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(EngineError, match="no instance of vLLM is left: only does not start"):
            await pool.draw(REQUEST)

    with_pool([Scripted("only", losses=1, starts=1)], work)


def test_answers_of_other_weights_are_thrown_away() -> None:
    """A server that was started again has the weights that it was started with, and answers as if nothing had happened."""
    only = Scripted("only")

    async def work(pool: Pool) -> None:
        only.version = "default"
        assert (await pool.draw(REQUEST)).version == "run-1"

    assert with_pool([only], work).restarts == 1


async def until_recovered(pool: Pool) -> None:
    await asyncio.gather(*(member.recovery for member in pool._members if member.recovery is not None))


def test_weights_that_come_while_a_replica_starts_are_not_missed() -> None:
    class Slow(Scripted):
        async def load(self, weights: Weights) -> None:
            await asyncio.sleep(0.01)
            await super().load(weights)

    slow, other = Slow("slow", losses=1), Scripted("other")

    async def work(pool: Pool) -> None:
        await asyncio.gather(pool.draw(REQUEST), pool.draw(REQUEST))
        assert pool.restarts == 1
        await pool.load(SECOND)
        await until_recovered(pool)
        assert set(await pool.draw_on_each([REQUEST])) == {"slow", "other"}

    with_pool([slow, other], work)
    assert slow.version == "run-2"


def test_weights_that_are_gone_because_newer_ones_came_are_no_reason_to_give_a_replica_up() -> None:
    class Late(Scripted):
        async def load(self, weights: Weights) -> None:
            if self.log.count("start") == 2 and weights is FIRST:
                await asyncio.sleep(0.02)
                raise EngineError("no such file")
            await super().load(weights)

    late, other = Late("late", losses=1), Scripted("other")

    async def work(pool: Pool) -> None:
        await asyncio.gather(pool.draw(REQUEST), pool.draw(REQUEST))
        await asyncio.sleep(0.01)
        await pool.load(SECOND)
        await until_recovered(pool)
        assert set(await pool.draw_on_each([REQUEST])) == {"late", "other"}

    with_pool([late, other], work)
    assert late.version == "run-2"


def test_a_replica_that_cannot_start_at_the_beginning_ends_it_all() -> None:
    with pytest.raises(EngineError, match="b does not start"):
        with_pool([Scripted("a"), Scripted("b", starts=0)], lambda pool: asyncio.sleep(0))
