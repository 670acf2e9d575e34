"""Each preset against the formula of its paper, written down again in loops over plain numbers.

Gradients come from central differences of the objective, so the stop-gradient tricks of the code under test are checked
against the mathematics; CISPO's stop-gradient is part of its definition and is differentiated by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlvr.trainers.algorithms import Algorithm, cispo, dapo, dr_grpo, grpo, gspo, reinforce, reinforce_pp, rloo
from rlvr.trainers.loss import prepare, token_losses

Array = NDArray[np.float64]
LENGTHS = (3, 5, 2, 4)
GROUPS = ("a", "b", "a", "b")
REWARDS = (1.0, 0.25, 0.0, 0.75)
MAX_TOKENS = 6
WIDTH = 6
ROLLOUTS = range(4)


def logprob_tables(seed: int, moved: float) -> tuple[Array, Array, Array]:
    """logprobs, old and reference, [4, WIDTH], no ratio near a clip boundary."""
    rng = np.random.default_rng(seed)
    new = -rng.uniform(0.2, 3.0, (4, WIDTH))
    return new, new - moved * rng.normal(size=(4, WIDTH)), new - 0.3 * rng.normal(size=(4, WIDTH))


def siblings(i: int) -> list[float]:
    return [REWARDS[j] for j in ROLLOUTS if GROUPS[j] == GROUPS[i]]


def z_score(i: int) -> float:
    group = siblings(i)
    mean = sum(group) / len(group)
    return (REWARDS[i] - mean) / (math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1)) + 1e-4)


def clip(x: float, low: float, high: float) -> float:
    return max(low, min(high, x))


def ppo_term(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, clip(ratio, 1 - low, 1 + high) * advantage)


def j_grpo(new: Array, old: Array, ref: Array) -> float:
    """DeepSeekMath, arXiv:2402.03300, eq. 3 and 4, with eps 0.2 and beta 0.04."""
    total = 0.0
    for i in ROLLOUTS:
        inner = 0.0
        for t in range(LENGTHS[i]):
            d = ref[i, t] - new[i, t]
            inner += ppo_term(math.exp(new[i, t] - old[i, t]), z_score(i), 0.2, 0.2) - 0.04 * (math.exp(d) - d - 1)
        total += inner / LENGTHS[i]
    return total / 4


def j_dr_grpo(new: Array, old: Array, ref: Array) -> float:
    """Dr. GRPO, arXiv:2503.20783: no std, no 1/|o|; the code divides by the longest response."""
    total = 0.0
    for i in ROLLOUTS:
        advantage = REWARDS[i] - sum(siblings(i)) / len(siblings(i))
        total += sum(ppo_term(math.exp(new[i, t] - old[i, t]), advantage, 0.2, 0.2) for t in range(LENGTHS[i])) / MAX_TOKENS
    return total / 4


def j_dapo(new: Array, old: Array, ref: Array) -> float:
    """DAPO, arXiv:2503.14476, eq. 8: one divisor for all tokens, eps 0.2 and 0.28."""
    terms = [ppo_term(math.exp(new[i, t] - old[i, t]), z_score(i), 0.2, 0.28) for i in ROLLOUTS for t in range(LENGTHS[i])]
    return sum(terms) / sum(LENGTHS)


def j_rloo(new: Array, old: Array, ref: Array) -> float:
    """RLOO, arXiv:2402.14740: 1/k sum_i (R_i - mean of the others) log pi(y_i)."""
    total = 0.0
    for i in ROLLOUTS:
        others = [REWARDS[j] for j in ROLLOUTS if GROUPS[j] == GROUPS[i] and j != i]
        total += (REWARDS[i] - sum(others) / len(others)) * sum(new[i, t] for t in range(LENGTHS[i]))
    return total / 4


def j_reinforce(new: Array, old: Array, ref: Array) -> float:
    """Williams 1992 with the mean reward as baseline."""
    mean = sum(REWARDS) / 4
    return sum((REWARDS[i] - mean) * sum(new[i, t] for t in range(LENGTHS[i])) for i in ROLLOUTS) / 4


def j_reinforce_pp(new: Array, old: Array, ref: Array) -> float:
    """REINFORCE++, arXiv:2501.03262: A_t = r - beta sum_{s>=t} (log old - log ref), normalised over the batch; beta 0.1."""
    advantages = {
        (i, t): REWARDS[i] - 0.1 * sum(old[i, s] - ref[i, s] for s in range(t, LENGTHS[i]))
        for i in ROLLOUTS
        for t in range(LENGTHS[i])
    }
    mean = sum(advantages.values()) / len(advantages)
    std = math.sqrt(sum((a - mean) ** 2 for a in advantages.values()) / len(advantages))
    terms = [ppo_term(math.exp(new[i, t] - old[i, t]), (a - mean) / (std + 1e-8), 0.2, 0.2) for (i, t), a in advantages.items()]
    return sum(terms) / len(terms)


def j_gspo(new: Array, old: Array, ref: Array) -> float:
    """GSPO, arXiv:2507.18071, eq. 5 and 7; wider clip than the paper's, so that some rollouts are inside it."""
    total = 0.0
    for i in ROLLOUTS:
        s = math.exp(sum(new[i, t] - old[i, t] for t in range(LENGTHS[i])) / LENGTHS[i])
        total += ppo_term(s, z_score(i), 0.05, 0.08)
    return total / 4


