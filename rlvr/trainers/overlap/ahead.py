"""Groups are sampled ahead of the update, in a bounded queue: nothing that is trained on is older than the recipe allows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlvr.config import RunConfig
from rlvr.envs.rollout import RolloutRunner
from rlvr.evaluation.ledger import rollout_from_json, rollout_to_json
from rlvr.filtering.curriculum import Curriculum, StarvedError
from rlvr.filtering.posterior import SolveRates
from rlvr.seeding import Part
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.model.distributed import World
from rlvr.trainers.overlap.beside import beside
from rlvr.trainers.overlap.staleness import oldest_version
from rlvr.trainers.overlap.timeline import Lane, Timeline
from rlvr.trainers.rollouts import Collected, Collector, repeats, scored_group
from rlvr.types import Group, Problem, Sampling

T = TypeVar("T")
_EXCHANGE_S = 0.05


@dataclass(frozen=True, slots=True)
class _Draw:
    """A group that was asked for: which problem, with which seeds, and how many updates there had been."""

    problem: Problem
    seed_parts: tuple[Part, ...]
    born: int


@dataclass(frozen=True, slots=True)
class _Landed:
    """A group whose rollouts have all been graded, waiting for the step that trains on it; `drop`: why none will."""

    born: int
    oldest: int | None  # the version of the policy that sampled its oldest token; None: it has none
    drop: str | None


@dataclass(frozen=True, slots=True)
class _News:
    """What one rank tells the others: what it has begun by itself, what has landed, and whether its run was interrupted."""

    begun: tuple[tuple[int, _Draw], ...]
    landed: tuple[tuple[int, _Landed], ...]
    is_ending: bool


class AheadCollector(Collector):
    """Samples all the time, as far ahead as `rollout.max_staleness` = k allows; a step gets its groups when they are there.

    With N groups in a step, at most (k + 1) N are asked for and not yet trained on when a step begins, k N while it updates: so
    many that the oldest is at most k updates old when its turn comes. Where there are as many, generation waits; it never has to
    throw away. A step takes the oldest groups that are there, and waits only for those that would be too old for the next step.
    Groups without signal make room for others at once, up to `max_refills` times N in a step.

    Several ranks keep one such queue: all know which groups there are, each samples those whose number is its own, and keeps
    them until their step. What has landed elsewhere becomes known while ranks wait for a step, several times a second, so that
    all decide the same from the same. Problems are drawn at such moments alone; where groups may have no signal, some more than
    there is room for, with which each rank replaces its own during an update.

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
        self._fresh: dict[int, _Landed] = {}  # of this rank, which the others do not know of yet
        self._groups: dict[int, Group] = {}  # those of `_landed` and `_fresh` that this rank has sampled
        self._spare: dict[int, Problem] = {}  # drawn, and asked for when a group turns out to have no signal
        self._begun: dict[int, _Draw] = {}  # of `_spare`, by this rank; the others do not know of it yet
        self._written: dict[int, list[str]] = {}  # those of `_groups` as a checkpoint holds them
        self._starved: StarvedError | None = None
        self._broken: BaseException | None = None
        self._is_held = False
        self.is_ending = False  # this rank's run was cancelled, and the others have not heard of it yet
        self._changed = asyncio.Event()
        self._busy_s = self._busy_since = 0.0

    async def collect(self, step: int) -> Collected:
        self._taken = step
        while True:
            self._changed.clear()
            await self._exchange()
            self._depart()
            if self._broken is not None:
                raise self._broken
            if self._is_complete(step):
                break
            await self._pass_time()
        found = await self._take(step)
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
        while self._tasks:
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
        spare = [[serial, problem.id] for serial, problem in self._spare.items()]
        return {"serial": self._serial, "attempt": self._attempt, "flights": flights, "spare": spare}

    def own_state(self) -> dict[str, Any]:
        for serial, group in self._groups.items():
            if serial not in self._written:  # a loop asks after every step, and a group may wait for several
                self._written[serial] = [json.dumps(rollout_to_json(rollout)) for rollout in group.rollouts]
        known = {**self._landed, **self._fresh}
        begun = [[serial, draw.problem.id, list(draw.seed_parts)] for serial, draw in self._begun.items()]
        return {
            "begun": begun,
            "landed": [[serial, known[serial].born, known[serial].drop, self._written[serial]] for serial in self._groups],
        }

    def load_state_dict(self, state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """What was in flight begins anew, with the weights of now. There may be other ranks than there were."""
        self._serial, self._attempt = state["serial"], state["attempt"]
        self._spare = {serial: self._problems[problem_id] for serial, problem_id in state.get("spare", ())}
        begun = [row for part in parts for row in part.get("begun", ())]
        for serial, problem_id, seed_parts in [*state["flights"], *begun]:
            self._flights[serial] = _Draw(self._problems[problem_id], tuple(seed_parts), self._version)
            self._spare.pop(serial, None)
        for part in (state, *parts):
            for serial, born, drop, rows in part.get("landed", ()):
                rollouts = tuple(rollout_from_json(json.loads(row)) for row in rows)
                group = Group(rollouts[0].problem, rollouts)
                self._landed[serial] = _Landed(born, oldest_version(group), drop)
                self._flights.pop(serial, None)
                if self._is_own(serial):
                    self._groups[serial] = group

    def _depart(self) -> None:
        """Ask for as many groups as there is room for."""
        for serial in self._flights:
            if serial not in self._tasks and serial not in self._fresh:  # one of a checkpoint
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
        self._put_aside()

    def _put_aside(self) -> None:
        """Draw as many problems more as a step has, for the ranks to replace groups with."""
        missing = self._wanted - len(self._spare)
        if self._world.size == 1 or not self._drops or self._starved is not None or missing <= 0:
            return
        with contextlib.suppress(StarvedError):  # what is asked for already comes first
            for problem in self._curriculum.next(missing, self._version):
                self._spare[self._serial] = problem
                self._serial += 1

    def _replace(self) -> None:
        """Begin one of this rank's spare problems, unless a step has had its refills."""
        own = [serial for serial in self._spare if self._is_own(serial) and serial not in self._begun]
        known = (*self._landed.values(), *self._fresh.values())
        dropped = sum(one.drop is not None for one in known)
        if own and not self._is_held and dropped <= self._wanted * self._recipe.rollout.max_refills:
            parts = ("rollout", self._recipe.seed, self._version, "spare", own[0])  # no other draw has this number
            self._begun[own[0]] = _Draw(self._spare[own[0]], parts, self._version)
            self._fly(own[0])

    def _room(self) -> int:
        if self._is_held or self._broken is not None:
            return 0
        steps = min(self._version + self._ahead + 1, self._recipe.steps) - self._taken
        dropped = sum(one.drop is not None for one in self._landed.values())
        spent = max(0, dropped - self._wanted * self._recipe.rollout.max_refills)
        outstanding = len(self._flights) + len(self._landed) - dropped
        return max(0, self._wanted * steps - outstanding - spent)

    def _is_own(self, serial: int) -> bool:
        return serial % self._world.size == self._world.rank

    def _fly(self, serial: int) -> None:
        if not self._is_own(serial):
            return
        if not self._tasks:
            self._busy_since = self._timeline.clock()
        task = self._tasks[serial] = asyncio.get_running_loop().create_task(self._sampled(serial))
        task.add_done_callback(lambda done: self._land(serial, done))

    async def _sampled(self, serial: int) -> None:
        draw, begun = self._begun.get(serial) or self._flights[serial], self._timeline.clock()
        group = await self._group(draw.problem, *draw.seed_parts)
        drops: Counter[str] = Counter()
        self._has_use(group, self._algorithm.at_step(self._taken), drops)
        self._groups[serial] = group
        self._fresh[serial] = _Landed(draw.born, oldest_version(group), next(iter(drops), None))
        if drops:
            self._replace()  # at once: the others are to hear of both together
        self._timeline.add(Lane.GENERATE, serial, begun)

    def _land(self, serial: int, done: asyncio.Task[None]) -> None:
        self._tasks.pop(serial, None)
        if not self._tasks:
            self._busy_s += self._timeline.clock() - self._busy_since
        if done.cancelled():
            return
        self._broken = self._broken or done.exception()
        if self._world.size == 1:
            self._learn_of(self._fresh)
            self._depart()  # one without signal leaves its place to another
        self._changed.set()

    def _learn_of(self, landed: Mapping[int, _Landed]) -> None:
        for serial, one in dict(landed).items():
            self._flights.pop(serial, None)
            self._landed[serial] = one
            self._fresh.pop(serial, None)

    async def _exchange(self) -> None:
        """Learn what has landed on the other ranks.

        Raises:
            asyncio.CancelledError: on all ranks, where it is ending on one.
        """
        if self._world.size == 1:
            return
        news = [_News(tuple(self._begun.items()), tuple(self._fresh.items()), self.is_ending)]
        told = await self._together(news)
        for one in told:
            for serial, draw in one.begun:
                self._flights[serial] = draw
                self._spare.pop(serial, None)
                self._begun.pop(serial, None)
            self._learn_of(dict(one.landed))
        if self._world.ends_anywhere([one.is_ending for one in told]):
            raise asyncio.CancelledError

    async def _together(self, part: Sequence[T]) -> list[T]:
        """What all ranks give. Whoever is cancelled meanwhile says so with the next exchange."""
        if self._world.size == 1:
            return list(part)
        parts, was_cancelled = await beside(lambda: self._world.gather_lists(part))
        self.is_ending |= was_cancelled
        return [one for found in parts for one in found]

    async def _pass_time(self) -> None:
        """Wait until there may be something new."""
        is_alone = self._world.size == 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if is_alone else _EXCHANGE_S):
                    await self._changed.wait()
        except asyncio.CancelledError:
            if is_alone:
                raise
            self.is_ending = True

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
        return one.oldest is not None and step - one.oldest > self._ahead

    async def _take(self, step: int) -> Collected:
        """Everything whose fate is decided now: the step's groups, and those that were dropped since the last one."""
        picked = self._picked(step)
        stale = [serial for serial, one in self._landed.items() if one.drop is None and self._is_stale(one, step)]
        dropped = [serial for serial, one in self._landed.items() if one.drop is not None]
        groups = await self._gathered([*picked, *dropped, *stale])
        await self._exchange()
        found = Collected(rounds=self._bursts)
        found.expired = [groups[serial] for serial in stale]
        found.groups = [groups[serial] for serial in sorted(picked + dropped)]
        found.kept = [scored_group(groups[serial]) for serial in picked]
        found.drops.update(reason for serial in dropped if (reason := self._landed[serial].drop) is not None)
        for group in found.groups:
            found.tally.add(group.rollouts)
        found.failure = self._failure(found.tally, step)
        for serial in (*picked, *dropped, *stale):
            del self._landed[serial]
            self._groups.pop(serial, None)
            self._written.pop(serial, None)
        self._curriculum.observe(found.groups, step)
        self._taken, self._bursts = step + 1, 0
        self._depart()
        return found

    async def _gathered(self, serials: Sequence[int]) -> dict[int, Group]:
        """These groups, on every rank."""
        own = [(serial, self._groups[serial]) for serial in serials if self._is_own(serial)]
        return dict(await self._together(own))
