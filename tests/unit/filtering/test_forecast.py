"""What a curriculum is expected to draw."""

from __future__ import annotations

import pytest

from rlvr.errors import ConfigError
from rlvr.filtering.curriculum import StarvedError
from rlvr.filtering.forecast import Forecast, forecast
from rlvr.filtering.pass_rates import PassRate, PassRates
from rlvr.types import Message, Problem

PROBLEMS = [Problem(f"p{i}", (Message("user", str(i)),), "") for i in range(17)]


def rates(counts: dict[int, int], n: int = 16) -> PassRates:
    return PassRates({}, {f"p{i}": PassRate(f"p{i}", n, c, 0, 10.0, {}) for i, c in counts.items()})


def of(name: str, counts: dict[int, int] | None = None, **arguments: object) -> Forecast:
    return forecast(PROBLEMS, None if counts is None else rates(counts), name, arguments, group_size=8, steps=101)


def test_an_even_draw_has_the_shares_of_the_problems() -> None:
    found = of("uniform", {i: i for i in range(17)})
    assert (found.problems, found.known) == (17, 17)
    assert sum(row.problems for row in found.bins) == 17
    for row in found.bins:
        assert row.shares == pytest.approx([row.problems / 17] * 3)
    assert found.signal == pytest.approx([found.signal_uniform] * 3)


def test_a_window_expects_more_signal_than_an_even_draw() -> None:
    found = of("window", {i: 16 if i < 8 else 0 if i < 14 else 8 for i in range(17)})
    assert found.signal[0] > 0.9 > 2 * found.signal_uniform
    middle = found.bins[2]
    assert (middle.problems, middle.shares[0]) == (3, pytest.approx(1.0, abs=0.05))


def test_a_schedule_moves_the_draws_through_the_run() -> None:
    found = of("easy_to_hard", {i: i for i in range(17)}, width=0.05)
    hardest, easiest = found.bins[0], found.bins[-1]
    assert hardest.shares[0] < 0.05 < hardest.shares[-1]
    assert easiest.shares[-1] < 0.05 < easiest.shares[0]


def test_nothing_known_is_said() -> None:
    found = of("learnability")
    assert found.known == 0
    assert found.bins[2].problems == 17


def test_a_curriculum_that_would_draw_nothing_says_so_before_training() -> None:
    with pytest.raises(StarvedError, match="17 are believed to be solved"):
        forecast(PROBLEMS, rates(dict.fromkeys(range(17), 400), n=400), "window", {}, group_size=8, steps=10)


def test_no_steps_are_an_error() -> None:
    with pytest.raises(ConfigError, match="steps = 0"):
        forecast(PROBLEMS, None, "uniform", {}, group_size=8, steps=0)
