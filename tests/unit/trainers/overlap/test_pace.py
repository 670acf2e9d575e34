"""Ranks that generate and update at the same time: an interruption of one of them, at any moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rlvr.engines.base import WeightUpdate
from rlvr.seeding import rng
from rlvr.trainers.model.distributed import World
from rlvr.trainers.overlap.pace import AtTheSameTime
from rlvr.trainers.overlap.timeline import Timeline

from .test_ahead import Runner, make, on_ranks

STEPS = 40


class Pushed:
    """An engine that takes weights at any time, together with those of the other ranks."""

    max_context = 64

    def __init__(self, runner: Runner, world: World) -> None:
        self._runner, self._world = runner, world
        self.policy_version = 0

    def push_weights(self) -> WeightUpdate:
        self._world.gather_lists([])
        self.policy_version += 1
        self._runner.version = self.policy_version
        return WeightUpdate(0.0, 0.0, 0.0)

    def update_weights(self) -> None:
        raise AssertionError("it need not be empty for weights")

    async def generate(self, prompt_ids: Any, sampling: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        return None


@pytest.mark.parametrize("seed", range(10))
def test_an_interruption_of_one_rank_at_any_moment_ends_all_after_the_same_step(seed: int) -> None:
    """As the loop does it: collect, compute in a thread, hand over; every rank has to come to every meeting of all."""

    def work(world: World) -> int:
        runner = Runner(lambda name: rng(seed, name).randint(1, 4))
        runner.turn_s = 0.002
        collector = make(runner, staleness=1, steps=STEPS, world=world)
        timeline = Timeline(None, time.monotonic)
        moment = rng("interruption", seed)
        first, is_near = moment.randrange(STEPS // 2), asyncio.Event()
        pace = AtTheSameTime(Pushed(runner, world), collector, timeline, world, max_staleness=1, threads=1)

        def update() -> None:
            world.gather_lists([])
            time.sleep(0.002)

        async def loop() -> int:
            try:
                for step in range(STEPS):
                    if step == first:
                        is_near.set()
                    try:
                        pace.begin(step)
                        await collector.collect(step)
                    except asyncio.CancelledError:
                        return step
                    await pace.compute(update)
                    await pace.hand_over()
                    if pace.is_interrupted:
                        return step + 1
                return STEPS
            finally:
                await pace.close()

        async def main() -> int:
            task = asyncio.create_task(loop())
            if world.rank == seed % 3:
                await is_near.wait()
                await asyncio.sleep(0.02 * moment.random())
                task.cancel()
            return await task

        return asyncio.run(main())

    ended = on_ranks(3, work)
    assert len(set(ended)) == 1
    assert ended[0] < STEPS
