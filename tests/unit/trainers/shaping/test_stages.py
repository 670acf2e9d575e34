"""A length limit that moves on when the policy is good enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import Algorithm, build
from rlvr.trainers.shaping.base import OverlongPenalty
from rlvr.trainers.shaping.length_penalties import GrowingLimit, TokenCost
from rlvr.trainers.shaping.sections import Shapes, shapes_in
from rlvr.trainers.shaping.stages import Stages, at_stage

GROWS = GrowingLimit((20, 40, 80), stage_steps=3, buffer=8, above=0.6)


def algorithm(*shapes: object) -> Algorithm:
    return replace(build("grpo"), shape=Shapes(shapes) if len(shapes) > 1 else shapes[0])  # type: ignore[arg-type]


def limit(stages: Stages, made: Algorithm, step: int = 0) -> int | None:
    """Tokens that are allowed now."""
    return next(
        part.max_tokens for part in shapes_in(stages.apply(made).at_step(step).shape) if isinstance(part, OverlongPenalty)
    )


def after(stages: Stages, *shares: float) -> Stages:
    for share in shares:
        stages.observe(share)
    return stages


@pytest.mark.parametrize("others", [(), (TokenCost(),)])
def test_the_next_stage_begins_when_a_whole_stage_was_good_enough_on_average(others: tuple[object, ...]) -> None:
    made = algorithm(GROWS, *others)
    stages = Stages(made)
    assert limit(stages, made, step=1000) == 20  # steps alone change nothing
    assert limit(after(stages, 0.9, 0.9), made) == 20
    assert limit(after(stages, 0.3), made) == 40
    assert limit(after(stages, 0.5, 0.5, 0.5, 0.6), made) == 40  # the last three: 0.53
    assert limit(after(stages, 0.7), made) == 80
    assert limit(after(stages, 1.0, 1.0, 1.0, 1.0), made) == 80  # the last one stays
    assert stages.metrics() == {"shape_stage": 2.0}


def test_limits_may_fall_while_accuracy_lasts() -> None:
    made = algorithm(GrowingLimit((80, 40), stage_steps=1, buffer=8, above=0.9))
    stages = Stages(made)
    assert limit(after(stages, 0.8), made) == 80
    assert limit(after(stages, 0.95), made) == 40
    assert "shrinks when 90% were correct" in shapes_in(made.shape)[0].words  # type: ignore[attr-defined]


def test_steps_without_a_score_say_nothing() -> None:
    stages = Stages(algorithm(GROWS))
    for _ in range(9):
        stages.observe(None)
    assert stages.metrics() == {"shape_stage": 0.0}


def test_a_restored_run_is_in_the_same_stage_and_moves_on_at_the_same_step() -> None:
    made = algorithm(GROWS)
    whole = after(Stages(made), 0.7, 0.7, 0.7, 0.7, 0.7)
    restored = Stages(made)
    restored.load_state_dict(whole.state_dict())
    assert (limit(whole, made), limit(restored, made)) == (40, 40)
    assert limit(after(whole, 0.7), made) == limit(after(restored, 0.7), made) == 80
    assert shapes_in(at_stage(made, 1).shape)[0] == OverlongPenalty(40, 8)


def test_shapes_that_go_by_steps_are_left_alone() -> None:
    made = algorithm(GrowingLimit((20, 40), stage_steps=3, buffer=8))
    stages = after(Stages(made), 1.0, 1.0, 1.0)
    assert stages.apply(made) is made
    assert stages.metrics() == {}
    assert (limit(stages, made, step=2), limit(stages, made, step=3)) == (20, 40)


def test_two_shapes_that_go_by_accuracy_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 shapes move on by accuracy"):
        Stages(algorithm(GROWS, GROWS))
