"""Objectives: the policy loss of each token. A token is "clipped" when the clip took its gradient (or cut its ratio)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.kl import MAX_LOG_RATIO


@dataclass(frozen=True, slots=True)
class Tokens:
    """One micro-batch; every tensor has the shape of `logprobs`. Values outside the mask are 0.

    `old_logprobs` equals `logprobs.detach()` when the policy has not moved: the ratio is then exactly 1, with a gradient.
    """

    logprobs: Tensor  # with gradient
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor  # bool
    rollout_index: Tensor  # long: token -> rollout

    def log_ratio(self) -> Tensor:
        """log π_θ - log π_old, the shape of `logprobs`."""
        return self.logprobs - self.old_logprobs


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """The policy loss of each token, before its weight, and where a clip took its gradient away."""

    loss: Tensor  # the shape of logprobs
    is_clipped: Tensor  # bool, the shape of logprobs


class Objective(Protocol):
    """The policy loss as a function of new and old log-probabilities and advantages."""

    def __call__(self, tokens: Tokens, /) -> TokenLoss:
        """The loss of each token, to be minimised. A micro-batch is not the step: means over a step belong to the aggregation."""
        ...


def ratio_of(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio), kept below overflow: a token past e^20 is lost to learning, and must not make the step infinite."""
    return torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO))


@dataclass(frozen=True, slots=True)
class Clipped:
    """PPO's pessimistic clip: -min(ρA, clip(ρ, 1-low, 1+high) A); `dual_clip=c` bounds it by cA where A < 0.

    Source: PPO, arXiv:1707.06347, eq. 7; low != high: DAPO, arXiv:2503.14476, eq. 10; dual clip: arXiv:1912.09729, eq. 5.
    """

    low: float = 0.2
    high: float = 0.2
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high)
        if self.dual_clip is not None and not (math.isfinite(self.dual_clip) and self.dual_clip > 1 + self.high):
            raise ConfigError(f"algorithm.dual_clip = {self.dual_clip}; it bounds ratios above 1 + clip_high, e.g. 3.0")

    def __call__(self, tokens: Tokens, /) -> TokenLoss:
        return _pessimistic(ratio_of(tokens.log_ratio()), tokens.advantages, self.low, self.high, self.dual_clip)

    @property
    def formula(self) -> str:
        inner = f"min(ρᵢₜ Aᵢₜ, clip(ρᵢₜ, {1 - self.low:g}, {1 + self.high:g}) Aᵢₜ)"
        return inner if self.dual_clip is None else f"[A≥0: {inner};  A<0: max({inner}, {self.dual_clip:g} Aᵢₜ)]"

    @property
    def where(self) -> str:
        return "ρᵢₜ = π_θ(oᵢₜ) / π_old(oᵢₜ)"

    @property
    def words(self) -> str:
        higher = "; the wider upper side leaves room for rare tokens to grow" if self.high > self.low else ""
        dual = f"; for A<0 the ratio is cut at {self.dual_clip:g}" if self.dual_clip is not None else ""
        return f"a token stops learning once its probability moved by −{self.low:g}/+{self.high:g} (relative){higher}{dual}"


@dataclass(frozen=True, slots=True)
class Reinforce:
    """-A log π: the plain policy gradient, exact only while the policy has not moved. Source: Williams 1992."""

    needs_fresh = True

    def __call__(self, tokens: Tokens, /) -> TokenLoss:
        return TokenLoss(-tokens.advantages * tokens.logprobs, torch.zeros_like(tokens.mask))

    @property
    def formula(self) -> str:
        return "Aᵢₜ log π_θ(oᵢₜ)"

    @property
    def words(self) -> str:
        return "the plain policy gradient: no ratio and no clip, so keep to one update for each batch"


