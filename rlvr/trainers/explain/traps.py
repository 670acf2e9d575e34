"""Known traps: settings that run without an error and do something else than their name says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from rlvr.trainers.advantages import Normalize, NormalizeOverBatch, PerRollout
from rlvr.trainers.aggregation import SequenceMean, TokenMean, TokenSumOver
from rlvr.trainers.algorithms import Algorithm
from rlvr.trainers.kl import K1
from rlvr.trainers.loss import token_losses
from rlvr.trainers.objectives import Clipped, SequenceClipped, StopGradRatio
from rlvr.trainers.shaping.base import MixedOutcomes, OverlongPenalty
from rlvr.trainers.shaping.length_penalties import CosineLength
from rlvr.trainers.shaping.sections import shapes_in
from rlvr.trainers.step import Groups

# A rollout's ratio is a geometric mean over its tokens: it hardly moves, so a token-sized clip never acts.
WIDEST_SEQUENCE_CLIP = 0.01
NEAR_TIE = (1.001, 1.0)


def warnings_for(algorithm: Algorithm) -> list[str]:
    """One sentence for each trap that these settings step into."""
    return [warning for trap in TRAPS for warning in trap(algorithm)]


def on_policy_multiplier(algorithm: Algorithm, advantage: float) -> float:
    """How the policy-gradient of a token with this advantage is scaled while π_θ = π_old = π_sampling; 1 is REINFORCE's.

    Computed by the trainer's own loss on one token, without its KL and entropy terms.
    """
    plain = Algorithm(
        algorithm.name, algorithm.advantage, algorithm.objective, algorithm.aggregate, correction=algorithm.correction
    )
    logprobs = torch.full((1, 1), -1.0, dtype=torch.float64, requires_grad=True)
    parts = token_losses(
        plain,
        logprobs=logprobs,
        sampling_logprobs=logprobs.detach(),
        advantages=torch.full_like(logprobs, advantage),
        weights=torch.ones_like(logprobs),
        mask=torch.ones(1, 1, dtype=torch.bool),
        rollout_index=torch.zeros(1, dtype=torch.long),
    )
    (gradient,) = torch.autograd.grad(parts.loss, logprobs)
    return -gradient.item() / advantage


def _scaled_gradient(algorithm: Algorithm) -> Iterator[str]:
    up, down = (on_policy_multiplier(algorithm, advantage) for advantage in (1.0, -1.0))
    if up == down == 1:
        return
    size = f"{up:g}" if up == down else f"{up:g} (A>0) and {down:g} (A<0)"
    cause = "the settings"
    if isinstance(algorithm.objective, StopGradRatio):
        cause = f"ratio_max = {algorithm.objective.ratio_max:g}, ratio_min = {algorithm.objective.ratio_min:g}"
    yield (
        f"on-policy the ratio is 1, and {cause} cut it: every gradient is multiplied by {size}, "
        "which is a hidden change of the learning rate; let 1 lie inside the bounds (CISPO: ratio_max = 5.0)"
    )


def _sequence_clip_with_token_weights(algorithm: Algorithm) -> Iterator[str]:
    if isinstance(algorithm.objective, SequenceClipped) and not isinstance(algorithm.aggregate, SequenceMean):
        yield (
            "the ratio and the clip belong to whole rollouts, but tokens are aggregated one by one, so a long rollout "
            "counts more than GSPO's objective says; use aggregate = sequence_mean"
        )


def _sequence_clip_too_wide(algorithm: Algorithm) -> Iterator[str]:
    objective = algorithm.objective
    if isinstance(objective, SequenceClipped) and max(objective.low, objective.high) > WIDEST_SEQUENCE_CLIP:
        yield (
            f"clip {objective.low:g}/{objective.high:g} is a token-level range, and a rollout's ratio is a mean over its "
            "tokens: the clip will hardly ever act; GSPO uses 3e-4/4e-4"
        )


def _half_of_dr_grpo(algorithm: Algorithm) -> Iterator[str]:
    has_constant = isinstance(algorithm.aggregate, TokenSumOver)
    has_std = isinstance(algorithm.advantage, PerRollout) and isinstance(
        algorithm.advantage.score, Normalize | NormalizeOverBatch
    )
    if has_constant and has_std:
        yield (
            "the advantage is still divided by a std while the length is a constant: half of Dr. GRPO, with its bias "
            "towards problems that are nearly always or nearly never solved; set normalize = none"
        )
    if algorithm.name == "dr_grpo" and not has_constant:
        yield "Dr. GRPO divides by a constant length; with this aggregate its length bias is back; use token_sum_over"


def _incomplete_dapo(algorithm: Algorithm) -> Iterator[str]:
    if algorithm.name != "dapo":
        return
    objective = algorithm.objective
    parts = {
        "clip-higher (clip_high above clip_low)": isinstance(objective, Clipped) and objective.high > objective.low,
        "dynamic sampling (dynamic_sampling = true)": isinstance(algorithm.keep_group, MixedOutcomes),
        "token-level loss (aggregate = token_mean)": isinstance(algorithm.aggregate, TokenMean),
        "soft overlong punishment (overlong = true)": any(isinstance(one, OverlongPenalty) for one in shapes_in(algorithm.shape)),
    }
    missing = [part for part, is_there in parts.items() if not is_there]
    if missing:
        yield f"DAPO has four parts, and {len(missing)} of them {'is' if len(missing) == 1 else 'are'} off: {'; '.join(missing)}"


def _kl_in_the_wrong_place(algorithm: Algorithm) -> Iterator[str]:
    if not algorithm.needs_reference:
        return
    if not algorithm.kl_in_reward and algorithm.kl is K1:
        yield "k1 in the loss has an expected gradient of zero: it adds noise and no pull; use k2 or k3, or kl_in_reward = true"
    if algorithm.kl_in_reward and algorithm.kl is not K1:
        yield f"{algorithm.kl.name} in the reward has not the gradient of the KL; only k1 has it there"


def _kl_divided_by_std(algorithm: Algorithm) -> Iterator[str]:
    is_normalised = isinstance(algorithm.advantage, PerRollout) and isinstance(algorithm.advantage.score, Normalize)
    if algorithm.needs_policy_logprobs and is_normalised:
        yield (
            "KL is taken from the reward before the group's std divides it, so its strength changes from group to group, "
            "and a group of equal rewards is pushed around by its KL alone; set kl_in_reward = false"
        )


def _shapes_without_effect(algorithm: Algorithm) -> Iterator[str]:
    shapes = shapes_in(algorithm.shape)
    if any(isinstance(shape, CosineLength) for shape in shapes[1:]):
        yield "cosine_length replaces the reward, so the shapes before it have no effect; name it first"
    if sum(isinstance(shape, OverlongPenalty) for shape in shapes) > 1:
        yield "the overlong penalty is taken twice: the algorithm has one of its own; set overlong = false or leave the shape out"


def _near_ties(algorithm: Algorithm) -> Iterator[str]:
    score = algorithm.advantage.score if isinstance(algorithm.advantage, PerRollout) else None
    if not isinstance(score, Normalize) or score.std_eps >= 1e-6:
        return
    high, low = score(torch.tensor(NEAR_TIE, dtype=torch.float64), Groups(torch.zeros(2, dtype=torch.long))).tolist()
    yield (
        f"std_eps = {score.std_eps:g} lets near-ties explode: rewards {NEAR_TIE[0]} and {NEAR_TIE[1]} become "
        f"{high:+.4f} and {low:+.4f}; 1e-4 tempers them"
    )


TRAPS: tuple[Callable[[Algorithm], Iterator[str]], ...] = (
    _scaled_gradient,
    _sequence_clip_with_token_weights,
    _sequence_clip_too_wide,
    _half_of_dr_grpo,
    _incomplete_dapo,
    _kl_in_the_wrong_place,
    _kl_divided_by_std,
    _shapes_without_effect,
    _near_ties,
)
