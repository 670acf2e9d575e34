"""Correction for tokens that were sampled under other probabilities than the trainer's: other kernels, dtypes or weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.kl import MAX_LOG_RATIO


class Correction(Protocol):
    """Makes up for tokens that were sampled under other probabilities than the trainer's."""

    def __call__(self, old_logprobs: Tensor, sampling_logprobs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Two [B, T]: a factor for each token's policy loss, without gradient; and bool, True where it was cut."""
        ...


@dataclass(frozen=True, slots=True)
class TruncatedImportance:
    """min(π_old / π_sampling, cap) for each token.

    Source: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training".
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cap) and self.cap > 0):
            raise ConfigError(f"algorithm.tis_cap = {self.cap}; give a ratio above 0, e.g. 2.0, or leave it out")

    def __call__(self, old_logprobs: Tensor, sampling_logprobs: Tensor, /) -> tuple[Tensor, Tensor]:
        ratio = torch.exp((old_logprobs - sampling_logprobs).detach().clamp(max=MAX_LOG_RATIO))
        return ratio.clamp(max=self.cap), ratio > self.cap

    @property
    def formula(self) -> str:
        return f"min(π_old / π_sampling, {self.cap:g})"

    @property
    def words(self) -> str:
        return f"tokens are reweighted for the engine's own probabilities, by at most {self.cap:g}"


@dataclass(frozen=True, slots=True)
class MaskedImportance:
    """π_old / π_sampling for each token where that lies in [1/cap, cap]; the others are dropped: factor 0, and counted.

    Source: Zhao et al. 2025, "Small Leak Can Sink a Great Ship" (IcePop), with one bound for both sides.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cap) and self.cap > 1):
            raise ConfigError(f"algorithm.tis_cap = {self.cap}; to drop tokens beyond it, give a ratio above 1, e.g. 2.0")

    def __call__(self, old_logprobs: Tensor, sampling_logprobs: Tensor, /) -> tuple[Tensor, Tensor]:
        log_ratio = (old_logprobs - sampling_logprobs).detach()
        is_dropped = log_ratio.abs() > math.log(self.cap)
        return torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO)).masked_fill(is_dropped, 0.0), is_dropped

    @property
    def formula(self) -> str:
        return f"(π_old / π_sampling) · 1[{1 / self.cap:.3g} ≤ π_old / π_sampling ≤ {self.cap:g}]"

    @property
    def words(self) -> str:
        return f"tokens are reweighted for the probabilities that sampled them, and dropped beyond a ratio of {self.cap:g}"


StaleName = Literal["tis", "drop", "ratio"]


class Stale(StrEnum):
    """What is done about tokens that an earlier policy sampled (`rollout.max_staleness` > 0).

    With TIS and DROP the objective compares π_θ with π_old, the policy before this update, and a factor accounts for what lies
    between π_old and the policy that sampled: the objective is decoupled (arXiv:2110.00641; for language models arXiv:2505.24298,
    section 5.2). With RATIO it compares π_θ with the policy that sampled, as PPO does.
    """

    TIS = "tis"
    DROP = "drop"
    RATIO = "ratio"

    @property
    def is_decoupled(self) -> bool:
        return self is not Stale.RATIO

    @property
    def words(self) -> str:
        return {
            Stale.TIS: "tokens of older weights: ρ against π_old, times min(π_old / π_sampling, tis_cap or 2)",
            Stale.DROP: "tokens of older weights: ρ against π_old, times π_old / π_sampling, none beyond tis_cap or 2",
            Stale.RATIO: "tokens of older weights: ρ against the policy that sampled them, no factor",
        }[self]


STALE: dict[str, Stale] = {member.value: member for member in Stale}


def for_stale_tokens(stale: Stale, chosen: Correction | None) -> Correction | None:
    """The factor of a decoupled objective; `chosen` is what the algorithm was given already."""
    if stale is Stale.DROP:
        return MaskedImportance(chosen.cap) if isinstance(chosen, TruncatedImportance) else chosen or MaskedImportance()
    return chosen or TruncatedImportance()
