"""Collect one step's groups: sample, grade, shape, drop those without signal, refill."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlvr.config import RunConfig
from rlvr.envs.rollout import RolloutRunner
from rlvr.evaluation.tally import Tally
from rlvr.filtering.curriculum import Curriculum
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.distributed import World
from rlvr.types import Group, Problem, Sampling


@dataclass(slots=True)
class Collected:
    """What one step sampled. `kept` is trained on; `groups` is everything, in the order in which it was asked for."""

    kept: list[Group] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    rounds: int = 0
    failure: str | None = None  # why none of it may be trained on

    @property
    def dropped(self) -> int:
        return len(self.groups) - len(self.kept)


class Collector:
    """Samples groups with one policy until the step is full, or its refills are used up."""

    def __init__(
        self,
        runner: RolloutRunner,
        curriculum: Curriculum,
        algorithm: Algorithm,
        recipe: RunConfig,
        sampling: Sampling,
        world: World,
    ) -> None:
        self._runner = runner
        self._curriculum = curriculum
        self._algorithm = algorithm
        self._recipe = recipe
        self._sampling = sampling
        self._world = world

    async def collect(self, step: int) -> Collected:
        """The groups of one step, the same on every rank.

        More than `max_unscored` rollouts without a verdict are a `failure`, which names the first three causes.
        """
        found = Collected()
        algorithm = self._algorithm.at_step(step)
        wanted = self._recipe.rollout.problems_per_step
        refills = self._recipe.rollout.max_refills
        while len(found.kept) < wanted and found.rounds <= refills:
            problems = self._curriculum.next(wanted - len(found.kept))
            groups = await self._sample(problems, step, found.rounds)
            found.rounds += 1
            found.groups += groups
            for group in groups:
                found.tally.add(group.rollouts)
            found.kept += [trainable for group in groups if (trainable := self._trainable(group, algorithm)) is not None]
            found.failure = self._failure(found.tally, step)
            if found.failure is not None:
                break
        self._curriculum.observe(found.groups)
        return found

    async def _sample(self, problems: Sequence[Problem], step: int, attempt: int) -> list[Group]:
        seed_parts = ("rollout", self._recipe.seed, step, attempt)
        size = self._recipe.rollout.group_size
        drawn = self._world.share(list(zip(problems, _repeats(problems), strict=True)))
        mine = [self._runner.run_group(problem, size, self._sampling, *seed_parts, *repeat) for problem, repeat in drawn]
        return self._world.gather(await asyncio.gather(*mine), len(problems))

    def _trainable(self, group: Group, algorithm: Algorithm) -> Group | None:
        """The group's scored rollouts with their shaped rewards; None if nothing can be learned from them."""
        scored = replace(group, rollouts=tuple(r for r in group.rollouts if r.error is None and r.reward is not None))
        # Dropped groups are shaped too, so that the rewards on record all mean the same.
        for rollout, reward in zip(scored.rollouts, algorithm.shape(scored), strict=True):
            rollout.reward = reward
        compared = replace(scored, rollouts=tuple(r for r in scored.rollouts if r.reward is not None))
        if len(compared.rollouts) < algorithm.min_group_size or not algorithm.keep_group(compared):
            return None
        return compared

    def _failure(self, tally: Tally, step: int) -> str | None:
        share = tally.unscored / max(1, tally.rollouts)
        if share <= self._recipe.max_unscored:
            return None
        causes = "\n  - ".join(tally.causes)
        return (
            f"step {step + 1}: {tally.unscored} of {tally.rollouts} rollouts could not be scored ({share:.1%}, "
            f"max_unscored = {self._recipe.max_unscored:.1%}); nothing was trained on them. First causes:\n  - {causes}"
        )


def _repeats(problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """For each problem its further seed parts: none for the first time that it is drawn, then 1, 2, ...

    Few problems may be drawn several times in a step; with equal seeds their groups would be copies.
    """
    seen: Counter[str] = Counter()
    repeats: list[tuple[int, ...]] = []
    for problem in problems:
        count = seen[problem.id]
        seen[problem.id] += 1
        repeats.append((count,) if count else ())
    return repeats
