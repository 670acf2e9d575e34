from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.advantages import (
    BatchMean,
    Center,
    LeaveOneOut,
    Normalize,
    NormalizeOverBatch,
    PerRollout,
    Score,
    Unchanged,
    WhitenedReturns,
)
from rlvr.trainers.step import Groups, Step

rewards_in_groups = st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(-3, 3)), min_size=1, max_size=24)


def scores(score: Score, rewards: list[float], groups: list[int] | None = None) -> list[float]:
    index = torch.tensor(groups if groups is not None else [0] * len(rewards))
    return score(torch.tensor(rewards, dtype=torch.float64), Groups(index)).tolist()


def step(rewards: list[float], mask: list[list[int]], **fields: Tensor) -> Step:
    defaults = {"group_index": torch.zeros(len(rewards), dtype=torch.long), "rollout_index": torch.arange(len(rewards))}
    return Step(torch.tensor(rewards, dtype=torch.float64), mask=torch.tensor(mask).bool(), **(defaults | fields))


# Worked numbers: one success among four, two among four, and the near-tie 1.001 against 1.


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Normalize(), [1.4997, -0.4999, -0.4999, -0.4999]),
        (Normalize(std_eps=0, ddof=0), [1.7321, -0.5774, -0.5774, -0.5774]),
        (Center(), [0.75, -0.25, -0.25, -0.25]),
        (LeaveOneOut(), [1, -1 / 3, -1 / 3, -1 / 3]),
    ],
)
def test_one_success_among_four(score: Score, expected: list[float]) -> None:
    assert scores(score, [1, 0, 0, 0]) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(Normalize(), 0.8659), (Normalize(std_eps=0, ddof=0), 1.0), (Center(), 0.5), (LeaveOneOut(), 0.6667)],
)
def test_two_successes_among_four(score: Score, expected: float) -> None:
    assert scores(score, [1, 1, 0, 0]) == pytest.approx([expected, expected, -expected, -expected], abs=5e-5)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Normalize(), 0.6195),
        (Normalize(std_eps=0), 0.7071),
        (Normalize(std_eps=0, ddof=0), 1.0),
        (Normalize(ddof=0), 0.8333),
        (Center(), 0.0005),
        (LeaveOneOut(), 0.001),
    ],
)
def test_std_blows_up_near_ties(score: Score, expected: float) -> None:
    assert scores(score, [1.001, 1.0]) == pytest.approx([expected, -expected], abs=5e-5)


@pytest.mark.parametrize(
    ("score", "winner", "loser"), [(Normalize(), 3.7485, -0.2499), (Center(), 0.9375, -0.0625), (LeaveOneOut(), 1, -0.0667)]
)
def test_std_favours_problems_that_are_rarely_solved(score: Score, winner: float, loser: float) -> None:
    assert scores(score, [1] + [0] * 15) == pytest.approx([winner] + [loser] * 15, abs=5e-5)


@pytest.mark.parametrize(("score", "size"), [(Normalize(), 0.9681), (Center(), 0.5), (LeaveOneOut(), 0.5333)])
def test_half_of_sixteen_solved(score: Score, size: float) -> None:
    assert scores(score, [1] * 8 + [0] * 8) == pytest.approx([size] * 8 + [-size] * 8, abs=5e-5)


# Groups are told by their id, not by their place: a reshape in the wrong order is the classical silent bug.


def test_the_group_index_decides_who_is_compared() -> None:
    flat = [1.0, 0, 0, 1, 1, 0]
    assert scores(LeaveOneOut(), flat, [0, 0, 0, 1, 1, 1]) == pytest.approx([1, -0.5, -0.5, 0.5, 0.5, -1])
    assert scores(LeaveOneOut(), flat, [0, 1, 0, 1, 0, 1]) == pytest.approx([0.5, -0.5, -1, 1, 0.5, -0.5])


@given(rewards_in_groups, st.randoms(use_true_random=False))
def test_interleaving_groups_changes_nothing(rows: list[tuple[float, int]], random: object) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for score in (Normalize(), Center(), LeaveOneOut(), NormalizeOverBatch()):
        straight = scores(score, [r for r, _ in rows], [g for _, g in rows])
        shuffled = scores(score, [rows[i][0] for i in order], [rows[i][1] for i in order])
        assert shuffled == pytest.approx([straight[i] for i in order], abs=1e-6)


@given(rewards_in_groups)
def test_advantages_of_a_group_sum_to_zero(rows: list[tuple[float, int]]) -> None:
    groups = [g for _, g in rows]
    for score in (Normalize(), Center(), LeaveOneOut()):
        values = scores(score, [r for r, _ in rows], groups)
        for group in set(groups):
            members = [value for value, g in zip(values, groups, strict=True) if g == group]
            assert sum(members) == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=64))
