"""Advantages: how much better a rollout, or a token of it, was than expected.

An advantage is a function of the whole `Step` that gives [B, T], zero outside the mask. `PerRollout` gives all tokens of
a rollout one number, made by a score such as `Normalize`; `WhitenedReturns` gives each token its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.step import Groups, Step


class Advantage(Protocol):
    """How much better than expected each sampled token's rollout was, from the whole step at once."""

    def __call__(self, step: Step, /) -> Tensor:
        """[B, T], zero outside `step.mask`, without gradient."""
        ...


class Score(Protocol):
    """An advantage that is the same for all tokens of a rollout."""

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        """[R] rewards -> [R] advantages."""
        ...


@dataclass(frozen=True, slots=True)
class Normalize:
    """(r - mean) / (std + eps) over the group. A group without variance, or of one rollout, gets exactly 0.

    Source: GRPO, arXiv:2402.03300, section 4.1.2. The paper leaves the kind of std and eps open; the defaults (sample std,
    1e-4) are TRL's and those of the RLHF book's reference code. verl adds 1e-6, open-instruct uses the population std.
    """

    std_eps: float = 1e-4
    ddof: int = 1
    min_group_size = 2

    def __post_init__(self) -> None:
        _check_std(self.std_eps, self.ddof)

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        centered = rewards - groups.mean(rewards)
        degrees = (groups.sizes() - self.ddof).clamp(min=1)
        std = (groups.sum(centered.square()) / degrees).sqrt()
        return (centered / (std + self.std_eps)).masked_fill(groups.is_constant(rewards), 0)

    @property
    def formula(self) -> str:
        return f"(rᵢ − mean_g(r)) / (std_g(r) + {self.std_eps:g})"

    @property
    def words(self) -> str:
        kind = "sample std, n−1" if self.ddof == 1 else "population std, n"
        return f"rewards are compared within their group and divided by the group's std ({kind})"


@dataclass(frozen=True, slots=True)
class NormalizeOverBatch:
    """Centred within the group, then whitened over all rollouts of the step: (A - mean) / (std + eps).

    Source: Magistral, arXiv:2506.10910. TRL's `scale_rewards="batch"` divides by the std of the rewards instead.
    """

    std_eps: float = 1e-4
    ddof: int = 1
    min_group_size = 2

    def __post_init__(self) -> None:
        _check_std(self.std_eps, self.ddof)

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        centered = Center()(rewards, groups)
        if bool((centered == 0).all()):
            return centered
        shifted = centered - centered.mean()
        std = (shifted.square().sum() / max(len(rewards) - self.ddof, 1)).sqrt()
        return shifted / (std + self.std_eps)

    @property
    def formula(self) -> str:
        return f"(aᵢ − mean(a)) / (std(a) + {self.std_eps:g}),  aᵢ = rᵢ − mean_g(r)"

    @property
    def words(self) -> str:
        return "rewards are centred within their group and divided by one std of the whole step"


@dataclass(frozen=True, slots=True)
class Center:
    """r - mean over the group. Source: Dr. GRPO, arXiv:2503.20783, section 3.2."""

    min_group_size = 2

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        return (rewards - groups.mean(rewards)).masked_fill(groups.is_constant(rewards), 0)

    @property
    def formula(self) -> str:
        return "rᵢ − mean_g(r)"

    @property
    def words(self) -> str:
        return "rewards are compared with the mean of their group; no std, so easy and hard problems weigh the same"


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """r minus the mean of the group's other rollouts = n/(n-1) * (r - mean). A rollout that is alone gets 0.

    Source: RLOO, arXiv:2402.14740; Kool et al. 2019.
    """

    min_group_size = 2

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        sizes = groups.sizes()
        return Center()(rewards, groups) * sizes / (sizes - 1).clamp(min=1)

    @property
    def formula(self) -> str:
        return "rᵢ − mean of the other r in group g"

    @property
    def words(self) -> str:
        return "the baseline is the mean reward of the group's other rollouts: unbiased"


