from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.errors import ConfigError, TrainingError
from rlvr.trainers.algorithms import Algorithm, build, cispo, dapo, dr_grpo, grpo, gspo, reinforce_pp, rloo
from rlvr.trainers.loss import LossParts, LossSums, Prepared, prepare, token_losses

FULL = {"kl_coef": 0.1, "entropy_coef": 0.01, "tis_cap": 1.1}
ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    name: lambda name=name: build(name, FULL).bind(max_tokens=9)  # type: ignore[misc]
    for name in ("grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo")
}


@dataclass(frozen=True)
class Toy:
    """A step with ragged rows, gaps in the mask, empty rollouts, interleaved groups and a rollout in two rows."""

    rewards: Tensor
    group_index: Tensor
    rollout_index: Tensor
    mask: Tensor
    logprobs: Tensor
    old: Tensor
    sampling: Tensor
    ref: Tensor
    entropy: Tensor

    def prepare(self, algorithm: Algorithm) -> Prepared:
        return prepare(
            algorithm,
            rewards=self.rewards,
            group_index=self.group_index,
            rollout_index=self.rollout_index,
            mask=self.mask,
            policy_logprobs=self.old,
            ref_logprobs=self.ref,
        )

    def loss(self, algorithm: Algorithm, prepared: Prepared, logprobs: Tensor, rows: Tensor | None = None) -> LossParts:
        pick = torch.arange(len(self.mask)) if rows is None else rows
        return token_losses(
            algorithm,
            logprobs=logprobs[pick],
            advantages=prepared.advantages[pick],
            weights=prepared.weights[pick],
            mask=self.mask[pick],
            rollout_index=self.rollout_index[pick],
            old_logprobs=self.old[pick],
            sampling_logprobs=self.sampling[pick],
            ref_logprobs=self.ref[pick],
            entropy=self.entropy[pick] + logprobs[pick],
        )

    def whole(self, algorithm: Algorithm) -> tuple[LossParts, Tensor]:
        logprobs = self.logprobs.clone().requires_grad_()
        parts = self.loss(algorithm, self.prepare(algorithm), logprobs)
        return parts, torch.autograd.grad(parts.loss, logprobs)[0]


def toy(seed: int, rollouts: int = 5, width: int = 6, spread: float = 0.3) -> Toy:
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(rollouts + 1, width, generator=generator, dtype=torch.float64)

    mask = torch.rand(rollouts + 1, width, generator=generator) < 0.7
    mask[0] = False
    logprobs = -normal(1).abs() - 0.1
    return Toy(
        rewards=torch.rand(rollouts, generator=generator, dtype=torch.float64).round(decimals=1),
        group_index=torch.randint(0, 2, (rollouts,), generator=generator) * 7,
        rollout_index=torch.tensor([*range(rollouts), rollouts - 1]),
        mask=mask,
        logprobs=logprobs,
        old=logprobs + normal(spread),
        sampling=logprobs + normal(spread),
        ref=logprobs + normal(spread),
        entropy=normal(1).abs(),
    )


@pytest.mark.parametrize("name", ALGORITHMS)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 4), max_size=4))
@settings(max_examples=25, deadline=None)
def test_every_split_into_micro_batches_gives_the_same_gradient(name: str, seed: int, cuts: list[int]) -> None:
    algorithm, step = ALGORITHMS[name](), toy(seed)
    whole, gradient = step.whole(algorithm)
    # The last rollout has two rows, which GSPO needs side by side: cuts fall between rollouts 0..4.
    bounds = sorted({0, 6, *(cut for cut in cuts if cut < 5)})
    logprobs = step.logprobs.clone().requires_grad_()
    prepared = step.prepare(algorithm)
    loss, sums = 0.0, None
    for start, end in itertools.pairwise(bounds):
        part = step.loss(algorithm, prepared, logprobs, torch.arange(start, end))
        part.loss.backward()
        loss += part.loss.item()
        sums = part.sums if sums is None else sums + part.sums
    assert sums is not None
    assert logprobs.grad is not None
    assert loss == pytest.approx(whole.loss.item(), abs=1e-12)
    assert torch.allclose(logprobs.grad, gradient, rtol=1e-10, atol=1e-14)
    assert sums.means() == pytest.approx(whole.sums.means(), abs=1e-10)


