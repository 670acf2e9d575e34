"""How generation and update follow each other: in turn, or both at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from rlvr.engines.base import PushedEngine, RestingEngine, TrainableEngine, WeightUpdate
from rlvr.progress import PROGRESS
from rlvr.trainers.model.distributed import World
from rlvr.trainers.overlap.ahead import AheadCollector
from rlvr.trainers.overlap.beside import beside
from rlvr.trainers.overlap.staleness import staleness_metrics
from rlvr.trainers.overlap.timeline import Lane, Timeline
from rlvr.trainers.rollouts import Collected

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """When a step began, had its groups, and had updated; seconds on a common clock."""

    began: float
    collected: float
    updated: float


class Pace(Protocol):
    """What the loop does differently where rollouts are sampled while it updates."""

    is_interrupted: bool  # the run was cancelled while weights moved: the step is finished first

    def begin(self, step: int) -> None:
        """`step` updates are finished, and the next step waits for its groups."""
        ...

    async def compute(self, work: Callable[[], T]) -> T:
        """Run the update: the step has its groups."""
        ...

    async def hand_over(self) -> WeightUpdate | None:
        """Give the engine the new weights."""
        ...

    def metrics(self, found: Collected, times: StepTimes) -> dict[str, Any]:
        """Seconds of the step, and what else there is to say of it."""
        ...

    async def close(self) -> None: ...


class InTurn:
    """First generation, then the update: strictly on-policy, and in one thread."""

    is_interrupted = False

    def __init__(self, engine: TrainableEngine) -> None:
        self._engine = engine
        self._rest: Callable[[], None] = engine.rest if isinstance(engine, RestingEngine) else _nothing

    def begin(self, step: int) -> None:
        return None

    async def compute(self, work: Callable[[], T]) -> T:
        self._rest()
        return work()

    async def hand_over(self) -> WeightUpdate | None:
        with PROGRESS.uncounted():
            return self._engine.update_weights()

    def metrics(self, found: Collected, times: StepTimes) -> dict[str, Any]:
        return {
            "time_step_s": times.updated - times.began,
            "time_generate_s": times.collected - times.began,
            "time_update_s": times.updated - times.collected,
            "time_tokens_per_s": found.tally.tokens / (times.collected - times.began),
        }

    async def close(self) -> None:
        return None


def _nothing() -> None:
    return None


class AtTheSameTime:
    """The update in a thread, while the event loop samples and grades the groups of the next steps.

    An engine that can take weights between decoding steps gets them so; any other one is given nothing new to do until it has
    finished what it does, and gets them then. `threads` are the CPU threads of the update.

    Several ranks do so side by side: while one updates, so do all, and they hand their weights over at the same time.
    """

    def __init__(
        self,
        engine: TrainableEngine,
        collector: AheadCollector,
        timeline: Timeline,
        world: World,
        *,
        max_staleness: int,
        threads: int,
    ) -> None:
        self.is_interrupted = False
        self._engine, self._collector, self._timeline = engine, collector, timeline
        self._world = world
        self._max_staleness = max_staleness
        self._executor = ThreadPoolExecutor(1, "rlvr-update", initializer=_prepare_thread, initargs=(threads, world.device))
        self._step, self._began, self._weights_s = 0, 0.0, 0.0

    def begin(self, step: int) -> None:
        self._step, self._began = step, self._timeline.clock()
        self._collector.busy_s()  # what it did since the last step, during an evaluation for one, is not this step's

    async def compute(self, work: Callable[[], T]) -> T:
        self._timeline.add(Lane.WAIT, self._step + 1, self._began)
        began = self._timeline.clock()
        done = await self._in_thread(work)
        self._timeline.add(Lane.UPDATE, self._step + 1, began)
        return done

    async def hand_over(self) -> WeightUpdate | None:
        began = self._timeline.clock()
        updated: WeightUpdate | None = None
        if isinstance(self._engine, PushedEngine):
            with PROGRESS.uncounted():
                updated = await self._in_thread(self._engine.push_weights)
        elif await self._is_drained():
            with PROGRESS.uncounted():
                updated = await self._in_thread(self._engine.update_weights)
        await self._agree()
        self._weights_s = self._timeline.clock() - began
        if not self.is_interrupted:
            self._timeline.add(Lane.WEIGHTS, self._engine.policy_version, began)
            self._collector.arrived(self._engine.policy_version)
        return updated

    def metrics(self, found: Collected, times: StepTimes) -> dict[str, Any]:
        busy = self._collector.busy_s()
        elapsed = times.updated - times.began
        self._timeline.write(self._step + 1)
        return {
            "time_step_s": elapsed,
            "time_generate_s": busy,
            "time_update_s": times.updated - times.collected - self._weights_s,
            "time_tokens_per_s": found.tally.tokens / max(elapsed, 1e-9),
            "time_wait_s": times.collected - times.began,
            "time_generate_idle_s": max(0.0, elapsed - busy),
            "groups_stale": len(found.expired),
            **self._collector.metrics(),
            **staleness_metrics(found.kept, self._step, self._max_staleness),
        }

    async def close(self) -> None:
        await self._collector.close()
        self._executor.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # Nothing may be saved while the thread moves the weights.
        result, was_cancelled = await beside(work, self._executor)
        self.is_interrupted |= was_cancelled
        return result

    async def _is_drained(self) -> bool:
        """False if the run was cancelled meanwhile; the engine then keeps its old weights."""
        try:
            await self._collector.drained()
        except asyncio.CancelledError:
            self.is_interrupted = True
        await self._agree()
        return not self.is_interrupted

    async def _agree(self) -> None:
        """A run that was cancelled on one rank ends on all of them, after the same step."""
        if self._world.size > 1:
            own = self.is_interrupted or self._collector.is_ending
            flags = await self._in_thread(lambda: self._world.gather_lists([own]))
            self._collector.is_ending |= self.is_interrupted and not own  # heard too late for this time: said with the next step
            self.is_interrupted = self._world.ends_anywhere([flag for [flag] in flags])


def _prepare_thread(threads: int, device: torch.device | None) -> None:
    """OpenMP keeps the number of threads, and CUDA the device, for each thread that calls it."""
    torch.set_num_threads(threads)
    if device is not None and device.type == "cuda":
        torch.cuda.set_device(device)
