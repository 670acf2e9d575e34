from __future__ import annotations

import math

import pytest
import torch

from rlvr.errors import ConfigError
from rlvr.trainers.objectives import Clipped, Objective, Reinforce, SequenceClipped, StopGradRatio, Tokens

ALL = (Clipped(), Clipped(0.2, 0.28, dual_clip=3.0), Reinforce(), SequenceClipped(), StopGradRatio())


def one_token(objective: Objective, ratio: float, advantage: float) -> tuple[float, float, bool]:
    """The objective J of a token, dJ/dρ, and whether it is clipped."""
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(1, 1, dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    scored = objective(Tokens(logprobs, zeros, zeros + advantage, mask, torch.zeros(1, 1, dtype=torch.long)))
    (gradient,) = torch.autograd.grad(scored.loss.sum(), logprobs)
    return -scored.loss.item(), -gradient.item() / ratio, bool(scored.is_clipped)


@pytest.mark.parametrize(
    ("advantage", "ratio", "value", "slope", "is_clipped"),
    [
        (1, 0.5, 0.5, 1, False),
        (1, 1.0, 1.0, 1, False),
        (1, 1.5, 1.2, 0, True),
        (-1, 0.5, -0.8, 0, True),
        (-1, 1.0, -1.0, -1, False),
        (-1, 1.5, -1.5, -1, False),
    ],
)
def test_the_six_cases_of_ppos_clip(advantage: float, ratio: float, value: float, slope: float, is_clipped: bool) -> None:
    assert one_token(Clipped(0.2, 0.2), ratio, advantage) == pytest.approx((value, slope, is_clipped))


def test_clip_higher_leaves_room_above_only() -> None:
    assert one_token(Clipped(0.2, 0.28), 1.25, 1)[1:] == pytest.approx((1, False))
    assert one_token(Clipped(0.2, 0.2), 1.25, 1)[1:] == pytest.approx((0, True))
    assert one_token(Clipped(0.2, 0.28), 0.75, -1)[1:] == pytest.approx((0, True))


def test_dual_clip_bounds_runaway_tokens_of_bad_rollouts() -> None:
    assert one_token(Clipped(0.2, 0.2, dual_clip=3.0), 5.0, -1) == pytest.approx((-3, 0, True))
    assert one_token(Clipped(0.2, 0.2, dual_clip=3.0), 2.0, -1) == pytest.approx((-2, -1, False))
    assert one_token(Clipped(0.2, 0.2, dual_clip=3.0), 5.0, 1) == pytest.approx((1.2, 0, True))
    assert one_token(Clipped(0.2, 0.2), 5.0, -1) == pytest.approx((-5, -1, False))


@pytest.mark.parametrize("objective", ALL, ids=repr)
@pytest.mark.parametrize("advantage", [2.0, -0.5, 0.0])
def test_at_ratio_one_every_objective_has_the_reinforce_gradient(objective: Objective, advantage: float) -> None:
    assert one_token(objective, 1.0, advantage)[1:] == pytest.approx((advantage, False))


def test_without_advantage_there_is_no_loss_and_no_gradient() -> None:
    for objective in ALL:
        assert one_token(objective, 1.7, 0.0)[:2] == (0, 0)


def test_cispo_cuts_the_ratio_and_keeps_the_gradient() -> None:
    def gradient(objective: Objective, ratio: float) -> float:
        return one_token(objective, ratio, 1)[1] * ratio  # dJ / d log π

    assert gradient(StopGradRatio(5.0), 3.0) == pytest.approx(3.0)
    assert gradient(StopGradRatio(5.0), 9.0) == pytest.approx(5.0)
    assert gradient(StopGradRatio(1.2, ratio_min=0.8), 0.1) == pytest.approx(0.8)
    assert gradient(StopGradRatio(0.2), 1.0) == pytest.approx(0.2)
    assert one_token(StopGradRatio(5.0), 9.0, -1)[2] is True


def test_gspo_uses_one_ratio_for_a_rollout_in_two_rows() -> None:
    logprobs = torch.log(torch.tensor([[1.0, 2.0], [4.0, 3.0]], dtype=torch.float64)).requires_grad_()
    mask = torch.tensor([[True, True], [True, False]])
    index = torch.zeros(2, 2, dtype=torch.long)
    advantages = torch.tensor([[-1.0, -1.0], [-1.0, 0.0]], dtype=torch.float64)
    scored = SequenceClipped(0.2, 0.2)(Tokens(logprobs, torch.zeros_like(advantages), advantages, mask, index))
    assert scored.loss[mask].tolist() == pytest.approx([2.0] * 3)  # (1 * 2 * 4) ** (1/3)
    (gradient,) = torch.autograd.grad((scored.loss * mask).sum(), logprobs)
    assert gradient.tolist() == [pytest.approx([2.0, 2.0]), pytest.approx([2.0, 0.0])]


def test_gspo_clips_rollouts_whole() -> None:
    logprobs = torch.tensor([[0.5, -0.5], [0.5, -0.4]], dtype=torch.float64)
    ones = torch.ones_like(logprobs)
    index = torch.tensor([[4, 4], [9, 9]])
    scored = SequenceClipped()(Tokens(logprobs, 0 * ones, ones, ones.bool(), index))
    assert scored.is_clipped.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_a_ratio_past_overflow_stays_finite(objective: Objective) -> None:
    logprobs = torch.zeros(1, 1, requires_grad=True)
    old, mask = torch.full((1, 1), -200.0), torch.ones(1, 1, dtype=torch.bool)
    for advantage in (1.0, -1.0):
        tokens = Tokens(logprobs, old, torch.full((1, 1), advantage), mask, torch.zeros(1, 1, dtype=torch.long))
        scored = objective(tokens)
        (gradient,) = torch.autograd.grad(scored.loss.sum(), logprobs)
        assert torch.isfinite(scored.loss).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Clipped(-0.1, 0.2), "clip_low = -0.1"),
        (lambda: Clipped(1.5, 0.2), "clip_low = 1.5"),
        (lambda: Clipped(0.2, math.nan), "clip_high = nan"),
        (lambda: Clipped(0.2, 0.2, dual_clip=1.1), "dual_clip = 1.1"),
        (lambda: StopGradRatio(0.0), "ratio_max = 0.0"),
        (lambda: StopGradRatio(2.0, ratio_min=3.0), "ratio_min = 3.0"),
    ],
)
def test_wrong_constants_are_refused(make: object, setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        make()  # type: ignore[operator]
