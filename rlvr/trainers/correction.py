"""Correction for tokens that were sampled under other probabilities than the trainer's (another kernel, another dtype)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.kl import MAX_LOG_RATIO


class Correction(Protocol):
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
