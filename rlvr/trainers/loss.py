"""From rollouts to a scalar: `prepare` once for each step, `token_losses` once for each micro-batch.

    prepared = prepare(algorithm, rewards=..., group_index=..., rollout_index=..., mask=...)
    parts = token_losses(algorithm, logprobs=..., advantages=prepared.advantages[rows], weights=prepared.weights[rows], ...)
    parts.loss.backward()

The sum of `parts.loss` over all micro-batches is the step's loss, and the sum of `parts.sums` gives its metrics, however
the step was split.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rlvr.errors import ConfigError, TrainingError
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.kl import MAX_LOG_RATIO
from rlvr.trainers.objectives import Tokens
from rlvr.trainers.step import Step


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the rewards of a step mean for each of its tokens; both are 0 outside the mask."""

    advantages: Tensor  # [B, T]
    weights: Tensor  # [B, T]
    step: Step


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over sampled tokens (`ratio_max`: the largest), without gradient. None: not part of this loss.

    `a + b` joins micro-batches; `means()` is for the log.
    """

    tokens: Tensor
    policy_loss: Tensor  # weighted, so that the sum over micro-batches is the step's
    clipped: Tensor  # tokens whose gradient (or ratio) the objective's clip took
    policy_kl: Tensor  # k3 of KL(π_old ‖ π_θ): how far this update moved
    ratio_max: Tensor  # of π_θ / π_old
    entropy: Tensor | None = None
    ref_kl: Tensor | None = None  # the algorithm's estimate of KL(π_θ ‖ π_ref)
    sampling_kl: Tensor | None = None  # k3 of KL(π_sampling ‖ π_old): how far engine and trainer disagree
    corrected: Tensor | None = None  # tokens whose importance weight was cut

    def __add__(self, other: LossSums) -> LossSums:
        joined: dict[str, Any] = {f.name: _joined(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return LossSums(**joined)

    def means(self) -> dict[str, float]:
        """Means per sampled token, but `policy_loss` (the step's) and `ratio_max` (the largest) as they are."""
        count = max(float(self.tokens), 1.0)
        whole = {"tokens": float(self.tokens), "policy_loss": float(self.policy_loss), "ratio_max": float(self.ratio_max)}
        sums = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in whole}
        return whole | {name: float(value) / count for name, value in sums.items() if value is not None}


@dataclass(frozen=True, slots=True)
class LossParts:
    loss: Tensor  # scalar, with gradient
    sums: LossSums


def prepare(
    algorithm: Algorithm,
    *,
    rewards: Tensor,
    group_index: Tensor,
    rollout_index: Tensor,
    mask: Tensor,
    policy_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    values: Tensor | None = None,
) -> Prepared:
    """Advantages and weights of a whole step: R rollouts in B rows of T positions.

    Args:
        rewards: [R], after shaping.
        group_index, rollout_index: [R] and [B] long; a row's rollout is in [0, R).
        mask: [B, T] bool, True on sampled tokens.
        policy_logprobs, ref_logprobs: [B, T], read only where KL is part of the reward (`needs_policy_logprobs`).
        values: [B, T], read only by advantages with a critic.

    Raises:
        ConfigError: the algorithm needs an input that is None.
        TrainingError: a reward is NaN or infinite.
    """
    if not bool(torch.isfinite(rewards).all()):
        bad = [i for i, is_finite in enumerate(torch.isfinite(rewards).tolist()) if not is_finite]
        raise TrainingError(f"the rewards of rollouts {bad[:3]} are not finite; a verdict or a shape went wrong")
    if algorithm.critic and values is None:
        raise ConfigError(f"algorithm {algorithm.name!r} has a critic, but no values were given")
    penalty = None
    if algorithm.needs_policy_logprobs:
        policy = _needed(policy_logprobs, "policy_logprobs", algorithm).masked_fill(~mask, 0)
        reference = _needed(ref_logprobs, "ref_logprobs", algorithm).masked_fill(~mask, 0)
        penalty = algorithm.kl_coef * algorithm.kl(policy, reference).detach()
    step = Step(rewards, group_index, rollout_index, mask, penalty, values)
    return Prepared(algorithm.advantage(step).detach(), algorithm.aggregate(step), step)