@pytest.mark.parametrize("name", ALGORITHMS)
@given(seed=st.integers(0, 10**6), junk=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
@settings(max_examples=15, deadline=None)
def test_masked_positions_get_exactly_zero_gradient_whatever_stands_there(name: str, seed: int, junk: float) -> None:
    algorithm, clean = ALGORITHMS[name](), toy(seed)
    clean_parts, clean_gradient = clean.whole(algorithm)
    fields = {
        key: getattr(clean, key).masked_fill(~clean.mask, junk) for key in ("logprobs", "old", "sampling", "ref", "entropy")
    }
    dirty = Toy(clean.rewards, clean.group_index, clean.rollout_index, clean.mask, **fields)
    parts, gradient = dirty.whole(algorithm)
    assert (gradient[~clean.mask] == 0).all()
    assert torch.equal(gradient[clean.mask], clean_gradient[clean.mask])
    assert parts.loss.item() == clean_parts.loss.item()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_pack_of_tokens_gives_the_gradient_of_the_padded_rows(name: str) -> None:
    algorithm, step = ALGORITHMS[name](), toy(3)
    whole, gradient = step.whole(algorithm)
    prepared = step.prepare(algorithm)
    logprobs = step.logprobs[step.mask].requires_grad_()
    rows = step.rollout_index[:, None].expand_as(step.mask)
    parts = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=prepared.advantages[step.mask],
        weights=prepared.weights[step.mask],
        mask=torch.ones_like(logprobs, dtype=torch.bool),
        rollout_index=rows[step.mask],
        old_logprobs=step.old[step.mask],
        sampling_logprobs=step.sampling[step.mask],
        ref_logprobs=step.ref[step.mask],
        entropy=step.entropy[step.mask] + logprobs,
    )
    assert parts.loss.item() == pytest.approx(whole.loss.item())
    assert torch.allclose(torch.autograd.grad(parts.loss, logprobs)[0], gradient[step.mask])


def gradients(algorithm: Algorithm, step: Toy, *, on_policy: bool) -> Tensor:
    prepared = step.prepare(algorithm)
    logprobs = step.logprobs.clone().requires_grad_()
    parts = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=prepared.advantages,
        weights=prepared.weights,
        mask=step.mask,
        rollout_index=step.rollout_index,
        old_logprobs=None if on_policy else step.old,
    )
    return torch.autograd.grad(parts.loss, logprobs)[0]


@pytest.mark.parametrize("algorithm", [grpo(), dr_grpo(max_tokens=9), dapo(overlong=False), gspo(), cispo(), reinforce_pp()])
def test_on_policy_the_gradient_is_minus_advantage_times_weight(algorithm: Algorithm) -> None:
    step = toy(5)
    prepared = step.prepare(algorithm)
    expected = -prepared.advantages * prepared.weights
    assert torch.allclose(gradients(algorithm, step, on_policy=True), expected, atol=1e-15)


def test_old_logprobs_equal_to_the_policys_are_the_same_as_none() -> None:
    step = toy(8)
    same = Toy(**{**{key: getattr(step, key) for key in Toy.__annotations__}, "old": step.logprobs})
    for algorithm in (grpo(), gspo(), cispo()):
        explicit = gradients(algorithm, same, on_policy=False)
        assert torch.equal(explicit, gradients(algorithm, same, on_policy=True))


def test_dapo_without_an_active_clip_is_token_mean_grpo() -> None:
    step = toy(6, spread=0.01)
    theirs = gradients(grpo(aggregate="token_mean"), step, on_policy=False)
    assert torch.equal(gradients(dapo(max_tokens=9), step, on_policy=False), theirs)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "rloo", "gspo", "cispo", "reinforce_pp"])
def test_a_step_whose_groups_have_no_variance_has_no_gradient(name: str) -> None:
    step = toy(7)
    flat = Toy(**{**{key: getattr(step, key) for key in Toy.__annotations__}, "rewards": torch.full_like(step.rewards, 0.1)})
    assert gradients(build(name).bind(max_tokens=9), flat, on_policy=False).abs().max() == 0


def test_a_longer_wrong_answer_is_punished_less_per_token_only_by_the_sequence_mean() -> None:
    def per_token(algorithm: Algorithm, length: int) -> float:
        mask = torch.arange(8)[None, :] < torch.tensor([[4], [length]])
        index = torch.arange(2)
        rewards = torch.tensor([1.0, 0.0])
        prepared = prepare(algorithm, rewards=rewards, group_index=index * 0, rollout_index=index, mask=mask)
        return abs((prepared.advantages * prepared.weights)[1, 0].item())

    assert per_token(grpo(), 8) == pytest.approx(per_token(grpo(), 4) / 2)
    assert per_token(dr_grpo(max_tokens=8), 8) == per_token(dr_grpo(max_tokens=8), 4)


