"""Shapes by name: the `[[shapes]]` of a recipe, and several of them one after the other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr.config import ShapeConfig
from rlvr.errors import PluginError
from rlvr.registry import resolve
from rlvr.trainers.algorithms import Algorithm, BoundToLength, BoundToStep
from rlvr.trainers.arguments import checked_arguments
from rlvr.trainers.shaping.base import Identity, Shape, is_in_loss
from rlvr.types import Group, Rollout


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes in order: each reads the rewards that the one before it gave, the first the verifiers' weighted sum."""

    parts: tuple[Shape, ...]

    def __call__(self, group: Group, /) -> list[float | None]:
        for part in self.parts:
            rewards = part(group)
            shaped = (replace(rollout, reward=reward) for rollout, reward in zip(group.rollouts, rewards, strict=True))
            group = replace(group, rollouts=tuple(shaped))
        return [rollout.reward for rollout in group.rollouts]

    def bind(self, *, max_tokens: int) -> Shapes:
        return Shapes(tuple(p.bind(max_tokens=max_tokens) if isinstance(p, BoundToLength) else p for p in self.parts))

    def at_step(self, step: int, /) -> Shapes:
        return Shapes(tuple(part.at_step(step) if isinstance(part, BoundToStep) else part for part in self.parts))

    def in_loss(self, rollout: Rollout, /) -> bool:
        return all(is_in_loss(part, rollout) for part in self.parts)

    @property
    def formula(self) -> str:
        return "\n".join(formulas(self))

    @property
    def words(self) -> str:
        return "; then ".join(str(getattr(part, "words", "a shape of your own")) for part in self.parts)


def shapes_in(shape: Shape) -> tuple[Shape, ...]:
    """The single shapes that a shape consists of, in order."""
    return shape.parts if isinstance(shape, Shapes) else (shape,)


def formulas(shape: Shape) -> list[str]:
    """One line for each shape in order; from the second on, `rᵢ` on the right is the reward that the line above gave."""
    lines = [_formula(part) for part in shapes_in(shape)]
    return lines[:1] + [re.sub(r"\bscore\b", "rᵢ", line).replace("rᵢ =", "rᵢ ←", 1) for line in lines[1:]]


def build_shape(reference: str, arguments: Mapping[str, Any] | None = None) -> Shape:
    """A shape from a plugin's name or reference and its keyword arguments.

    Raises:
        PluginError: no such shape, or what it makes cannot be called with a group.
        ConfigError: an argument is unknown (with the closest known one) or has a wrong value.
    """
    target = resolve("shapes", reference).target
    if not callable(target):
        raise PluginError(f"shapes plugin {reference!r} is {target!r}, but a class or function that makes a shape is needed")
    shape = target(**checked_arguments(f"shape {reference!r}", target, arguments or {}, section=f"shapes.{reference}"))
    if not callable(shape):
        raise PluginError(f"shapes plugin {reference!r} made {shape!r}, but a shape is called with a group")
    made: Shape = shape
    return made


def with_shapes(algorithm: Algorithm, shapes: Sequence[ShapeConfig]) -> Algorithm:
    """The algorithm with these shapes after its own.

    Raises:
        PluginError, ConfigError: see `build_shape`.
    """
    if not shapes:
        return algorithm
    own = () if isinstance(algorithm.shape, Identity) else (algorithm.shape,)
    parts = (*own, *(build_shape(shape.name, shape.arguments) for shape in shapes))
    return replace(algorithm, shape=parts[0] if len(parts) == 1 else Shapes(parts))


def _formula(shape: Shape) -> str:
    return str(getattr(shape, "formula", None) or f"rᵢ = {getattr(shape, '__qualname__', type(shape).__qualname__)}(score)")
