"""Early stopping: how surely a few samples say what all of them would."""

from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.filtering.window import Window, beta_binomial, decide, samples_before_a_decision

N = 16
WINDOWS = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda ends: Window(min(ends) / 20, max(ends) / 20))


@pytest.mark.parametrize("text", ["0.2", "0.8:0.2", "a:b", "-1:1", "0:nan", ""])
def test_windows_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="keep ="):
        Window.parse(text)


def test_a_window_is_read_from_text() -> None:
    assert Window.parse("0.2:0.8") == Window(0.2, 0.8)


def test_without_an_epsilon_all_samples_are_drawn() -> None:
    assert samples_before_a_decision(Window(), 0, 0, N, None) == N
    assert samples_before_a_decision(Window(), 0, N, 0, None) == 0


@given(WINDOWS, st.integers(1, 24), st.data())
def test_a_decision_that_cannot_change_has_no_chance_of_a_flip_and_no_other_has_none(
    keep: Window, total: int, data: st.DataObject
) -> None:
    scored = data.draw(st.integers(0, total))
    correct = data.draw(st.integers(0, scored))
    ends = {keep.holds((correct + more) / total) for more in range(total - scored + 1)}
    found = decide(keep, correct, scored, total - scored)
    assert (found.flip == 0.0) == (len(ends) == 1)
    assert found.flip <= 0.5
    if len(ends) == 1:
        assert ends == {found.is_kept}


@given(st.integers(0, 30), st.floats(0.1, 40), st.floats(0.1, 40))
def test_beta_binomial_probabilities_add_up_and_have_the_right_mean(trials: int, alpha: float, beta: float) -> None:
    chances = [beta_binomial(count, trials, alpha, beta) for count in range(trials + 1)]
    assert math.fsum(chances) == pytest.approx(1.0)
    mean = math.fsum(count * chance for count, chance in enumerate(chances))
    assert mean == pytest.approx(trials * alpha / (alpha + beta))


@given(WINDOWS, st.integers(1, 16), st.sampled_from([0.0, 0.01, 0.03, 0.1]), st.data())
def test_rounds_are_as_long_as_they_can_be_without_drawing_a_sample_too_many(
    keep: Window, total: int, epsilon: float, data: st.DataObject
) -> None:
    scored = data.draw(st.integers(0, total))
    correct = data.draw(st.integers(0, scored))
    left = total - scored
    count = samples_before_a_decision(keep, correct, scored, left, epsilon)
    decided = [
        any(decide(keep, correct + hits, scored + more, left - more).flip <= epsilon for hits in range(more + 1))
        for more in range(left + 1)
    ]
    assert decided[count]
    assert not any(decided[:count])


def replay(keep: Window, epsilon: float) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """How many orders of hits and misses lead to each (hits, samples) at which sampling stops, and of those how many end
    in the other decision after all N samples, for each final number of hits: stops -> paths, (hits, N) -> wrong paths."""
    reached = {(0, 0): 1}
    stopped: dict[tuple[int, int], int] = {}
    for size in range(N + 1):
        for (hits, samples), paths in [item for item in reached.items() if item[0][1] == size]:
            if samples == N or decide(keep, hits, samples, N - samples).flip <= epsilon:
                stopped[hits, samples] = paths
                continue
            for more in (0, 1):
                step = (hits + more, samples + 1)
                reached[step] = reached.get(step, 0) + paths
    wrong: dict[tuple[int, int], float] = {}
    for (hits, samples), paths in stopped.items():
        for more in range(N - samples + 1):
            if keep.holds((hits + more) / N) != decide(keep, hits, samples, N - samples).is_kept:
                key = (hits + more, N)
                wrong[key] = wrong.get(key, 0) + paths * math.comb(N - samples, more)
    return {key: float(paths) for key, paths in stopped.items()}, wrong


@cache
def error_and_saving(epsilon: float) -> tuple[float, float]:
    """Share of decisions that differ from those of all N samples, and of samples saved, exactly, for solve rates from
    Jeffreys' prior: every order of h hits in n samples is equally likely, and has the probability B(h+1/2, n-h+1/2)/B(1/2, 1/2).
    """

    def chance(hits: int, samples: int) -> float:
        return beta_binomial(hits, samples, 0.5, 0.5) / math.comb(samples, hits)

    stopped, wrong = replay(Window(), epsilon)
    drawn = math.fsum(paths * chance(*key) * key[1] for key, paths in stopped.items())
    assert math.fsum(paths * chance(*key) for key, paths in stopped.items()) == pytest.approx(1.0)
    return math.fsum(paths * chance(*key) for key, paths in wrong.items()), 1 - drawn / N


@pytest.mark.parametrize("epsilon", [0.0, 0.005, 0.01, 0.03, 0.1, 0.2])
def test_over_problems_like_the_prior_no_more_than_epsilon_of_the_decisions_differ(epsilon: float) -> None:
    error, _ = error_and_saving(epsilon)
    assert error <= epsilon
    assert (error == 0.0) == (epsilon == 0.0)


def test_more_tolerance_saves_more() -> None:
    savings = [error_and_saving(epsilon)[1] for epsilon in (0.0, 0.01, 0.03, 0.1)]
    assert savings == sorted(savings)
    assert savings[0] > 0.15
    assert savings[2] > 0.35
