from __future__ import annotations

import pytest

from rlvr.errors import ConfigError
from rlvr.filtering.curriculum import Uniform
from rlvr.types import Message, Problem

PROBLEMS = [Problem(f"p{i}", (Message("user", str(i)),), "") for i in range(7)]


def ids(curriculum: Uniform, count: int) -> list[str]:
    return [problem.id for problem in curriculum.next(count)]


def test_every_problem_comes_once_in_each_epoch_in_a_new_order() -> None:
    curriculum = Uniform(PROBLEMS, seed=3)
    first, second = ids(curriculum, 7), ids(curriculum, 7)
    assert sorted(first) == sorted(second) == [problem.id for problem in PROBLEMS]
    assert first != second
    assert curriculum.epoch == 2.0


@pytest.mark.parametrize("drawn", [0, 3, 7, 12])
def test_a_restored_curriculum_goes_on_where_it_was(drawn: int) -> None:
    whole, broken = Uniform(PROBLEMS, seed=3), Uniform(PROBLEMS, seed=3)
    ids(whole, drawn)
    ids(broken, drawn)
    restored = Uniform(PROBLEMS, seed=3)
    restored.load_state_dict(broken.state_dict())
    assert ids(restored, 20) == ids(whole, 20)


def test_another_seed_is_another_order() -> None:
    assert ids(Uniform(PROBLEMS, seed=0), 7) != ids(Uniform(PROBLEMS, seed=1), 7)


def test_no_problems_are_refused() -> None:
    with pytest.raises(ConfigError, match="no problems to train on"):
        Uniform([], seed=0)
