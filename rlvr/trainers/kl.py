"""Estimates of KL(policy ‖ reference) from the sampled token alone. Source: Schulman, "Approximating KL divergence" (2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# exp() of a log-ratio overflows fp32 past 88, and one such token ruins a step. e^20 is already 5e8; past it the
# estimate is constant, so the token gets no gradient from it.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class KlEstimator:
    """A per-token estimate: `(logprobs, ref_logprobs) -> KL`, all of one shape."""

    name: str
    estimate: Callable[[Tensor, Tensor], Tensor]
    formula: str  # in d = log π_ref − log π_θ
    words: str

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor, /) -> Tensor:
        return self.estimate(logprobs, ref_logprobs)


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log π - log π_ref: unbiased, high variance, may be negative."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log π - log π_ref)² / 2: biased, low variance; its on-policy gradient is that of KL(π ‖ π_ref)."""
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """e^d - d - 1 with d = log π_ref - log π: unbiased, never negative."""
    d = ref_logprobs - logprobs
    return torch.exp(d.clamp(max=MAX_LOG_RATIO)) - d - 1


K1 = KlEstimator("k1", k1, "−d", "unbiased, high variance")
K2 = KlEstimator("k2", k2, "d²/2", "biased, low variance, the right gradient in the loss")
K3 = KlEstimator("k3", k3, "eᵈ − d − 1", "unbiased, never negative, low variance")
ESTIMATORS = {estimator.name: estimator for estimator in (K1, K2, K3)}
