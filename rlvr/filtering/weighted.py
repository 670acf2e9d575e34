"""Curricula that draw each problem with a weight that what is known of its solve rate decides."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import ConfigError
from rlvr.filtering.beta import beta_cdf
from rlvr.filtering.curriculum import Course, StarvedError
from rlvr.seeding import rng
from rlvr.types import Group, Problem

Floats = NDArray[np.float64]


class Weighted(ABC):
    """Draws without replacement within a step, in proportion to `weights`. What it draws depends on the step and the beliefs
    alone, so that it has no state of its own.

    `starved_below` is the largest weight at which nothing is worth drawing any more.
    """

    starved_below = 0.0

    def __init__(self, course: Course) -> None:
        self._course = course
        self._ids = [problem.id for problem in course.problems]
        self._step = -1
        self._calls = 0
        self._drawn: set[int] = set()  # in this step

    @abstractmethod
    def weights(self, a: Floats, b: Floats, step: int) -> Floats:
        """[n], 0 or more, from the beliefs Beta(a, b) about the n problems."""

    @property
    @abstractmethod
    def words(self) -> str: ...

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to change when it starves."""

    def next(self, count: int, step: int) -> list[Problem]:
        if step != self._step:
            self._step, self._calls, self._drawn = step, 0, set()
        weights = self._weights(step)
        chosen: list[int] = []
        while len(chosen) < count:
            free = [index for index in np.flatnonzero(weights > 0).tolist() if index not in self._drawn]
            if not free:  # fewer problems than a step needs: again from the beginning
                self._drawn.clear()
                continue
            chosen += self._some(free, weights, count - len(chosen))
        return [self._course.problems[index] for index in chosen]

    def shares(self, step: int) -> list[float]:
        weights = self._weights(step)
        found: list[float] = (weights / weights.sum()).tolist()
        return found

    def observe(self, groups: Sequence[Group], step: int) -> None:
        return None

    def metrics(self, step: int) -> dict[str, float]:
        a, b = self._course.rates.beliefs(self._ids, step)
        weights = self.weights(a, b, step)
        total = float(weights.sum())
        if not total > 0:
            return {}
        return {"curriculum_rate": float((weights * a / (a + b)).sum() / total)}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None

    def _some(self, free: Sequence[int], weights: Floats, count: int) -> list[int]:
        """Up to `count` of the problems `free`, drawn in proportion to their weights.

        Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the smallest of -log(u) / w.
        """
        random = rng("curriculum", self._course.seed, self._step, self._calls)
        self._calls += 1
        keys = {index: -math.log(1.0 - random.random()) / float(weights[index]) for index in free}
        taken = sorted(free, key=lambda index: (keys[index], index))[:count]
        self._drawn.update(taken)
        return taken

    def _weights(self, step: int) -> Floats:
        a, b = self._course.rates.beliefs(self._ids, step)
        weights = self.weights(a, b, step)
        if not weights.max() > self.starved_below:
            raise self._starved(a / (a + b), step)
        # A weight of nearly nothing beside others is nothing: its key would overflow.
        return np.where(weights < 1e-12 * weights.max(), 0.0, weights)

    def _starved(self, mean: Floats, step: int) -> StarvedError:
        total = len(mean)
        solved, failed = int((mean > 0.8).sum()), int((mean < 0.2).sum())
        return StarvedError(
            f"the curriculum has nothing left to draw at step {step}: of {total} problems {solved} are believed to be solved "
            f"more than 80 % of the time, {failed} less than 20 %, and {total - solved - failed} lie between. {self.remedy}",
            is_solved=solved > failed,
        )


class Window(Weighted):
    """Draws problems whose solve rate lies in a window, each with the probability that it does.

    A problem that nobody tried has a good chance, so it is tried; one that was out of the window is forgotten in time, and tried
    again. Source of the window: 20 to 80 %, as in the offline filters of DAPO and Big-Math (arXiv:2502.17387).
    """

    starved_below = 0.02

    def __init__(self, course: Course, low: float = 0.2, high: float = 0.8) -> None:
        super().__init__(course)
        if not 0.0 <= low < high <= 1.0:
            raise ConfigError(f"low = {low} and high = {high}; solve rates lie between 0 and 1, and low is the smaller one")
        self._low, self._high = low, high

    def weights(self, a: Floats, b: Floats, step: int) -> Floats:
        # Most problems are alike: nobody tried them, or as often and with as much success.
        kinds, kind_of = np.unique(a + 1j * b, return_inverse=True)
        whole = beta_cdf(np.full(len(kinds), self._high), kinds.real, kinds.imag)
        chances: Floats = (whole - beta_cdf(np.full(len(kinds), self._low), kinds.real, kinds.imag))[kind_of]
        return chances

    @property
    def words(self) -> str:
        return f"problems are drawn by how likely their solve rate is to lie between {self._low:.0%} and {self._high:.0%}"

    @property
    def remedy(self) -> str:
        return "Widen the window (curriculum.low, curriculum.high), give it other problems, or use curriculum=uniform"


