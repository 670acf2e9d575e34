"""Collect one step's groups: sample, grade, shape, drop those without signal, refill, keep what is left over."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlvr.config import RunConfig
from rlvr.envs.rollout import RolloutRunner
from rlvr.evaluation.ledger import rollout_from_json, rollout_to_json
from rlvr.evaluation.tally import Tally
from rlvr.filtering.curriculum import Curriculum
from rlvr.filtering.posterior import SolveRates
from rlvr.seeding import Part
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.group_filters import GroupFilter, build_filters
from rlvr.trainers.model.distributed import World
from rlvr.trainers.shaping.stages import Stages
from rlvr.types import Group, Problem, Sampling

NO_SIGNAL = "no_signal"  # what the algorithm drops
PROBED = "probed"  # a group that ended with its probe
_MEMORY = 0.9  # of the yield, from one round to the next
_LARGEST_FACTOR = 4.0  # prompts for each group that is needed, at most


@dataclass(slots=True)
class Collected:
    """What one step sampled. `kept` is trained on; `groups` is everything that it sampled, in the order of asking.

    `carried` are the groups in `kept` that an earlier step had sampled, `expired` those that nobody needed in time, and `held`
    those of `groups` that wait for the next step: they are stored when they are trained on, or when they have expired.
    """

    kept: list[Group] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    carried: list[Group] = field(default_factory=list)
    expired: list[Group] = field(default_factory=list)
    held: list[Group] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)  # by the filter that did it
    tally: Tally = field(default_factory=Tally)
    rounds: int = 0
    failure: str | None = None  # why none of it may be trained on

    @property
    def dropped(self) -> int:
        return self.drops.total()

    @property
    def stored(self) -> list[Group]:
        """What belongs on record now: every group once, in whichever step its fate is known."""
        waiting = {id(group) for group in self.held}
        return [*self.carried, *self.expired, *(group for group in self.groups if id(group) not in waiting)]


@dataclass(slots=True)
class _Yield:
    """How many of the groups that were expected to have signal had one: corrects what the beliefs about problems predict."""

    kept: float = 0.0
    predicted: float = 0.0

    def add(self, kept: int, predicted: float) -> None:
        self.kept = _MEMORY * self.kept + kept
        self.predicted = _MEMORY * self.predicted + predicted

    @property
    def factor(self) -> float | None:
        """None before anything was seen."""
        return self.kept / self.predicted if self.predicted > 0 else None


class Collector:
    """Samples groups with one policy until the step is full, or its refills are used up.

    Where groups are dropped, so many prompts are drawn at once as are expected to fill the step; good groups beyond that wait
    for the next one. Its state is part of a checkpoint.
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
    ) -> None:
        self._runner = runner
        self._curriculum = curriculum
        self._unstaged = algorithm
        self._stages = Stages(algorithm)
        self._algorithm = self._stages.apply(algorithm)
        self._recipe = recipe
        self._sampling = sampling
        self._world = world
        self._rates = rates
        self._filters = build_filters(recipe.filters)
        self._yield = _Yield()
        self._surplus: list[tuple[int, Group]] = []  # with the step in which each was sampled
        self._keeps_surplus = recipe.rollout.surplus_steps > 0 and not algorithm.needs_fresh

    async def collect(self, step: int) -> Collected:
        """The groups of one step, the same on every rank.

        More than `max_unscored` rollouts without a verdict are a `failure`, which names the first three causes.

        Raises:
            StarvedError: the curriculum has nothing left to draw.
        """
        found = Collected()
        algorithm = self._algorithm.at_step(step)
        wanted = self._recipe.rollout.problems_per_step
        self._take_surplus(found, wanted // 2, step)  # at least half of a step is fresh
        room = wanted * (1 + self._recipe.rollout.max_refills)
        while len(found.kept) < wanted and len(found.groups) < room:
            problems = self._draw(wanted - len(found.kept), room - len(found.groups), step)
            predicted = self._chances(problems, step)
            groups = await self._sample(problems, step, found.rounds)
            found.rounds += 1
            found.groups += groups
            self._curriculum.observe(groups, step)  # so that refills are drawn by what the first groups showed
            for group in groups:
                found.tally.add(group.rollouts)
            kept = [group for group in groups if self._has_use(group, algorithm, found.drops)]
            self._yield.add(len(kept), math.fsum(predicted))
            missing = wanted - len(found.kept)
            found.kept += map(scored_group, kept[:missing])
            found.held += kept[missing:]
            found.failure = self._failure(found.tally, step)
            if found.failure is not None:
                break
        if not self._keeps_surplus or step + 1 >= self._recipe.steps or found.failure is not None:
            found.held = []
        self._surplus += [(step, group) for group in found.held]
        return found

    def observe(self, correct_share: float | None) -> None:
        """What share of a step's rollouts was correct: a shape that goes by accuracy may move on with the next step."""
        self._stages.observe(correct_share)
        self._algorithm = self._stages.apply(self._unstaged)

    @property
    def stages(self) -> Stages:
        return self._stages

    def restore_stages(self, state: Mapping[str, Any]) -> None:
        self._stages.load_state_dict(state)
        self._algorithm = self._stages.apply(self._unstaged)

    def state_dict(self) -> dict[str, Any]:
        """Numbers and text: a group that waits is part of what comes next, and a checkpoint holds no objects of ours."""
        surplus = [[step, [json.dumps(rollout_to_json(rollout)) for rollout in group.rollouts]] for step, group in self._surplus]
        return {"kept": self._yield.kept, "predicted": self._yield.predicted, "surplus": surplus}

    def own_state(self) -> dict[str, Any]:
        """The same, as far as this rank alone knows it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """`parts`: the own states of all ranks that there were."""
        self._yield = _Yield(state["kept"], state["predicted"])
        restored = [(step, tuple(rollout_from_json(json.loads(row)) for row in rows)) for step, rows in state["surplus"]]
        self._surplus = [(step, Group(rollouts[0].problem, rollouts)) for step, rollouts in restored]

    def _take_surplus(self, found: Collected, most: int, step: int) -> None:
        """The oldest that wait come first; those that have waited long enough are given up."""
        waiting = [group for _, group in self._surplus]
        found.carried = waiting[:most]
        found.kept = list(map(scored_group, found.carried))
        left = self._surplus[most:]
        self._surplus = [(born, group) for born, group in left if step - born < self._recipe.rollout.surplus_steps]
        found.expired = [group for born, group in left if step - born >= self._recipe.rollout.surplus_steps]

    def _draw(self, missing: int, room: int, step: int) -> list[Problem]:
        """Problems that should bring `missing` groups with signal, `room` of them at most."""
        most = min(room, math.ceil(missing * _LARGEST_FACTOR))
        asked = self._recipe.rollout.oversample
        if asked != "auto":
            return self._curriculum.next(min(room, math.ceil(missing * asked)), step)
        problems = self._curriculum.next(min(missing, most), step)
        factor = self._yield.factor
        if factor is None or not self._drops or not self._keeps_surplus:
            return problems
        while len(problems) < most:
            expected = math.fsum(min(1.0, factor * chance) for chance in self._chances(problems, step))
            if expected >= missing:
                break
            each = max(expected / len(problems), 1.0 / _LARGEST_FACTOR)
            more = min(math.ceil((missing - expected) / each), most - len(problems))
            problems += self._curriculum.next(more, step)
        return problems

    @property
    def _drops(self) -> bool:
        return self._algorithm.drops_groups or bool(self._filters) or self._recipe.rollout.probe > 0

    def _chances(self, problems: Sequence[Problem], step: int) -> list[float]:
        """The believed probability of each problem that its group has signal."""
        size = self._recipe.rollout.group_size
        return [self._rates.at(problem.id, step).chance_of_signal(size) for problem in problems]

    async def _sample(self, problems: Sequence[Problem], step: int, attempt: int) -> list[Group]:
        seed_parts = ("rollout", self._recipe.seed, step, attempt)
        drawn = self._world.share(list(zip(problems, repeats(problems), strict=True)))
        mine = [self._group(problem, *seed_parts, *repeat) for problem, repeat in drawn]
        return self._world.gather(await self._world.agreed(asyncio.gather(*mine)), len(problems))

    async def _group(self, problem: Problem, *seed_parts: Part) -> Group:
        """All rollouts of a problem, or its probe alone where that shows no difference."""
        size = self._recipe.rollout.group_size
        probe = self._recipe.rollout.probe or size
        begun = await self._runner.run_group(problem, probe, self._sampling, *seed_parts)
        if probe == size or _is_alike(begun):
            return begun
        rest = await self._runner.run_group(problem, size - probe, self._sampling, *seed_parts, first=probe)
        return Group(problem, begun.rollouts + rest.rollouts)

    def _has_use(self, group: Group, algorithm: Algorithm, drops: Counter[str]) -> bool:
        """Shape the group's rewards; False, and a count more in `drops`, if nothing is to be learned from it."""
        reason = shape_group(group, algorithm, self._filters, self._recipe.rollout.group_size)
        if reason is not None:
            drops[reason] += 1
        return reason is None

    def _failure(self, tally: Tally, step: int) -> str | None:
        share = tally.unscored / max(1, tally.rollouts)
        if share <= self._recipe.max_unscored:
            return None
        causes = "\n  - ".join(tally.causes)
        return (
            f"step {step + 1}: {tally.unscored} of {tally.rollouts} rollouts could not be scored ({share:.1%}, "
            f"max_unscored = {self._recipe.max_unscored:.1%}); nothing was trained on them. First causes:\n  - {causes}"
        )


def shape_group(group: Group, algorithm: Algorithm, filters: Mapping[str, GroupFilter], size: int) -> str | None:
    """Set the shaped rewards of a group; returns why it is left out of the update, None if it is learned from.

    A group with fewer than `size` rollouts is one that ended with its probe.
    """
    scored = scored_group(group)
    # Dropped groups are shaped too, so that the rewards on record all mean the same.
    for rollout, reward in zip(scored.rollouts, algorithm.shape(scored), strict=True):
        rollout.reward = reward
    compared = scored_group(group)
    if len(group.rollouts) < size:
        return PROBED
    reason = next((name for name, filter_ in filters.items() if filter_.drops(group)), None)
    if reason is None and (len(compared.rollouts) < algorithm.min_group_size or not algorithm.keep_group(compared)):
        reason = NO_SIGNAL
    return reason


def scored_group(group: Group) -> Group:
    """The group without the rollouts that have no reward."""
    return replace(group, rollouts=tuple(r for r in group.rollouts if r.error is None and r.reward is not None))


def _is_alike(probe: Group) -> bool:
    """All of its rewards are the same, as far as it has any; a single one is no reason to give a problem up."""
    rewards = [rollout.reward for rollout in scored_group(probe).rollouts]
    return len(rewards) > 1 and len(set(rewards)) == 1


def repeats(problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """For each problem its further seed parts: none for the first time that it is drawn, then 1, 2, ...

    Few problems may be drawn several times in a step; with equal seeds their groups would be copies.
    """
    seen: Counter[str] = Counter()
    found: list[tuple[int, ...]] = []
    for problem in problems:
        count = seen[problem.id]
        seen[problem.id] += 1
        found.append((count,) if count else ())
    return found
