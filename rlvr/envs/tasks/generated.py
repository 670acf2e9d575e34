"""Problems drawn without end, in splits that cannot overlap.

The split of a problem is a hash of its content: the same problem lies in the same split under every argument and
difficulty. A split is the sequence of distinct problems in the order drawn, so its first n do not depend on how many are
asked for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from rlvr.envs.tasks.adapter import Draft, Generator, messages
from rlvr.envs.tasks.spec import PromptSpec
from rlvr.errors import TaskError
from rlvr.seeding import rng, seed
from rlvr.types import JSON, Problem

SPLITS = ("train", "test")
TEST_SHARE = 5  # one in so many problems is held out
MAX_REJECTED = 20_000  # draws in a row without a new problem: the space is exhausted
MAX_OTHER_SPLIT = 100  # variants of a problem in a row that belong to the other split


def split_of(content: str) -> str:
    """The split that a problem belongs to, by its content alone."""
    return "test" if seed("split", content) % TEST_SHARE == 0 else "train"


class GeneratedProblems:
    """The problems of one generated task."""

    is_endless = True
    splits = SPLITS

    def __init__(self, name: str, generator: Generator, prompt: PromptSpec, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._streams = {split: _Stream(name, split, generator, prompt) for split in SPLITS}

    def problems(self, split: str, limit: int | None) -> list[Problem]:
        return self._streams[split].first(self._sizes[split] if limit is None else limit)

    def problem(self, split: str, index: int) -> Problem:
        return self._streams[split].at(index)

    def varied(self, problem: Problem, split: str, rng: random.Random) -> Problem | None:
        return self._streams[split].varied(problem, rng)

    def notes(self) -> tuple[str, ...]:
        return ()


class _Stream:
    def __init__(self, name: str, split: str, generator: Generator, prompt: PromptSpec) -> None:
        self._name, self._split, self._generator, self._prompt = name, split, generator, prompt
        self._found: list[Problem] = []
        self._seen: set[str] = set()
        self._draws = 0

    def first(self, count: int) -> list[Problem]:
        while len(self._found) < count:
            self._found.append(self._next())
        return self._found[:count]

    def at(self, index: int) -> Problem:
        while len(self._found) <= index:
            self._found.append(self._next())
        return self._found[index]

    def _next(self) -> Problem:
        for _ in range(MAX_REJECTED):
            draft = self._generator.draw(rng("task", self._name, self._draws))
            self._draws += 1
            if draft is None or split_of(draft.content) != self._split or draft.content in self._seen:
                continue
            self._seen.add(draft.content)
            return self._finish(draft)
        raise TaskError(
            f"task {self._name}, split {self._split}: {len(self._found)} distinct problems were found with "
            f"{self._generator!r}, and {MAX_REJECTED} draws gave no further one; ask for fewer or widen the arguments"
        )

    def varied(self, problem: Problem, rng: random.Random) -> Problem | None:
        for _ in range(MAX_OTHER_SPLIT):
            draft = self._generator.vary(problem, rng)
            if draft is None:
                return None
            if split_of(draft.content) == self._split and draft.answer != problem.answer:
                metadata: dict[str, JSON] = {**draft.metadata, "other_numbers": True}
                return Problem(problem.id, messages(draft.prompt, self._prompt), draft.answer, metadata)
        return None

    def _finish(self, draft: Draft) -> Problem:
        problem_id = f"{self._name}/{self._split}/{seed('id', draft.content):016x}"
        return Problem(problem_id, messages(draft.prompt, self._prompt), draft.answer, draft.metadata)
