from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import grpo
from rlvr.trainers.length_penalties import CosineLength, KimiLength, LengthBudget, TargetLength
from rlvr.trainers.shaping import Shape
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Turn, Verdict

Attempts = list[tuple[int, bool]]  # (tokens, is correct)
attempts_of_a_group = st.lists(st.tuples(st.integers(0, 200), st.booleans()), min_size=1, max_size=12)


def group(attempts: Attempts, **metadata: Any) -> Group:
    problem = Problem("p", (), 1, metadata)

    def rollout(tokens: int, is_correct: bool) -> Rollout:
        turn = Turn((), Completion((1,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", ""))
        verdict = Verdict.correct() if is_correct else Verdict.incorrect()
        return Rollout(problem, 0, [turn], verdicts={"v": verdict}, reward=verdict.score)

    return Group(problem, tuple(rollout(*attempt) for attempt in attempts))


def shaped(shape: Shape, attempts: Attempts, **metadata: Any) -> list[float]:
    return [reward for reward in shape(group(attempts, **metadata)) if reward is not None]


LENGTHS = (50, 100, 130, 150, 200)


def test_target_length_on_the_worked_numbers() -> None:
    shape = TargetLength(alpha=0.01)
    right, wrong = ([(n, is_correct) for n in LENGTHS] for is_correct in (True, False))
    assert shaped(shape, right, target_tokens=100) == pytest.approx([0.5, 1, 0.7, 0.5, 0])
    assert shaped(shape, wrong, target_tokens=100) == pytest.approx([-0.5, 0, -0.3, -0.5, -1])


def test_length_budget_on_the_worked_numbers() -> None:
    shape = LengthBudget(alpha=0.01, delta=0.5)
    right, wrong = ([(n, is_correct) for n in LENGTHS] for is_correct in (True, False))
    assert shaped(shape, right, target_tokens=100) == pytest.approx([1, 0.5, 0.2, 0, 0])
    assert shaped(shape, wrong, target_tokens=100) == [0] * 5


def test_kimi_length_by_hand() -> None:
    attempts = [(10, True), (20, True), (30, True), (10, False), (20, False), (30, False)]
    assert shaped(KimiLength(), attempts) == pytest.approx([1.5, 1.0, 0.5, 0.0, 0.0, -0.5])
    assert shaped(KimiLength(weight=0.1), attempts[:3]) == pytest.approx([1.05, 1.0, 0.95])
    assert shaped(KimiLength(), [(7, True), (7, False)]) == [1, 0]


@given(attempts_of_a_group, st.permutations(range(12)))
def test_kimi_length_prefers_short_and_correct_in_any_order(attempts: Attempts, order: list[int]) -> None:
    rewards = shaped(KimiLength(), attempts)
    for (n, is_correct), reward in zip(attempts, rewards, strict=True):
        for (m, other_is_correct), other in zip(attempts, rewards, strict=True):
            if is_correct == other_is_correct and n <= m:
                assert reward >= other
            if is_correct and not other_is_correct:
                assert reward >= other
    places = [i for i in order if i < len(attempts)]
    assert shaped(KimiLength(), [attempts[i] for i in places]) == [rewards[i] for i in places]


def test_cosine_length_runs_between_its_ends() -> None:
    shape = CosineLength(max_tokens=100)
    assert shaped(shape, [(0, True), (50, True), (100, True), (150, True)]) == pytest.approx([1, 0.75, 0.5, 0.5])
    assert shaped(shape, [(0, False), (50, False), (100, False)]) == pytest.approx([-1, -0.75, -0.5])
    assert CosineLength().bind(max_tokens=7).max_tokens == 7
    with pytest.raises(ConfigError, match="max_tokens is not set"):
        shaped(CosineLength(), [(1, True)])


@pytest.mark.parametrize("shape", [KimiLength(), TargetLength(), LengthBudget(), CosineLength(10)], ids=repr)
def test_unscored_rollouts_stay_unscored_and_do_not_set_the_scale(shape: Shape) -> None:
    clean = group([(3, True), (6, False)], target_tokens=5)
    broken = replace(clean.rollouts[0], verdicts={"v": Verdict.error("our fault")}, reward=None)
    assert shape(Group(clean.problem, (*clean.rollouts, broken))) == [*shape(clean), None]


@pytest.mark.parametrize("target", [None, "100", 0, math.nan, True])
def test_a_missing_target_names_the_problem(target: Any) -> None:
    with pytest.raises(ConfigError, match="problem 'p' has metadata target_tokens"):
        shaped(TargetLength(), [(1, True)], target_tokens=target)


def test_wrong_constants_are_refused() -> None:
    for make in (
        lambda: KimiLength(weight=0),
        lambda: TargetLength(alpha=-1),
        lambda: LengthBudget(delta=2),
        lambda: CosineLength(0),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_penalty_is_a_part_like_any_other() -> None:
    assert replace(grpo(), shape=CosineLength()).bind(max_tokens=9).shape == CosineLength(9)
