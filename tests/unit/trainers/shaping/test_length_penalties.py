from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import grpo
from rlvr.trainers.shaping.base import OverlongFilter, OverlongPenalty, Shape
from rlvr.trainers.shaping.length_penalties import CosineLength, GrowingLimit, KimiLength, LengthBudget, TargetLength, TokenCost
from rlvr.trainers.shaping.sections import Shapes
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


ALL: list[Shape] = [
    KimiLength(),
    TargetLength(),
    LengthBudget(),
    LengthBudget(form="code"),
    TokenCost(),
    GrowingLimit((4, 8)),
    CosineLength(10),
    CosineLength(10, exceed=-10),
    OverlongPenalty(10),
    OverlongFilter(),
    Shapes((KimiLength(0.5), TokenCost(), OverlongFilter())),
]


@pytest.mark.parametrize("shape", ALL, ids=repr)
def test_unscored_rollouts_stay_unscored_and_do_not_set_the_scale(shape: Shape) -> None:
    clean = group([(3, True), (6, False)], target_tokens=5)
    broken = replace(clean.rollouts[0], verdicts={"v": Verdict.error("our fault")}, reward=None)
    assert shape(Group(clean.problem, (*clean.rollouts, broken))) == [*shape(clean), None]


@pytest.mark.parametrize("target", [None, "100", 0, math.nan, True])
def test_a_missing_target_names_the_problem(target: Any) -> None:
    with pytest.raises(ConfigError, match="problem 'p' has metadata target_tokens"):
        shaped(TargetLength(), [(1, True)], target_tokens=target)


def turns(*parts: tuple[int, int]) -> list[Turn]:
    """Turns of (tokens that were put before the model, tokens that it sampled): a conversation with tools."""
    found: list[Turn] = []
    context: tuple[int, ...] = ()
    for told, sampled in parts:
        context += (9,) * told
        found.append(Turn(context, Completion((1,) * sampled, (0.0,) * sampled, FinishReason.STOP), Message("assistant", "")))
        context += (1,) * sampled
    return found


@pytest.mark.parametrize("shape", ALL, ids=repr)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=4), attempts_of_a_group)
def test_only_what_the_policy_sampled_counts(shape: Shape, parts: list[tuple[int, int]], others: Attempts) -> None:
    sampled = sum(count for _, count in parts)
    plain = group([(sampled, True), *others], target_tokens=7)
    with_tools = replace(plain.rollouts[0], turns=turns(*parts))
    assert shape(replace(plain, rollouts=(with_tools, *plain.rollouts[1:]))) == shape(plain)


@pytest.mark.parametrize("shape", ALL, ids=repr)
@given(attempts_of_a_group, attempts_of_a_group)
def test_a_shape_leaves_its_group_alone_and_knows_no_other(shape: Shape, mine: Attempts, others: Attempts) -> None:
    found = group(mine, target_tokens=7)
    before = [rollout.reward for rollout in found.rollouts]
    first = shape(found)
    shape(group(others, target_tokens=90))
    assert shape(found) == first
    assert [rollout.reward for rollout in found.rollouts] == before


def test_length_budget_as_the_authors_trainer_computes_it() -> None:
    right = [(n, True) for n in LENGTHS]
    found = shaped(LengthBudget(alpha=0.01, form="code"), right, target_tokens=100)
    assert found == pytest.approx([0.75, 0.5, 0.35, 0.25, 0])
    assert shaped(LengthBudget(alpha=0.01, form="code"), [(n, False) for n in LENGTHS], target_tokens=100) == [0] * 5


def test_a_constant_cost_of_a_token_is_lcpo_exact_with_a_target_of_none() -> None:
    attempts = [(n, is_correct) for n in LENGTHS for is_correct in (True, False)]
    costs = shaped(TokenCost(0.001), attempts)
    assert costs == pytest.approx([is_correct - 0.001 * n for n, is_correct in attempts])


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 400))
def test_the_growing_limit_never_falls_and_depends_on_the_step_alone(limits: list[int], stage_steps: int, step: int) -> None:
    shape = GrowingLimit(tuple(sorted(limits)), stage_steps)
    assert shape.limit(step) <= shape.limit(step + 1) <= max(limits)
    assert shape.limit(0) == min(limits)
    assert shape.limit(stage_steps * len(limits)) == max(limits)
    assert shape.at_step(step) == OverlongPenalty(shape.limit(step))


def test_the_growing_limit_by_hand() -> None:
    shape = GrowingLimit((100, 200), stage_steps=10)
    attempts = [(80, True), (90, True), (100, False), (180, True), (200, True)]
    assert shaped(shape.at_step(9), attempts) == pytest.approx([1, 0.5, -1, 0, 0])
    assert shaped(shape.at_step(10), attempts) == pytest.approx([1, 1, 0, 0.5, 0])
    assert shaped(shape, attempts) == shaped(shape.at_step(99), attempts)


def test_cosine_length_may_punish_what_reaches_the_limit() -> None:
    shape = CosineLength(100, exceed=-10)
    assert shaped(shape, [(99, True), (100, True), (100, False)])[1:] == [-10, -10]
    # The defaults of open-r1's function: correct 1 -> 0.5, wrong -1 -> -0.5.
    assert shaped(CosineLength(1000), [(250, True), (250, False)]) == pytest.approx([0.9267766953, -0.9267766953])


def test_wrong_constants_are_refused() -> None:
    for make in (
        lambda: LengthBudget(form="other"),  # type: ignore[arg-type]
        lambda: TokenCost(0),
        lambda: GrowingLimit(()),
        lambda: GrowingLimit((8, 4)),
        lambda: GrowingLimit((8, 4, 6), above=0.5),
        lambda: GrowingLimit((4, 8), above=0.0),
        lambda: GrowingLimit((0, 4)),
        lambda: GrowingLimit((4,), 0),
        lambda: GrowingLimit((4, 8), buffer=5),
        lambda: CosineLength(9, exceed=math.nan),
        lambda: KimiLength(weight=0),
        lambda: TargetLength(alpha=-1),
        lambda: LengthBudget(delta=2),
        lambda: CosineLength(0),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_penalty_is_a_part_like_any_other() -> None:
    assert replace(grpo(), shape=CosineLength()).bind(max_tokens=9).shape == CosineLength(9)