class Learnability(Weighted):
    """Draws problems by the expected variance of their outcomes, E[p (1 - p)], to the power of `sharpness`.

    Source: Foster and Foerster, "Learning to Reason at the Frontier of Learnability", arXiv:2502.12272 (p (1 - p); the
    expectation under the belief is ours, since the rate is not known).
    """

    starved_below = 0.01

    def __init__(self, course: Course, sharpness: float = 1.0) -> None:
        super().__init__(course)
        if not (math.isfinite(sharpness) and sharpness > 0):
            raise ConfigError(f"sharpness = {sharpness}; give a number above 0: 1 draws in proportion to p (1 - p)")
        self._sharpness = sharpness

    def weights(self, a: Floats, b: Floats, step: int) -> Floats:
        learnability: Floats = a * b / ((a + b) * (a + b + 1.0))
        # Relative to what it can be at most, so that the threshold means the same for every power.
        return (4.0 * learnability) ** self._sharpness

    @property
    def words(self) -> str:
        power = "" if self._sharpness == 1 else f", to the power of {self._sharpness:g}"
        return f"problems are drawn in proportion to p (1 - p), as it is expected{power}: those solved half of the time most"

    @property
    def remedy(self) -> str:
        return "Nearly all are always or never solved: give it problems of another difficulty, or use curriculum=uniform"


class EasyToHard(Weighted):
    """Starts with what is solved often and ends with what is solved rarely.

    By solve rate (`by="rate"`): the rate that is drawn most falls evenly from `first` to `last` over the run. By a number in
    the problems' metadata (`by="terms"`): the easiest `first` share of the problems at the beginning, all of them from
    `until` of the run on, drawn evenly.
    """

    def __init__(
        self,
        course: Course,
        by: str = "rate",
        first: float | None = None,
        last: float = 0.2,
        width: float = 0.15,
        until: float = 0.5,
    ) -> None:
        super().__init__(course)
        default = 0.8 if by == "rate" else 0.2
        self._first = default if first is None else first
        self._last, self._width, self._until, self._by = last, width, until, by
        for name, value in (("first", self._first), ("last", last), ("width", width), ("until", until)):
            if not 0.0 < value <= 1.0:
                raise ConfigError(f"{name} = {value}; give a share, above 0 and up to 1")
        self._ranks = None if by == "rate" else _ranks(course.problems, by)

    def weights(self, a: Floats, b: Floats, step: int) -> Floats:
        progress = min(1.0, step / max(1, self._course.steps - 1))
        if self._ranks is not None:
            share = min(1.0, self._first + (1.0 - self._first) * progress / self._until)
            return (self._ranks < max(share, float(self._ranks.min()) + 1e-9)).astype(np.float64)
        target = self._first + (self._last - self._first) * progress
        mean = a / (a + b)
        # A Gaussian around the target, averaged over a belief of this mean and variance: wide where little is known.
        variance = self._width**2 + mean * (1.0 - mean) / (a + b + 1.0)
        exponent = -((mean - target) ** 2) / (2.0 * variance)
        weights: Floats = np.exp(exponent - exponent.max()) / np.sqrt(variance)
        return weights

    @property
    def words(self) -> str:
        if self._ranks is not None:
            return (
                f"by {self._by}: the easiest {self._first:.0%} of the problems first, all of them from "
                f"{self._until:.0%} of the run on"
            )
        return f"the solve rate that is drawn most falls from {self._first:.0%} to {self._last:.0%} over the run"

    @property
    def remedy(self) -> str:
        return "Use curriculum=uniform"


def _ranks(problems: Sequence[Problem], key: str) -> Floats:
    """[n] the share of the problems that are easier than each, by a number in their metadata."""
    values = [problem.metadata.get(key) for problem in problems]
    for problem, value in zip(problems, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(
                f"by = {key!r}, but problem {problem.id!r} has metadata {key} = {value!r}: a number is needed for each problem, "
                'or by = "rate"'
            )
    numbers = np.array(values, dtype=np.float64)
    found: Floats = np.searchsorted(np.sort(numbers), numbers, side="left") / len(numbers)
    return found
