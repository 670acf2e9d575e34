"""Collect one step's groups: sample, grade, shape, drop those without signal, refill."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlvr.config import RunConfig
from rlvr.envs.rollout import RolloutRunner
from rlvr.errors import TrainingError
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

        Raises:
            TrainingError: more than `max_unscored` of the rollouts have no verdict; names the first three causes.
        """
        found = Collected()
        wanted = self._recipe.rollout.problems_per_step
        refills = self._recipe.rollout.max_refills
        while len(found.kept) < wanted and found.rounds <= refills:
            problems = self._curriculum.next(wanted - len(found.kept))
            groups = await self._sample(problems, step, found.rounds)
            found.rounds += 1
            found.groups += groups
            for group in groups:
                found.tally.add(group.rollouts)
            self._check_unscored(found.tally, step)
            found.kept += [trainable for group in groups if (trainable := self._trainable(group)) is not None]
        self._curriculum.observe(found.groups)
        return found

    async def _sample(self, problems: Sequence[Problem], step: int, attempt: int) -> list[Group]:
        seed_parts = ("rollout", self._recipe.seed, step, attempt)
        size = self._recipe.rollout.group_size
        mine = [self._runner.run_group(problem, size, self._sampling, *seed_parts) for problem in self._world.share(problems)]
        return self._world.gather(await asyncio.gather(*mine), len(problems))

    def _trainable(self, group: Group) -> Group | None:
        """The group's scored rollouts with their shaped rewards; None if nothing can be learned from them."""
        scored = replace(group, rollouts=tuple(r for r in group.rollouts if r.error is None and r.reward is not None))
        if len(scored.rollouts) < self._algorithm.min_group_size:
            return None
        if not self._algorithm.keep_group(scored):
            return None
        for rollout, reward in zip(scored.rollouts, self._algorithm.shape(scored), strict=True):
            rollout.reward = reward
        return scored

    def _check_unscored(self, tally: Tally, step: int) -> None:
        share = tally.unscored / max(1, tally.rollouts)
        if share > self._recipe.max_unscored:
            causes = "\n  - ".join(tally.causes)
            raise TrainingError(
                f"step {step + 1}: {tally.unscored} of {tally.rollouts} rollouts could not be scored ({share:.1%}, "
                f"max_unscored = {self._recipe.max_unscored:.1%}); nothing was trained on them. First causes:\n  - {causes}"
            )