def test_where_the_kl_goes_changes_the_gradient_and_the_advantages() -> None:
    step = toy(9)
    settings: list[dict[str, Any]] = [{"kl_coef": 0.0}, {"kl_in_reward": True}, {"kl_in_reward": False, "kl": "k2"}]
    algorithms = [rloo(**({"kl_coef": 0.1} | setting)) for setting in settings]
    none, in_reward, in_loss = (step.whole(algorithm)[1] for algorithm in algorithms)
    assert not torch.allclose(none, in_reward)
    assert not torch.allclose(none, in_loss)
    assert not torch.allclose(in_reward, in_loss)
    same = [torch.equal(step.prepare(a).advantages, step.prepare(algorithms[0]).advantages) for a in algorithms]
    assert same == [True, False, True]


def test_kl_in_the_loss_is_added_to_each_token() -> None:
    step = toy(10)
    weights = step.prepare(grpo()).weights
    base, with_kl = (step.whole(grpo(kl_coef=coef))[0] for coef in (0.0, 0.5))
    d = step.ref - step.logprobs
    kl = (weights * (d.exp() - d - 1)).sum().item()
    assert with_kl.loss.item() - base.loss.item() == pytest.approx(0.5 * kl)
    assert with_kl.sums.policy_loss.item() == pytest.approx(base.sums.policy_loss.item())


def test_importance_correction_scales_the_policy_loss_and_not_the_kl() -> None:
    step = toy(11)
    algorithm = grpo(kl_coef=0.1, tis_cap=1.5)
    parts, _ = step.whole(algorithm)
    prepared = step.prepare(algorithm)
    factor = torch.exp(step.old - step.sampling).clamp(max=1.5)
    ratio = torch.exp(step.logprobs - step.old)
    policy = -torch.min(ratio * prepared.advantages, ratio.clamp(0.8, 1.2) * prepared.advantages)
    d = step.ref - step.logprobs
    expected = (prepared.weights * (factor * policy + 0.1 * (d.exp() - d - 1))).sum().item()
    assert parts.loss.item() == pytest.approx(expected)
    assert parts.sums.corrected is not None
    assert parts.sums.corrected.item() == int(((torch.exp(step.old - step.sampling) > 1.5) & step.mask).sum())


def test_metrics_of_the_first_update_say_that_nothing_moved() -> None:
    step = toy(12)
    prepared = step.prepare(grpo())
    sums = token_losses(
        grpo(),
        logprobs=step.logprobs,
        advantages=prepared.advantages,
        weights=prepared.weights,
        mask=step.mask,
        rollout_index=step.rollout_index,
    ).sums
    means = sums.means()
    assert (means["ratio_max"], means["policy_kl"], means["clipped"]) == (1, 0, 0)
    assert means["tokens"] == step.mask.sum()
    assert "entropy" not in means


def test_clip_fraction_over_the_six_cases_is_a_third() -> None:
    logprobs = torch.log(torch.tensor([[0.5, 1, 1.5, 0.5, 1, 1.5]]))
    ones = torch.ones(1, 6)
    sums = token_losses(
        grpo(),
        logprobs=logprobs,
        advantages=torch.tensor([[1.0, 1, 1, -1, -1, -1]]),
        weights=ones,
        mask=ones.bool(),
        rollout_index=torch.zeros(1, dtype=torch.long),
        old_logprobs=0 * ones,
    ).sums
    assert sums.means()["clipped"] == pytest.approx(1 / 3)


def test_sums_join_where_one_side_lacks_a_term() -> None:
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    joined = LossSums(one, one, one, one, zero) + LossSums(one, one, one, one, one, entropy=one)
    assert joined.means()["entropy"] == 0.5
    assert joined.ratio_max == 1


@pytest.mark.parametrize(
    ("algorithm", "missing"),
    [(grpo(kl_coef=0.1), "ref_logprobs"), (grpo(tis_cap=2.0), "sampling_logprobs"), (grpo(entropy_coef=0.1), "entropy")],
)
def test_a_missing_input_is_named_with_the_setting_that_needs_it(algorithm: Algorithm, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing} are missing, but 'grpo'"):
        gradients(algorithm, toy(1), on_policy=True)


def test_kl_in_the_reward_needs_logprobs_before_advantages() -> None:
    step = toy(1)
    index = {"group_index": step.group_index, "rollout_index": step.rollout_index, "mask": step.mask}
    with pytest.raises(ConfigError, match="policy_logprobs are missing"):
        prepare(rloo(kl_coef=0.1), rewards=step.rewards, **index)
    assert prepare(rloo(), rewards=step.rewards, **index).step.token_penalty is None


def test_a_reward_that_is_not_a_number_stops_the_step() -> None:
    step = toy(1)
    rewards = step.rewards.clone()
    rewards[2] = math.nan
    with pytest.raises(TrainingError, match=r"rollouts \[2\] are not finite"):
        prepare(grpo(), rewards=rewards, group_index=step.group_index, rollout_index=step.rollout_index, mask=step.mask)