@dataclass(frozen=True, slots=True)
class BatchMean:
    """r minus the mean reward of the step, whatever the groups. Source: Williams 1992 (REINFORCE with a baseline)."""

    min_group_size = 1

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        return rewards - rewards.mean()

    @property
    def formula(self) -> str:
        return "rᵢ − mean(r)"

    @property
    def words(self) -> str:
        return "the baseline is the mean reward of the whole step"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The reward itself, without a baseline."""

    min_group_size = 1

    def __call__(self, rewards: Tensor, groups: Groups, /) -> Tensor:
        return rewards

    @property
    def formula(self) -> str:
        return "rᵢ"

    @property
    def words(self) -> str:
        return "no baseline: the reward itself, with the most variance"


@dataclass(frozen=True, slots=True)
class PerRollout:
    """One advantage for each rollout, the same on all its tokens. KL in the reward is summed over the rollout first."""

    score: Score

    def __call__(self, step: Step, /) -> Tensor:
        rewards = step.rewards
        if step.token_penalty is not None:
            rewards = rewards - step.sum_per_rollout(step.token_penalty)
        return step.spread(self.score(rewards, step.groups))

    @property
    def min_group_size(self) -> int:
        return getattr(self.score, "min_group_size", 1)

    @property
    def formula(self) -> str:
        return f"Aᵢₜ = {getattr(self.score, 'formula', self.score)}"

    @property
    def words(self) -> str:
        return getattr(self.score, "words", str(self.score))


@dataclass(frozen=True, slots=True)
class WhitenedReturns:
    """REINFORCE++: A_t = score - sum of the KL penalty from t on, whitened over all sampled tokens of the step.

    `score=Center()` is the paper's "REINFORCE++ w/ baseline". The population std is the one of the authors' code (OpenRLHF);
    verl takes the sample std.

    Source: arXiv:2501.03262.
    """

    score: Score = field(default_factory=Unchanged)
    std_eps: float = 1e-8
    ddof: int = 0

    def __post_init__(self) -> None:
        _check_std(self.std_eps, self.ddof)

    def __call__(self, step: Step, /) -> Tensor:
        returns = step.spread(self.score(step.rewards, step.groups))
        if step.token_penalty is not None:
            returns = returns - _sum_from_here_on(step.token_penalty, step)
        sampled = returns[step.mask]
        # The exact test for "no variance": rounding would leave 1e-8, and the division would make 1 of it.
        if len(sampled) == 0 or bool(sampled.max() == sampled.min()):
            return torch.zeros_like(returns)
        mean, std = sampled.mean(), sampled.std(correction=self.ddof)
        return ((returns - mean) / (std + self.std_eps)).masked_fill(~step.mask, 0)

    @property
    def min_group_size(self) -> int:
        return getattr(self.score, "min_group_size", 1)

    @property
    def formula(self) -> str:
        score = getattr(self.score, "formula", self.score)
        return f"Aᵢₜ = (aᵢₜ − mean(a)) / (std(a) + {self.std_eps:g}),  aᵢₜ = {score}"

    @property
    def words(self) -> str:
        return f"returns are whitened over all tokens of the step; {getattr(self.score, 'words', self.score)}"


def _sum_from_here_on(values: Tensor, step: Step) -> Tensor:
    """[B, T] -> [B, T]: the sum over this and all later sampled tokens of the rollout, its later rows included."""
    values = values.masked_fill(~step.mask, 0)
    to_the_right = values.flip(1).cumsum(1).flip(1)
    rows = torch.arange(len(values), device=values.device)
    is_later = (step.rollout_index[:, None] == step.rollout_index[None, :]) & (rows[:, None] < rows[None, :])
    later_rows = is_later.to(values.dtype) @ values.sum(1)
    return (to_the_right + later_rows.unsqueeze(1)).masked_fill(~step.mask, 0)


def _check_std(std_eps: float, ddof: int) -> None:
    if not (math.isfinite(std_eps) and std_eps >= 0):
        raise ConfigError(f"algorithm.std_eps = {std_eps}; it is added to a std, so give 0 or more, e.g. 1e-4")
    if ddof not in (0, 1):
        raise ConfigError(f"algorithm.std_ddof = {ddof}; give 1 (sample std, n-1) or 0 (population std, n)")
