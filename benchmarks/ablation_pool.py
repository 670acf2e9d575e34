"""The quickstart's problems among chains far out of its base's reach, as a task: what a mixed data set is to a given model.

`never` is the share of the training problems from `OUT_OF_REACH`; the others are the quickstart's own, and so are all tests.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlvr.envs.tasks import load_task
from rlvr.envs.tasks.task import ProblemSource, Task
from rlvr.seeding import rng
from rlvr.types import JSON, Problem

OUT_OF_REACH = (20, 24)  # digits; the base solves 1 to 2 % of its tries, by guessing


@dataclass(slots=True)
class Pool:
    """A `ProblemSource`: training problems come from `hard` with probability `never`, else from `own`; tests are `own` alone."""

    own: ProblemSource
    hard: ProblemSource
    never: float
    _taken: list[tuple[bool, int]] = field(default_factory=list)  # is it hard, and which of its source is it
    _counts: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    @property
    def is_endless(self) -> bool:
        return True

    @property
    def splits(self) -> tuple[str, ...]:
        return self.own.splits

    def problems(self, split: str, limit: int | None) -> Sequence[Problem]:
        if split != "train":
            return self.own.problems(split, limit)
        count = len(self.own.problems(split, None)) if limit is None else limit
        return [self.problem(split, index) for index in range(count)]

    def problem(self, split: str, index: int) -> Problem:
        if split != "train":
            return self.own.problem(split, index)
        while len(self._taken) <= index:
            is_hard = rng("pool", len(self._taken)).random() < self.never
            self._taken.append((is_hard, self._counts[is_hard]))
            self._counts[is_hard] += 1
        is_hard, place = self._taken[index]
        return (self.hard if is_hard else self.own).problem(split, place)

    def varied(self, problem: Problem, split: str, rng: random.Random) -> Problem | None:
        return self.own.varied(problem, split, rng)

    def notes(self) -> tuple[str, ...]:
        return self.own.notes()


def pool(args: Mapping[str, JSON]) -> Task:
    """The task plugin: `task = "benchmarks/ablation_pool.py:pool"`, `task_args = { never = 0.35 }`."""
    own = load_task("chains")
    hard = load_task("chains", {"terms": list(OUT_OF_REACH)})
    never = float(str(args["never"]))
    return replace(own, name="chains_pool", args={**own.args, "never": never}, source=Pool(own.source, hard.source, never))