def differences(objective: Callable[[Array, Array, Array], float], new: Array, old: Array, ref: Array) -> Array:
    gradient = np.zeros_like(new)
    for index in np.ndindex(*new.shape):
        step = np.zeros_like(new)
        step[index] = 1e-6
        gradient[index] = (objective(new + step, old, ref) - objective(new - step, old, ref)) / 2e-6
    return gradient


def ours(algorithm: Algorithm, new: Array, old: Array, ref: Array) -> tuple[float, Array]:
    mask = torch.arange(WIDTH)[None, :] < torch.tensor(LENGTHS)[:, None]
    logprobs = torch.tensor(new, requires_grad=True)
    index = torch.arange(4)
    prepared = prepare(
        algorithm,
        rewards=torch.tensor(REWARDS, dtype=torch.float64),
        group_index=torch.tensor([GROUPS.index(g) for g in GROUPS]),
        rollout_index=index,
        mask=mask,
        policy_logprobs=torch.tensor(old),
        ref_logprobs=torch.tensor(ref),
    )
    parts = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=prepared.advantages,
        weights=prepared.weights,
        mask=mask,
        rollout_index=index,
        old_logprobs=torch.tensor(old),
        ref_logprobs=torch.tensor(ref),
    )
    return parts.loss.item(), torch.autograd.grad(parts.loss, logprobs)[0].numpy()


@pytest.mark.parametrize("moved", [0.0, 0.02, 0.3], ids=["on-policy", "near", "far"])
@pytest.mark.parametrize(
    ("algorithm", "paper"),
    [
        (grpo(kl_coef=0.04), j_grpo),
        (dr_grpo(max_tokens=MAX_TOKENS), j_dr_grpo),
        (dapo(max_tokens=MAX_TOKENS), j_dapo),
        (rloo(), j_rloo),
        (reinforce(), j_reinforce),
        (reinforce_pp(kl_coef=0.1), j_reinforce_pp),
        (gspo(clip_low=0.05, clip_high=0.08), j_gspo),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_loss_and_gradient_are_the_papers(
    algorithm: Algorithm, paper: Callable[[Array, Array, Array], float], moved: float
) -> None:
    for seed in range(3):
        tables = logprob_tables(seed, moved)
        loss, gradient = ours(algorithm, *tables)
        assert loss == pytest.approx(-paper(*tables), abs=1e-12)
        np.testing.assert_allclose(gradient, -differences(paper, *tables), atol=1e-8)


@pytest.mark.parametrize("moved", [0.0, 0.5])
def test_cispo_is_the_papers(moved: float) -> None:
    """MiniMax-M1, arXiv:2506.13585, eq. 4 and 5: sg(clip(r, .., cap)) A log pi over the number of tokens; cap 1.3 here."""
    new, old, ref = logprob_tables(1, moved)
    j, slope = 0.0, np.zeros_like(new)
    for i in ROLLOUTS:
        for t in range(LENGTHS[i]):
            weight = min(math.exp(new[i, t] - old[i, t]), 1.3) * z_score(i) / sum(LENGTHS)
            j += weight * new[i, t]
            slope[i, t] = weight
    loss, gradient = ours(cispo(ratio_max=1.3), new, old, ref)
    assert loss == pytest.approx(-j, abs=1e-12)
    np.testing.assert_allclose(gradient, -slope, atol=1e-12)