def test_rloo_is_n_over_n_minus_1_times_the_centred_reward(rewards: list[float]) -> None:
    n = len(rewards)
    direct = [r - (sum(rewards) - r) / (n - 1) for r in rewards]
    assert scores(LeaveOneOut(), rewards) == pytest.approx(direct, abs=1e-9)
    assert scores(LeaveOneOut(), rewards) == pytest.approx([n / (n - 1) * a for a in scores(Center(), rewards)], abs=1e-12)


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 9), st.sampled_from([torch.float32, torch.float64]))
def test_a_group_without_variance_gets_exactly_zero(reward: float, size: int, dtype: torch.dtype) -> None:
    rewards, groups = torch.full((size,), reward, dtype=dtype), Groups(torch.zeros(size, dtype=torch.long))
    for score in (Normalize(std_eps=0), Normalize(std_eps=0, ddof=0), Center(), LeaveOneOut(), NormalizeOverBatch(std_eps=0)):
        assert score(rewards, groups).abs().max() == 0


def test_a_rollout_without_siblings_gets_zero() -> None:
    for score in (Normalize(), Center(), LeaveOneOut()):
        assert scores(score, [1, 0, 5], [0, 0, 1])[2] == 0


def test_batch_normalisation_uses_one_std_for_all_groups() -> None:
    rewards, groups = [1.0, 0, 10, 0], [0, 0, 1, 1]
    std = torch.tensor([0.5, -0.5, 5, -5], dtype=torch.float64).std().item()
    expected = [a / (std + 1e-4) for a in (0.5, -0.5, 5, -5)]
    assert scores(NormalizeOverBatch(), rewards, groups) == pytest.approx(expected)
    assert scores(Normalize(), rewards, groups) == pytest.approx([0.707, -0.707, 0.707, -0.707], abs=1e-3)


def test_reinforce_baselines() -> None:
    assert scores(BatchMean(), [1, 0, 0, 0], [0, 1, 2, 3]) == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert scores(Unchanged(), [1, 0], [0, 0]) == [1, 0]


# From rollouts to tokens


def test_all_tokens_of_a_rollout_share_its_advantage_and_others_get_none() -> None:
    toy = step([1, 0], [[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]], rollout_index=torch.tensor([0, 1, 0]))
    expected = [[0, 0.5, 0.5, 0], [0, 0, -0.5, -0.5], [0, 0.5, 0, 0]]
    assert PerRollout(Center())(toy).tolist() == expected


def test_kl_in_the_reward_is_summed_over_the_rollout_before_the_baseline() -> None:
    penalty = torch.tensor([[0.1, 0.2, 9], [0.3, 0, 9], [0.4, 9, 9]], dtype=torch.float64)
    toy = step(
        [1, 1], [[1, 1, 0], [1, 1, 0], [1, 0, 0]], rollout_index=torch.tensor([0, 1, 1]), token_penalty=penalty
    )  # rollout 0 loses 0.3, rollout 1 loses 0.3 + 0.4
    assert PerRollout(LeaveOneOut())(toy)[:, 0].tolist() == pytest.approx([0.4, -0.4, -0.4])


def test_whitened_returns_have_mean_0_and_std_1_over_sampled_tokens() -> None:
    toy = step([1, 0, 3], [[1, 1, 0], [0, 1, 1], [1, 0, 1]], token_penalty=torch.rand(3, 3, dtype=torch.float64))
    values = WhitenedReturns()(toy)
    assert values[~toy.mask].abs().max() == 0
    assert values[toy.mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert values[toy.mask].std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitened_returns_follow_the_reinforce_pp_listing() -> None:
    penalty = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.7, 0]], dtype=torch.float64)
    toy = step([1, 0], [[1, 1, 1], [1, 1, 0]], token_penalty=penalty)
    returns = torch.tensor([1 - 0.6, 1 - 0.5, 1 - 0.3, -1.2, -0.7], dtype=torch.float64)
    expected = (returns - returns.mean()) / returns.std(correction=0)
    assert WhitenedReturns()(toy)[toy.mask].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_returns_of_an_early_segment_see_the_kl_of_later_ones() -> None:
    penalty = torch.tensor([[0.1, 0.2], [0.5, 0.25], [0.3, 0.0]], dtype=torch.float64)
    fields = {"rollout_index": torch.tensor([0, 1, 0]), "token_penalty": penalty}
    split = WhitenedReturns()(step([1, 0], [[1, 1], [1, 1], [1, 0]], **fields))
    whole = WhitenedReturns()(
        step(
            [1, 0],
            [[1, 1, 1], [1, 1, 0]],
            token_penalty=torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.25, 0]], dtype=torch.float64),
        )
    )
    assert [*split[0].tolist(), split[2, 0].item()] == pytest.approx(whole[0].tolist())


def test_whitening_equal_returns_gives_zero_and_no_nan() -> None:
    assert WhitenedReturns()(step([0.1] * 3, [[1, 1]] * 3)).abs().max() == 0
    assert WhitenedReturns()(step([0.1], [[0, 0]])).abs().max() == 0


@pytest.mark.parametrize(
    ("make", "setting"), [(lambda: Normalize(std_eps=-1), "std_eps"), (lambda: Normalize(ddof=2), "std_ddof")]
)
def test_wrong_constants_are_refused(make: object, setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        make()  # type: ignore[operator]
