from __future__ import annotations

import pytest

from rlvr.errors import ConfigError
from rlvr.trainers.shaping.base import Identity, KeepAll, MixedOutcomes, OverlongPenalty
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Turn, Verdict

PROBLEM = Problem("p", (Message("user", "?"),), 1)


def rollout(verdict: Verdict | None, *, tokens: int = 0, reward: float | None = None) -> Rollout:
    turn = Turn((), Completion((1,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", ""))
    verdicts = {} if verdict is None else {"v": verdict}
    score = verdict.score if verdict is not None and reward is None else reward
    return Rollout(PROBLEM, 0, [turn], verdicts=verdicts, reward=score)


def group(*rollouts: Rollout) -> Group:
    return Group(PROBLEM, rollouts)


CORRECT, WRONG, BROKEN = Verdict.correct(), Verdict.incorrect(), Verdict.error("our fault")


@pytest.mark.parametrize(("tokens", "penalty"), [(0, 0), (16384, 0), (18432, -0.5), (20480, -1), (30000, -1), (16385, -1 / 4096)])
def test_overlong_penalty_with_the_papers_numbers(tokens: int, penalty: float) -> None:
    assert OverlongPenalty(20480, 4096).penalty(tokens) == pytest.approx(penalty)


def test_the_buffer_is_a_fifth_of_the_limit_unless_given() -> None:
    assert OverlongPenalty(20480).penalty(18432) == pytest.approx(-0.5)
    assert OverlongPenalty().bind(max_tokens=100).penalty(90) == pytest.approx(-0.5)
    assert OverlongPenalty(50).bind(max_tokens=100).max_tokens == 50
    assert OverlongPenalty(1).penalty(1) == -1


def test_the_penalty_is_added_to_the_reward_and_unscored_rollouts_stay_so() -> None:
    shaped = OverlongPenalty(10, 4)(group(rollout(CORRECT, tokens=8), rollout(WRONG, tokens=10), rollout(BROKEN, tokens=10)))
    assert shaped == [pytest.approx(0.5), pytest.approx(-1), None]
    assert Identity()(group(rollout(CORRECT), rollout(BROKEN))) == [1.0, None]


def test_an_unbound_penalty_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="max_tokens is not set"):
        OverlongPenalty().penalty(3)
    with pytest.raises(ConfigError, match="overlong_buffer = 11"):
        OverlongPenalty(10, 11)
    with pytest.raises(ConfigError, match="overlong_buffer = 0"):
        OverlongPenalty(10, 0)


def test_groups_that_all_score_the_same_have_no_signal() -> None:
    keep = MixedOutcomes()
    assert keep(group(rollout(CORRECT), rollout(WRONG)))
    assert not keep(group(rollout(CORRECT), rollout(CORRECT)))
    assert not keep(group(rollout(WRONG), rollout(WRONG)))
    assert KeepAll()(group(rollout(WRONG), rollout(WRONG)))


def test_unscored_rollouts_make_no_signal() -> None:
    assert not MixedOutcomes()(group(rollout(CORRECT), rollout(BROKEN)))
    assert not MixedOutcomes()(group(rollout(BROKEN), rollout(BROKEN)))


def test_a_length_penalty_makes_no_signal_of_an_unsolved_problem() -> None:
    assert not MixedOutcomes()(group(rollout(WRONG, reward=-0.5), rollout(WRONG, reward=0.0)))
