from __future__ import annotations

import pytest
import torch

from rlvr.errors import ConfigError
from rlvr.trainers.aggregation import Aggregate, SequenceMean, SequenceSum, TokenMean, TokenSumOver
from rlvr.trainers.step import Step

ALL = (SequenceMean(), TokenMean(), SequenceSum(), TokenSumOver(7))


def step(lengths: list[int], width: int, rollout_index: list[int] | None = None) -> Step:
    index = torch.tensor(rollout_index if rollout_index is not None else list(range(len(lengths))))
    rollouts = int(index.max()) + 1
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    return Step(torch.zeros(rollouts, dtype=torch.float64), torch.zeros(rollouts, dtype=torch.long), index, mask)


# The RLHF book's toy: ratios of 1, responses of 4 and 7 tokens, at most 7; its printed gradients are of the mean over rows.


@pytest.mark.parametrize(
    ("aggregate", "short", "long"),
    [(SequenceMean(), 0.25 / 2, 0.1429 / 2), (TokenSumOver(7), 0.1429 / 2, 0.1429 / 2), (TokenMean(), 0.0909, 0.0909)],
)
def test_gradient_of_a_token_on_the_toy_of_four_and_seven(aggregate: Aggregate, short: float, long: float) -> None:
    weights = aggregate(step([4, 7], 7))
    assert weights[0].tolist() == pytest.approx([short] * 4 + [0] * 3, abs=5e-5)
    assert weights[1].tolist() == pytest.approx([long] * 7, abs=5e-5)


def test_losses_of_the_toy_of_four_and_seven() -> None:
    losses = 2 * torch.ones(2, 7, dtype=torch.float64)
    toy = step([4, 7], 7)
    assert (SequenceMean()(toy) * losses).sum(1).tolist() == pytest.approx([2.0 / 2, 2.0 / 2])
    assert (TokenSumOver(7)(toy) * losses).sum(1).tolist() == pytest.approx([1.1429 / 2, 2.0 / 2], abs=5e-5)
    assert (TokenMean()(toy) * losses).sum().item() == pytest.approx(2.0)


def test_five_against_ten_tokens() -> None:
    # Ten tokens: nine ones and a ten. The source prints nine numbers and a token mean of 2.27; the right one is 33/15.
    losses = torch.ones(2, 10, dtype=torch.float64)
    losses[0, 4] = losses[1, 9] = 10
    toy = step([5, 10], 10)
    assert (2 * SequenceMean()(toy) * losses).sum(1).tolist() == pytest.approx([2.8, 1.9])
    assert (SequenceMean()(toy) * losses).sum().item() == pytest.approx(2.35)
    assert (TokenMean()(toy) * losses).sum().item() == pytest.approx(2.20)


def test_a_mean_inside_each_micro_batch_is_another_gradient() -> None:
    toy = step([4, 7], 7)
    whole = 2 * TokenMean()(toy)
    local = torch.cat([2 * TokenMean()(toy.rows(torch.tensor([row]))) for row in (0, 1)]) / 2
    assert (whole[0, 0].item(), whole[1, 0].item()) == pytest.approx((0.1818, 0.1818), abs=5e-5)
    assert (local[0, 0].item(), local[1, 0].item()) == pytest.approx((0.25, 0.1429), abs=5e-5)


def test_a_rollout_in_two_segments_counts_once() -> None:
    whole = step([5, 3], 5)
    split = step([2, 3, 3], 5, rollout_index=[0, 1, 0])
    for aggregate in ALL:
        parts = aggregate(split)
        assert parts[0, 0].item() == pytest.approx(aggregate(whole)[0, 0].item())
        assert parts[1, 0].item() == pytest.approx(aggregate(whole)[1, 0].item())
        assert parts.sum().item() == pytest.approx(aggregate(whole).sum().item())


def test_weights_sum_to_what_the_names_say() -> None:
    toy = step([4, 7], 9)
    assert SequenceMean()(toy).sum().item() == pytest.approx(1)
    assert TokenMean()(toy).sum().item() == pytest.approx(1)
    assert SequenceSum()(toy).sum().item() == pytest.approx(11 / 2)
    assert TokenSumOver(20)(toy).sum().item() == pytest.approx(11 / 40)


@pytest.mark.parametrize("aggregate", ALL, ids=lambda a: type(a).__name__)
def test_rollouts_without_tokens_weigh_nothing_and_make_no_nan(aggregate: Aggregate) -> None:
    assert aggregate(step([0, 3], 3))[0].tolist() == [0, 0, 0]
    assert torch.isfinite(aggregate(step([0, 3], 3))).all()
    assert aggregate(step([0, 0], 3)).abs().max() == 0


def test_a_mini_batch_of_rows_is_a_step_of_its_own() -> None:
    part = step([4, 7, 2], 7).rows(torch.tensor([2, 0]))
    assert part.rollouts == 2
    assert part.rollout_index.tolist() == [1, 0]
    assert SequenceMean()(part).sum().item() == pytest.approx(1)


def test_the_constant_is_bound_to_the_run_unless_given() -> None:
    with pytest.raises(ConfigError, match="max_tokens is not set"):
        TokenSumOver()(step([1], 1))
    assert TokenSumOver().bind(max_tokens=8).max_tokens == 8
    assert TokenSumOver(3).bind(max_tokens=8).max_tokens == 3
    with pytest.raises(ConfigError, match="max_tokens = 0"):
        TokenSumOver(0)
