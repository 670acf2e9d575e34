"""Shapes that move on when the policy is good enough: which stage a run is in. Its state is part of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeGuard, runtime_checkable

from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.shaping.base import Shape
from rlvr.trainers.shaping.sections import Shapes, shapes_in


@runtime_checkable
class Staged(Protocol):
    """A shape with stages, of which the next begins when accuracy was `above` on average over `stage_steps` steps of this one."""

    @property
    def above(self) -> float | None:
        """None: it goes by steps, and has no state."""
        ...

    @property
    def stage_steps(self) -> int: ...

    @property
    def last_stage(self) -> int: ...

    def at_stage(self, stage: int, /) -> Shape: ...


class Stages:
    """The stage of the one shape of an algorithm that goes by accuracy, if there is one.

    Accuracy is the share of correct rollouts among all that a step sampled.

    Raises:
        ConfigError: several shapes go by accuracy.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        found = [shape for shape in shapes_in(algorithm.shape) if _goes_by_accuracy(shape)]
        if len(found) > 1:
            raise ConfigError(
                f"{len(found)} shapes move on by accuracy, but a run is in one stage; leave `above` out of all but one"
            )
        self._staged: Any = found[0] if found else None
        self._stage = 0
        self._recent: list[float] = []

    def apply(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm in the present stage."""
        if self._staged is None:
            return algorithm
        parts = tuple(part.at_stage(self._stage) if _goes_by_accuracy(part) else part for part in shapes_in(algorithm.shape))
        return replace(algorithm, shape=Shapes(parts) if isinstance(algorithm.shape, Shapes) else parts[0])

    def observe(self, correct_share: float | None) -> None:
        """What share of a step's rollouts was correct; None: nothing was scored."""
        if self._staged is None or correct_share is None or self._stage == self._staged.last_stage:
            return
        self._recent = [*self._recent, correct_share][-self._staged.stage_steps :]
        is_long_enough = len(self._recent) == self._staged.stage_steps
        if is_long_enough and math.fsum(self._recent) / len(self._recent) >= self._staged.above:
            self._stage, self._recent = self._stage + 1, []

    def metrics(self) -> dict[str, float]:
        return {} if self._staged is None else {"shape_stage": float(self._stage)}

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self._stage, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._stage, self._recent = state["stage"], list(state["recent"])


def at_stage(algorithm: Algorithm, stage: int) -> Algorithm:
    """The algorithm as it was in a stage that is on record."""
    stages = Stages(algorithm)
    stages.load_state_dict({"stage": stage, "recent": []})
    return stages.apply(algorithm)


def _goes_by_accuracy(shape: Shape) -> TypeGuard[Staged]:
    return isinstance(shape, Staged) and shape.above is not None
