"""From verdicts to incentives: reward shaping, and which groups are worth an update. Plain Python on groups of rollouts.

A shape reads `rollout.reward`, the weighted sum of the verdicts' scores, and gives the reward that is trained on.
Unscored rollouts (reward None) stay None and take no part in a group's statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from rlvr.errors import ConfigError
from rlvr.types import Group, Problem, Rollout


class Shape(Protocol):
    """From the verifiers' weighted sum to the reward that is trained on, one group at a time; evaluation never sees it."""

    def __call__(self, group: Group, /) -> list[float | None]:
        """The shaped reward of each rollout, in order; None stays None, and a rollout that becomes None is left out."""
        ...


@runtime_checkable
class ChecksProblems(Protocol):
    """A shape that reads something of a problem, and says so before a run starts."""

    def check(self, problem: Problem, /) -> None:
        """Raises:
        ConfigError: the problem lacks it.
        """
        ...


@runtime_checkable
class LossFilter(Protocol):
    """A shape that also says which rollouts are learned from. The others keep their place in their group's statistics."""

    def in_loss(self, rollout: Rollout, /) -> bool:
        """Whether the rollout's tokens are learned from."""
        ...


def is_in_loss(shape: Shape, rollout: Rollout) -> bool:
    """What the shape says of the rollout; yes, where it is no `LossFilter`."""
    in_loss = getattr(shape, "in_loss", None)  # asked for every rollout, and isinstance with a protocol is slow
    return in_loss is None or bool(in_loss(rollout))


class KeepGroup(Protocol):
    """Which groups an update takes; a run replaces the others."""

    def __call__(self, group: Group, /) -> bool:
        """Whether the group stays."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """The reward as the verifiers gave it."""

    def __call__(self, group: Group, /) -> list[float | None]:
        return [rollout.reward for rollout in group.rollouts]

    @property
    def formula(self) -> str:
        return "rᵢ = score"

    @property
    def words(self) -> str:
        return "the reward is the verifiers' score, unchanged"


@dataclass(frozen=True, slots=True)
class OverlongPenalty:
    """DAPO's soft overlong punishment: 0 up to max_tokens - buffer, falling linearly to -1 at max_tokens, -1 past it.

    `max_tokens=None` waits for `Algorithm.bind`; `buffer=None` is 20 % of max_tokens (the paper's 4096 of 20480).

    Source: DAPO, arXiv:2503.14476, eq. 13.
    """

    max_tokens: int | None = None
    buffer: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"algorithm.max_tokens = {self.max_tokens}; give the longest response in tokens, 1 or more")
        if self.buffer is not None and self.buffer < 1:
            raise ConfigError(f"algorithm.overlong_buffer = {self.buffer}; give tokens, 1 or more, or overlong=false")
        if self.buffer is not None and self.max_tokens is not None and self.buffer > self.max_tokens:
            raise ConfigError(f"algorithm.overlong_buffer = {self.buffer}; it must not exceed max_tokens = {self.max_tokens}")

    def bind(self, *, max_tokens: int) -> OverlongPenalty:
        return self if self.max_tokens is not None else replace(self, max_tokens=max_tokens)

    def penalty(self, tokens: int) -> float:
        """In [-1, 0], for a response of so many sampled tokens."""
        if self.max_tokens is None:
            raise ConfigError("max_tokens is not set, but the overlong penalty starts near it; set algorithm.max_tokens")
        buffer = self._buffer_of(self.max_tokens)
        return min(0.0, max(-1.0, (self.max_tokens - buffer - tokens) / buffer))

    def __call__(self, group: Group, /) -> list[float | None]:
        return [None if r.reward is None else r.reward + self.penalty(r.completion_tokens) for r in group.rollouts]

    def _buffer_of(self, max_tokens: int) -> int:
        return self.buffer if self.buffer is not None else max(1, round(max_tokens / 5))

    @property
    def formula(self) -> str:
        if self.max_tokens is None:
            start, buffer = "max_tokens − buffer", "buffer" if self.buffer is None else f"{self.buffer}"
            return f"rᵢ = score − min(1, max(0, |oᵢ| − ({start})) / {buffer})"
        buffer_tokens = self._buffer_of(self.max_tokens)
        return f"rᵢ = score − min(1, max(0, |oᵢ| − {self.max_tokens - buffer_tokens}) / {buffer_tokens})"

    @property
    def words(self) -> str:
        buffer = f"{self.buffer} tokens" if self.buffer is not None else "20 % of max_tokens"
        return f"the reward falls linearly by up to 1 over the last {buffer} before the limit"


@dataclass(frozen=True, slots=True)
class OverlongFilter:
    """Truncated rollouts get no gradient: nobody knows whether they would have been right.

    `baseline="in"`: their rewards stay in their group's mean and std, only their tokens are masked; `"out"`: the group is
    compared without them. Both stay in the metrics.

    Source: DAPO, arXiv:2503.14476, section 3.4 (masks their loss).
    """

    baseline: Literal["in", "out"] = "in"

    def __post_init__(self) -> None:
        if self.baseline not in ("in", "out"):
            raise ConfigError(f"overlong_filter.baseline = {self.baseline!r}; allowed: in, out")

    def __call__(self, group: Group, /) -> list[float | None]:
        leaves_out = self.baseline == "out"
        return [None if leaves_out and rollout.is_truncated else rollout.reward for rollout in group.rollouts]

    def in_loss(self, rollout: Rollout, /) -> bool:
        return not rollout.is_truncated

    @property
    def formula(self) -> str:
        return "rᵢ = score" + (", no rᵢ if truncated" if self.baseline == "out" else ";  no loss on oᵢ if truncated")

    @property
    def words(self) -> str:
        place = "still in their group's statistics" if self.baseline == "in" else "and out of their group's statistics"
        return f"truncated rollouts are left out of the loss, {place}"


@dataclass(frozen=True, slots=True)
class KeepAll:
    """Every group is trained on."""

    min_group_size = 1

    def __call__(self, group: Group, /) -> bool:
        return True

    @property
    def words(self) -> str:
        return "all groups stay in the batch, those without signal too"


@dataclass(frozen=True, slots=True)
class MixedOutcomes:
    """Keep a group only if its rollouts did not all score the same: DAPO's dynamic sampling, 0 < accuracy < 1.

    The verifier's score decides, not the shaped reward: a length penalty must not make signal of an unsolved problem.

    Source: DAPO, arXiv:2503.14476, eq. 11.
    """

    min_group_size = 2

    def __call__(self, group: Group, /) -> bool:
        return len({score for score in map(_score, group.rollouts) if score is not None}) > 1

    @property
    def words(self) -> str:
        return "groups in which all rollouts score the same are dropped, and the batch is refilled"


def _score(rollout: Rollout) -> float | None:
    return rollout.verdict.score if rollout.verdict is not None else rollout.reward
