"""Aggregation: how per-token losses become one number, as weights [B, T] that are computed once from the whole step.

The loss is `(weights * per_token_loss).sum()`. It is linear in the tokens, so every split into micro-batches, packs or
ranks gives the same gradient; a mean taken inside each micro-batch does not. "Sequence" means rollout: a rollout in two
rows counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.step import Step


class Aggregate(Protocol):
    """What each sampled token weighs in the step's loss, computed once, so that micro-batches cannot change the gradient."""

    def __call__(self, step: Step, /) -> Tensor:
        """[B, T] weights, zero outside `step.mask`."""
        ...


@dataclass(frozen=True, slots=True)
class SequenceMean:
    """The mean over a rollout's tokens, then over rollouts: 1 / (R |o_i|). Source: GRPO, arXiv:2402.03300, eq. 3."""

    def __call__(self, step: Step, /) -> Tensor:
        # A rollout without sampled tokens has nothing to weigh; the 1 only keeps its division defined.
        return step.spread(1 / (step.rollouts * step.tokens_per_rollout().clamp(min=1)))

    @property
    def formula(self) -> str:
        return "1/R Σᵢ 1/|oᵢ| Σₜ"

    @property
    def words(self) -> str:
        return "every rollout weighs the same, so a long wrong answer is punished less per token than a short one"


@dataclass(frozen=True, slots=True)
class TokenMean:
    """The mean over all sampled tokens of the step: 1 / sum |o_i|. Source: DAPO, arXiv:2503.14476, eq. 8."""

    def __call__(self, step: Step, /) -> Tensor:
        mask = step.mask.to(step.rewards.dtype)
        return mask / mask.sum().clamp(min=1)

    @property
    def formula(self) -> str:
        return "1/Σ|oᵢ| Σᵢ Σₜ"

    @property
    def words(self) -> str:
        return "every token of the step weighs the same, so a long rollout weighs more"


@dataclass(frozen=True, slots=True)
class SequenceSum:
    """The sum over a rollout's tokens, then the mean over rollouts: 1 / R. Source: RLOO, arXiv:2402.14740."""

    def __call__(self, step: Step, /) -> Tensor:
        return step.spread(torch.full_like(step.rewards, 1 / step.rollouts))

    @property
    def formula(self) -> str:
        return "1/R Σᵢ Σₜ"

    @property
    def words(self) -> str:
        return "the log-probability of the whole rollout, not divided by its length; the gradient grows with length"


@dataclass(frozen=True, slots=True)
class TokenSumOver:
    """The sum over a rollout's tokens over a constant, then the mean over rollouts: 1 / (R max_tokens).

    `max_tokens=None` waits for `Algorithm.bind`. Source: Dr. GRPO, arXiv:2503.20783, listing 1.
    """

    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"algorithm.max_tokens = {self.max_tokens}; give the longest response in tokens, 1 or more")

    def bind(self, *, max_tokens: int) -> TokenSumOver:
        return self if self.max_tokens is not None else replace(self, max_tokens=max_tokens)

    def __call__(self, step: Step, /) -> Tensor:
        if self.max_tokens is None:
            raise ConfigError("max_tokens is not set, but the loss is divided by it; set algorithm.max_tokens")
        return step.spread(torch.full_like(step.rewards, 1 / (step.rollouts * self.max_tokens)))

    @property
    def formula(self) -> str:
        return f"1/(R·{self.max_tokens or 'max_tokens'}) Σᵢ Σₜ"

    @property
    def words(self) -> str:
        constant = self.max_tokens or "the run's max_tokens"
        return f"every token weighs the same, whatever the lengths are: the divisor is a constant ({constant})"
