"""A run in which nothing is learned for long ends, with the numbers."""

from __future__ import annotations

from collections import Counter

import pytest

from rlvr.filtering.curriculum import StarvedError
from rlvr.trainers.drought import Drought
from rlvr.trainers.rollouts import Collected
from rlvr.types import Group, Message, Problem, Rollout, Verdict

PROBLEM = Problem("p", (Message("user", "?"),), "")


def collected(*scores: tuple[int, ...], kept: bool = True) -> Collected:
    groups = []
    for group in scores:
        rollouts = []
        for index, score in enumerate(group):
            verdict = Verdict.correct() if score else Verdict.incorrect()
            rollouts.append(Rollout(PROBLEM, index, verdicts={"v": verdict}, reward=float(score)))
        groups.append(Group(PROBLEM, tuple(rollouts)))
    return Collected(kept=groups if kept else [], groups=groups, drops=Counter() if kept else Counter(no_signal=len(groups)))


def test_steps_without_signal_are_counted_and_one_with_signal_starts_anew() -> None:
    drought = Drought(patience=3)
    for found in (collected((0, 0)), collected((0, 0)), collected((0, 1)), collected((1, 1)), collected((1, 1))):
        drought.check(found, 0)
    assert drought.steps == 2


def test_problems_that_are_too_hard_are_an_error_with_the_numbers_and_what_to_change() -> None:
    drought = Drought(patience=2)
    drought.check(collected((0, 0)), 6)
    with pytest.raises(StarvedError) as error:
        drought.check(collected((0, 0), (0, 0), (1, 1), kept=False), 7)
    assert not error.value.is_solved
    text = str(error.value)
    assert "step 8: for 2 steps in a row" in text
    assert "Of the last 3 groups 1 were all correct, 2 all wrong, 0 unscored; dropped: 3 by no_signal" in text
    assert "easier problems" in text


def test_problems_that_are_all_solved_are_no_failure() -> None:
    with pytest.raises(StarvedError, match="nothing more to learn") as error:
        Drought(patience=1).check(collected((1, 1), (1, 1)), 0)
    assert error.value.is_solved
