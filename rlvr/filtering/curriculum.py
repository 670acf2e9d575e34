"""Which problems come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlvr.errors import ConfigError
from rlvr.seeding import rng
from rlvr.types import Group, Problem


class Curriculum(Protocol):
    """Chooses problems, learns from what became of them, and can be saved and restored exactly."""

    def next(self, count: int) -> list[Problem]: ...

    def observe(self, groups: Sequence[Group]) -> None: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: dict[str, int]) -> None: ...


class Uniform:
    """Every problem once per epoch, in an order drawn anew for each epoch.

    Raises:
        ConfigError: there are no problems.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        if not problems:
            raise ConfigError("there are no problems to train on: the split is empty, or the pass-rate window kept none")
        self._problems = problems
        self._seed = seed
        self._drawn = 0
        self._order: list[int] = []
        self._order_epoch = -1

    @property
    def epoch(self) -> float:
        """Passes over the problems so far."""
        return self._drawn / len(self._problems)

    def next(self, count: int) -> list[Problem]:
        return [self._problems[self._draw()] for _ in range(count)]

    def observe(self, groups: Sequence[Group]) -> None:
        return None

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._drawn = state["drawn"]

    def _draw(self) -> int:
        epoch, place = divmod(self._drawn, len(self._problems))
        if epoch != self._order_epoch:
            self._order = list(range(len(self._problems)))
            rng("curriculum", self._seed, epoch).shuffle(self._order)
            self._order_epoch = epoch
        self._drawn += 1
        return self._order[place]
