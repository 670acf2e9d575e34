"""Which problems come next. Curricula are plugins: each is made for one run, and chooses by what is known of the solve rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.errors import ConfigError, TrainingError, boundary
from rlvr.filtering.posterior import SolveRates
from rlvr.registry import resolve
from rlvr.seeding import rng
from rlvr.types import Group, Problem


class StarvedError(TrainingError):
    """Nothing is left that would teach anything; the policy is untouched. `is_solved`: because it has learned it all."""

    def __init__(self, message: str, *, is_solved: bool = False) -> None:
        super().__init__(message)
        self.is_solved = is_solved


@dataclass(frozen=True, slots=True)
class Course:
    """What a curriculum is made for: the problems of a run, in order, what is known of them, and how they are drawn."""

    problems: Sequence[Problem]
    rates: SolveRates  # of the same problems, in the same order; others update it
    group_size: int = 16
    steps: int = 200
    seed: int = 0


class Curriculum(Protocol):
    """Chooses problems, learns from what became of them, and can be saved and restored exactly.

    A plugin is a callable `make(course, **arguments)` that returns one. Within a step `next` may be called several times, when
    groups without signal are refilled; `step` is the number of updates so far and never decreases.
    """

    def next(self, count: int, step: int) -> list[Problem]:
        """The problems to try next, `count` of them; no problem twice in a step while there are others.

        Raises:
            StarvedError: nothing is left that it would draw.
        """
        ...

    def shares(self, step: int) -> Sequence[float]:
        """The share of the draws at `step` that each problem of the course can expect, as far as is known now."""
        ...

    def observe(self, groups: Sequence[Group], step: int) -> None:
        """What groups of `step` came to, some at a time; `Course.rates` is told by others, after the step."""
        ...

    def metrics(self, step: int) -> Mapping[str, float]:
        """What is worth a line in the step's metrics."""
        ...

    @property
    def words(self) -> str:
        """What it does, as one line."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it would need to go on in another process, as JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


def make_curriculum(course: Course, name: str = "uniform", arguments: Mapping[str, Any] | None = None) -> Curriculum:
    """The curriculum plugin `name` for a course.

    Raises:
        PluginError: there is no such curriculum.
        ConfigError: there are no problems, two have one id, or it does not take these arguments.
    """
    _check_problems(course.problems)
    make = resolve("curricula", name).target
    with boundary(ConfigError, f"curriculum {name!r} with {dict(arguments or {})}"):
        made: Curriculum = make(course, **dict(arguments or {}))
    return made


def nested(course: Course, wanted: str | Mapping[str, Any]) -> Curriculum:
    """The curriculum that another one is wrapped around: a name, or a table with `name` and its arguments."""
    if isinstance(wanted, str):
        return make_curriculum(course, wanted)
    arguments = dict(wanted)
    return make_curriculum(course, str(arguments.pop("name", "uniform")), arguments)


def _check_problems(problems: Sequence[Problem]) -> None:
    if not problems:
        raise ConfigError("there are no problems to train on: the split is empty, or the pass-rate window kept none")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ConfigError(f"two problems have the id {problem.id!r}, so what is known of one would be believed of the other")
        seen.add(problem.id)


class Uniform:
    """Every problem once per epoch, in an order drawn anew for each epoch."""

    def __init__(self, course: Course) -> None:
        _check_problems(course.problems)
        self._problems = course.problems
        self._seed = course.seed
        self._drawn = 0
        self._order: list[int] = []
        self._order_epoch = -1

    def next(self, count: int, step: int) -> list[Problem]:
        return [self._problems[self._draw()] for _ in range(count)]

    def shares(self, step: int) -> list[float]:
        return [1.0 / len(self._problems)] * len(self._problems)

    def observe(self, groups: Sequence[Group], step: int) -> None:
        return None

    def metrics(self, step: int) -> dict[str, float]:
        return {"epoch": self._drawn / len(self._problems)}

    @property
    def words(self) -> str:
        return "every problem once in each pass, in an order drawn anew for each pass"

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._drawn = state["drawn"]

    def _draw(self) -> int:
        epoch, place = divmod(self._drawn, len(self._problems))
        if epoch != self._order_epoch:
            self._order = list(range(len(self._problems)))
            rng("curriculum", self._seed, epoch).shuffle(self._order)
            self._order_epoch = epoch
        self._drawn += 1
        return self._order[place]
