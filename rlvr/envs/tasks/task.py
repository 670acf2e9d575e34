"""A task as the trainer, the evaluation and the command line see it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlvr.config import EnvConfig, VerifierConfig
from rlvr.envs.tasks.adapter import TaskAdapter
from rlvr.envs.tasks.spec import TinyModel
from rlvr.errors import TaskError
from rlvr.seeding import rng
from rlvr.types import JSON, Problem


class ProblemSource(Protocol):
    """Where a task's problems come from: drawn, or read from rows."""

    @property
    def is_endless(self) -> bool:
        """Whether problems are drawn; otherwise they are rows, and so many."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        ...

    def problems(self, split: str, limit: int | None) -> Sequence[Problem]:
        """The first `limit` problems of a split, always the same; None: all, or as many as the task says."""
        ...

    def problem(self, split: str, index: int) -> Problem:
        """Problem `index` of a split, counted from 0.

        Raises:
            TaskError: there is no such problem.
        """
        ...

    def varied(self, problem: Problem, split: str, rng: random.Random) -> Problem | None:
        """A problem of this split under the same id that differs in its numbers; None where the source cannot make one."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a reader of a result should know of the data."""
        ...


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A problem and a response to learn from. The response need not be right: experts may err on purpose."""

    problem: Problem
    response: str


@dataclass(frozen=True, slots=True)
class Task:
    """Problems, and everything that is known about how to put and grade them.

    `verifiers`: the first is the one that evaluation counts. `max_tokens` and `stop` are suggestions for sampling.
    `args` are all arguments, defaults included. `tiny` describes a model small enough to learn the task on a CPU.
    `variants` are sets of arguments that make the task harder, by name. `env` is a suggestion, too; None: a single turn.
    """

    name: str
    description: str
    folder: Path
    args: Mapping[str, JSON]
    verifiers: tuple[VerifierConfig, ...]
    max_tokens: int
    stop: tuple[str, ...]
    tiny: TinyModel | None
    variants: Mapping[str, Mapping[str, JSON]]
    adapter: TaskAdapter
    source: ProblemSource
    env: EnvConfig | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return self.source.splits

    @property
    def is_endless(self) -> bool:
        """True where problems are drawn by a generator, so that any number of them exists."""
        return self.source.is_endless

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the rows that were loaded so far, one sentence each."""
        return self.source.notes()

    def problems(self, split: str = "train", *, limit: int | None = None) -> Sequence[Problem]:
        """The first `limit` problems of a split; None: all of a data set, the task's own size of an endless one.

        Problem i depends on (arguments, split, i) alone, never on `limit`.

        Raises:
            TaskError: no such split, no data, a row that cannot be read, or fewer distinct problems than asked for.
        """
        self._check(split)
        if limit is not None and limit < 1:
            raise TaskError(f"task {self.name}: limit = {limit}, but at least one problem must be asked for")
        return self.source.problems(split, limit)

    def demonstration(self, split: str, index: int, seed: int) -> Demonstration:
        """The expert's response to problem `index` of a split; `seed` chooses among the expert's many.

        Raises:
            TaskError: the task has no expert, no such split, or no such problem.
        """
        self._check(split)
        problem = self.source.problem(split, index)
        response = self.adapter.demonstrate(problem, rng("demonstration", self.name, problem.id, seed))
        if response is None:
            raise TaskError(
                f"task {self.name} has no demonstrations for problem {problem.id}; "
                "give the supervised recipe a file of prompt and response pairs: data=pairs.jsonl"
            )
        return Demonstration(problem, response)

    def with_other_numbers(self, problem: Problem, split: str, seed: int) -> Problem | None:
        """The problem under its own id with other numbers and the answer that belongs to them, from the same split of a task that
        draws its problems; None where the task cannot make one.

        Raises:
            TaskError: no such split.
        """
        self._check(split)
        return self.source.varied(problem, split, rng("other numbers", self.name, problem.id, seed))

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise TaskError(f"task {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