@dataclass(frozen=True, slots=True)
class SequenceClipped:
    """GSPO: the clip acts on the whole rollout's ratio s = exp(mean log ρ).

    Each token carries s with its own gradient, sg(s) π/sg(π), so that the mean over a rollout's tokens is the paper's
    sequence objective, value and gradient. All rows of a rollout must be in the same micro-batch.

    Source: GSPO, arXiv:2507.18071, eq. 5, 7 and 13.
    """

    low: float = 3e-4
    high: float = 4e-4
    needs_whole_rollouts = True

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high)

    def __call__(self, tokens: Tokens, /) -> TokenLoss:
        ratio = ratio_of(_mean_per_rollout(tokens.log_ratio().detach(), tokens))
        own_gradient = torch.exp(tokens.logprobs - tokens.logprobs.detach())
        return _pessimistic(ratio * own_gradient, tokens.advantages, self.low, self.high, None)

    @property
    def formula(self) -> str:
        return f"min(sᵢ Aᵢₜ, clip(sᵢ, {1 - self.low:g}, {1 + self.high:g}) Aᵢₜ)"

    @property
    def where(self) -> str:
        return "sᵢ = (π_θ(oᵢ) / π_old(oᵢ))^(1/|oᵢ|)"

    @property
    def words(self) -> str:
        return f"a rollout as a whole stops learning once its mean log-probability moved by about −{self.low:g}/+{self.high:g}"


@dataclass(frozen=True, slots=True)
class StopGradRatio:
    """CISPO: -sg(clip(ρ, ratio_min, ratio_max)) A log π. The bounds are absolute ratios; no token loses its gradient.

    Source: MiniMax-M1, arXiv:2506.13585, eq. 4 and 5.
    """

    ratio_max: float = 5.0
    ratio_min: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio_max) and self.ratio_max > 0):
            raise ConfigError(f"algorithm.ratio_max = {self.ratio_max}; give an absolute ratio above 0, e.g. 5.0")
        if not 0 <= self.ratio_min <= self.ratio_max:
            raise ConfigError(f"algorithm.ratio_min = {self.ratio_min}; give a ratio between 0 and ratio_max = {self.ratio_max}")

    def __call__(self, tokens: Tokens, /) -> TokenLoss:
        ratio = ratio_of(tokens.log_ratio().detach())
        bounded = ratio.clamp(self.ratio_min, self.ratio_max)
        return TokenLoss(-bounded * tokens.advantages * tokens.logprobs, bounded != ratio)

    @property
    def formula(self) -> str:
        return f"sg[clip(ρᵢₜ, {self.ratio_min:g}, {self.ratio_max:g})] Aᵢₜ log π_θ(oᵢₜ)"

    @property
    def where(self) -> str:
        return "ρᵢₜ = π_θ(oᵢₜ) / π_old(oᵢₜ),  sg = no gradient"

    @property
    def words(self) -> str:
        return f"every token keeps its gradient; its importance ratio is only cut to [{self.ratio_min:g}, {self.ratio_max:g}]"


def _pessimistic(ratio: Tensor, advantages: Tensor, low: float, high: float, dual_clip: float | None) -> TokenLoss:
    is_too_high = (advantages > 0) & (ratio > 1 + high)
    is_too_low = (advantages < 0) & (ratio < 1 - low)
    is_clipped = is_too_high | is_too_low
    bound = ratio.detach().clamp(1 - low, 1 + high)
    if dual_clip is not None:
        is_runaway = (advantages < 0) & (ratio > dual_clip)
        is_clipped = is_clipped | is_runaway
        bound = bound.masked_fill(is_runaway, dual_clip)
    return TokenLoss(-torch.where(is_clipped, bound, ratio) * advantages, is_clipped.detach())


def _mean_per_rollout(values: Tensor, tokens: Tokens) -> Tensor:
    """The mean over the sampled tokens of each rollout, on each of its tokens."""
    ids, inverse = torch.unique(tokens.rollout_index, return_inverse=True)
    flat = inverse.flatten()
    sums = values.new_zeros(len(ids)).index_add(0, flat, values.masked_fill(~tokens.mask, 0).flatten())
    counts = values.new_zeros(len(ids)).index_add(0, flat, tokens.mask.flatten().to(values.dtype))
    return (sums / counts.clamp(min=1))[inverse]


def _check_clip(low: float, high: float) -> None:
    for name, value in (("clip_low", low), ("clip_high", high)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"algorithm.{name} = {value}; give how far a ratio may move from 1: 0 or more, e.g. 0.2")
    if low > 1:
        raise ConfigError(f"algorithm.clip_low = {low}; ratios are never below 0, so give at most 1")
