"""L1's length penalties with one target for all problems, for a model whose alphabet has no words to be told a target in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rlvr.trainers.shaping.base import Shape
from rlvr.trainers.shaping.length_penalties import LengthBudget, TargetLength
from rlvr.types import Group

Rewards = list[float | None]


def exact(*, target: int, alpha: float) -> Callable[[Group], Rewards]:
    """LCPO-Exact: the reward falls with the distance from `target` tokens, `alpha` a token."""
    return _with_target(TargetLength(alpha=alpha), target)


def most(*, target: int, alpha: float) -> Callable[[Group], Rewards]:
    """LCPO-Max: half of the reward is left at `target` tokens, `alpha` less for every further token."""
    return _with_target(LengthBudget(alpha=alpha), target)


def _with_target(shape: Shape, target: int) -> Callable[[Group], Rewards]:
    def shaped(group: Group) -> Rewards:
        told = {**group.problem.metadata, "target_tokens": target}
        return shape(replace(group, problem=replace(group.problem, metadata=told)))

    return shaped