def token_losses(
    algorithm: Algorithm,
    *,
    logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    rollout_index: Tensor,
    old_logprobs: Tensor | None = None,
    sampling_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    entropy: Tensor | None = None,
) -> LossParts:
    """The loss of one micro-batch: sum of weights * (policy loss + kl_coef * KL - entropy_coef * entropy).

    Tensors are [B, T], or any other shape that all share (a pack of N tokens); `rollout_index` is [B] or of that shape.
    Positions outside the mask get exactly zero gradient, whatever stands there (NaN and inf too).

    Args:
        logprobs: under the policy that is trained, with gradient.
        old_logprobs: under the policy before the step's first update; None means that it has not moved since.
        sampling_logprobs: as the engine reported them; read by `algorithm.correction`, and for the log.
        ref_logprobs: under the reference; read where `kl_coef > 0`, and for the log.
        entropy: of the policy at each position, with gradient where `entropy_coef > 0`.

    Raises:
        ConfigError: the algorithm needs an input that is None.
    """
    logprobs = torch.where(mask, logprobs, 0)
    old = logprobs.detach() if old_logprobs is None else old_logprobs.detach().masked_fill(~mask, 0)
    sampling = None if sampling_logprobs is None else sampling_logprobs.detach().masked_fill(~mask, 0)
    reference = None if ref_logprobs is None else ref_logprobs.detach().masked_fill(~mask, 0)
    entropy = None if entropy is None else torch.where(mask, entropy, 0)
    index = rollout_index if rollout_index.shape == logprobs.shape else rollout_index.unsqueeze(-1).expand_as(logprobs)

    scored = algorithm.objective(Tokens(logprobs, old, advantages.masked_fill(~mask, 0), mask, index))
    policy_loss = scored.loss
    is_corrected = None
    if algorithm.correction is not None:
        factor, is_corrected = algorithm.correction(old, _needed(sampling, "sampling_logprobs", algorithm))
        policy_loss = policy_loss * factor
    total = policy_loss
    kl = None if reference is None else algorithm.kl(logprobs, reference)
    if algorithm.needs_reference and not algorithm.kl_in_reward:
        total = total + algorithm.kl_coef * _needed(kl, "ref_logprobs", algorithm)
    if algorithm.entropy_coef > 0:
        total = total - algorithm.entropy_coef * _needed(entropy, "entropy", algorithm)
    weights = weights.masked_fill(~mask, 0)

    with torch.no_grad():
        log_ratio = logprobs - old
        sums = LossSums(
            tokens=mask.sum(),
            policy_loss=(weights * policy_loss).sum(),
            clipped=(scored.is_clipped & mask).sum(),
            policy_kl=_k3(log_ratio).sum(),
            ratio_max=torch.exp(log_ratio.masked_fill(~mask, -torch.inf).clamp(max=MAX_LOG_RATIO)).max(),
            entropy=None if entropy is None else entropy.sum(),
            ref_kl=None if kl is None else kl.sum(),
            sampling_kl=None if sampling is None else _k3(old - sampling).sum(),
            corrected=None if is_corrected is None else (is_corrected & mask).sum(),
        )
    return LossParts((weights * total).sum(), sums)


def _k3(d: Tensor) -> Tensor:
    return torch.exp(d.clamp(max=MAX_LOG_RATIO)) - d - 1


def _needed(value: Tensor | None, name: str, algorithm: Algorithm) -> Tensor:
    if value is None:
        reason = {
            "ref_logprobs": f"kl_coef = {algorithm.kl_coef:g}",
            "policy_logprobs": f"kl_coef = {algorithm.kl_coef:g} in the reward",
            "sampling_logprobs": "importance correction is on (tis_cap)",
            "entropy": f"entropy_coef = {algorithm.entropy_coef:g}",
        }[name]
        raise ConfigError(f"{name} are missing, but {algorithm.name!r} needs them: {reason}")
    return value


def _joined(name: str, mine: Tensor | None, other: Tensor | None) -> Tensor | None:
    if mine is None or other is None:
        return mine if other is None else other
    return torch.maximum(mine, other) if name == "ratio_max" else mine + other
