"""Groups are sampled ahead of the update, in a bounded queue: nothing that is trained on is older than the recipe allows."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.config import RunConfig
from rlvr.envs.rollout import RolloutRunner
from rlvr.evaluation.ledger import rollout_from_json, rollout_to_json
from rlvr.filtering.curriculum import Curriculum, StarvedError
from rlvr.filtering.posterior import SolveRates
from rlvr.seeding import Part
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.model.distributed import World
from rlvr.trainers.overlap.staleness import oldest_version
from rlvr.trainers.overlap.timeline import Lane, Timeline
from rlvr.trainers.rollouts import Collected, Collector, repeats, scored_group
from rlvr.types import Group, Problem, Sampling


@dataclass(frozen=True, slots=True)
class _Draw:
    """A group that was asked for: which problem, with which seeds, and how many updates there had been."""

    problem: Problem
    seed_parts: tuple[Part, ...]
    born: int


@dataclass(frozen=True, slots=True)
class _Landed:
    """A group whose rollouts have all been graded, waiting for the step that trains on it; `drop`: why none will."""

    group: Group
    born: int
    drop: str | None


class AheadCollector(Collector):
    """Samples all the time, as far ahead as `rollout.max_staleness` = k allows; a step gets its groups when they are there.

    With N groups in a step, at most (k + 1) N are asked for and not yet trained on when a step begins, k N while it updates: so
    many that the oldest is at most k updates old when its turn comes. Where there are as many, generation waits; it never has to
    throw away. A step takes the oldest groups that are there, and waits only for those that would be too old for the next step.
    Groups without signal make room for others at once, up to `max_refills` times N in a step.

    What is in flight when a run is saved is sampled again with the same seeds; what has landed is in the checkpoint.
    """

    def __init__(
        self,
        runner: RolloutRunner,
        curriculum: Curriculum,
        algorithm: Algorithm,
        recipe: RunConfig,
        sampling: Sampling,
        world: World,
        rates: SolveRates,
        *,
        problems: Sequence[Problem],
        version: int,
        timeline: Timeline,
    ) -> None:
        """`problems`: all that the curriculum may draw; `version`: updates so far."""
        super().__init__(runner, curriculum, algorithm, recipe, sampling, world, rates)
        self._problems = {problem.id: problem for problem in problems}
        self._timeline = timeline
        self._ahead = recipe.rollout.max_staleness
        self._wanted = recipe.rollout.problems_per_step
        self._version = self._taken = version  # what the engine has; steps that have their groups
        self._attempt = 0  # draws since the last update
        self._bursts = 0  # draws since the last step was taken
        self._serial = 0
        self._flights: dict[int, _Draw] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._landed: dict[int, _Landed] = {}
        self._written: dict[int, list[str]] = {}  # those of `_landed` as a checkpoint holds them
        self._starved: StarvedError | None = None
        self._broken: BaseException | None = None
        self._is_held = False
        self._changed = asyncio.Event()
        self._busy_s = self._busy_since = 0.0

    async def collect(self, step: int) -> Collected:
        self._taken = step
        self._depart()
        while not self._is_complete(step):
            self._changed.clear()
            await self._changed.wait()
            if self._broken is not None:
                raise self._broken
        found = self._take(step)
        if not found.groups and self._starved is not None:
            raise self._starved
        return found

    def arrived(self, version: int) -> None:
        """The engine has new weights."""
        self._version, self._attempt, self._is_held = version, 0, False
        self._depart()
        self._changed.set()

    async def drained(self) -> None:
        """Ask for nothing more until weights arrive, and wait for what is in flight."""
        self._is_held = True
        while self._flights:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Give up what is in flight. Harmless the second time."""
        tasks, self._tasks = list(self._tasks.values()), {}
        self._is_held = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def busy_s(self) -> float:
        """Seconds in which anything was in flight, since this was asked last."""
        now = self._timeline.clock()
        if self._tasks:
            self._busy_s += now - self._busy_since
            self._busy_since = now
        busy, self._busy_s = self._busy_s, 0.0
        return busy

    def metrics(self) -> dict[str, float]:
        useful = sum(one.drop is None for one in self._landed.values())
        return {"groups_waiting": float(useful), "groups_in_flight": float(len(self._flights))}

    def state_dict(self) -> dict[str, Any]:
        flights = [[serial, draw.problem.id, list(draw.seed_parts)] for serial, draw in self._flights.items()]
        for serial, one in self._landed.items():
            if serial not in self._written:  # a loop asks after every step, and a group may wait for several
                self._written[serial] = [json.dumps(rollout_to_json(rollout)) for rollout in one.group.rollouts]
        landed = [[serial, one.born, one.drop, self._written[serial]] for serial, one in self._landed.items()]
        return {"serial": self._serial, "attempt": self._attempt, "flights": flights, "landed": landed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What was in flight begins anew, with the weights of now."""
        self._serial, self._attempt = state["serial"], state["attempt"]
        for serial, problem_id, seed_parts in state["flights"]:
            self._flights[serial] = _Draw(self._problems[problem_id], tuple(seed_parts), self._version)
        for serial, born, drop, rows in state["landed"]:
            rollouts = tuple(rollout_from_json(json.loads(row)) for row in rows)
            self._landed[serial] = _Landed(Group(rollouts[0].problem, rollouts), born, drop)

    def _depart(self) -> None:
        """Ask for as many groups as there is room for."""
        for serial in [serial for serial in self._flights if serial not in self._tasks]:  # those of a checkpoint
            self._fly(serial)
        while (room := self._room()) and self._starved is None:
            try:
                problems = self._curriculum.next(room, self._version)
            except StarvedError as error:
                self._starved = error
                break
            parts: tuple[Part, ...] = ("rollout", self._recipe.seed, self._version, self._attempt)
            self._attempt += 1
            self._bursts += 1
            for problem, repeat in zip(problems, repeats(problems), strict=True):
                self._flights[self._serial] = _Draw(problem, (*parts, *repeat), self._version)
                self._fly(self._serial)
                self._serial += 1

    def _room(self) -> int:
        if self._is_held or self._broken is not None:
            return 0
        steps = min(self._version + self._ahead + 1, self._recipe.steps) - self._taken
        dropped = sum(one.drop is not None for one in self._landed.values())
        spent = max(0, dropped - self._wanted * self._recipe.rollout.max_refills)
        outstanding = len(self._flights) + len(self._landed) - dropped
        return max(0, self._wanted * steps - outstanding - spent)

    def _fly(self, serial: int) -> None:
        if not self._tasks:
            self._busy_since = self._timeline.clock()
        task = self._tasks[serial] = asyncio.get_running_loop().create_task(self._sampled(serial))
        task.add_done_callback(lambda done: self._land(serial, done))

    async def _sampled(self, serial: int) -> None:
        draw, begun = self._flights[serial], self._timeline.clock()
        group = await self._group(draw.problem, *draw.seed_parts)
        drops: Counter[str] = Counter()
        self._has_use(group, self._algorithm.at_step(self._taken), drops)
        del self._flights[serial]
        self._landed[serial] = _Landed(group, draw.born, next(iter(drops), None))
        self._timeline.add(Lane.GENERATE, serial, begun)

    def _land(self, serial: int, done: asyncio.Task[None]) -> None:
        self._tasks.pop(serial, None)
        if not self._tasks:
            self._busy_s += self._timeline.clock() - self._busy_since
        if done.cancelled():
            return
        self._broken = self._broken or done.exception()
        self._depart()  # one without signal leaves its place to another
        self._changed.set()

    def _is_complete(self, step: int) -> bool:
        """Whether a step can begin: it has its groups, and leaves none behind that would be too old later."""
        picked = self._picked(step)
        if not self._flights and (self._starved is not None or not self._room()):
            return True
        if len(picked) < self._wanted:
            return False
        useful = [one.born for one in self._landed.values() if one.drop is None and not self._is_stale(one, step)]
        born = [*useful, *(draw.born for draw in self._flights.values())]
        for oldest in dict.fromkeys(born):
            due = sum(other <= oldest for other in born)  # by step `oldest + k`, which has N places like each step before it
            places = (oldest + self._ahead - step) * self._wanted
            if due - sum(self._landed[serial].born <= oldest for serial in picked) > places:
                return False
        return True

    def _picked(self, step: int) -> list[int]:
        ready = [serial for serial, one in self._landed.items() if one.drop is None and not self._is_stale(one, step)]
        return sorted(sorted(ready, key=lambda serial: (self._landed[serial].born, serial))[: self._wanted])

    def _is_stale(self, one: _Landed, step: int) -> bool:
        oldest = oldest_version(one.group)
        return oldest is not None and step - oldest > self._ahead

    def _take(self, step: int) -> Collected:
        """Everything whose fate is decided now: the step's groups, and those that were dropped since the last one."""
        picked = self._picked(step)
        stale = [serial for serial, one in self._landed.items() if one.drop is None and self._is_stale(one, step)]
        dropped = [serial for serial, one in self._landed.items() if one.drop is not None]
        found = Collected(rounds=self._bursts)
        found.expired = [self._landed[serial].group for serial in stale]
        found.groups = [self._landed[serial].group for serial in sorted(picked + dropped)]
        found.kept = [scored_group(self._landed[serial].group) for serial in picked]
        found.drops.update(reason for serial in dropped if (reason := self._landed[serial].drop) is not None)
        for group in found.groups:
            found.tally.add(group.rollouts)
        found.failure = self._failure(found.tally, step)
        for serial in (*picked, *dropped, *stale):
            del self._landed[serial]
            self._written.pop(serial, None)
        self._curriculum.observe(found.groups, step)
        self._taken, self._bursts = step + 1, 0
        self._depart()
        return found
