"""The stopping rule that is made for how the solve rates are spread."""

from __future__ import annotations

import math
from itertools import product

import pytest

from rlvr.filtering.stopping import _RATES, Stopping, fit_spread
from rlvr.filtering.window import PILOT, Window, decide
from rlvr.seeding import rng

N = 16
KEEP = Window()
SPREADS = {
    "nothing known": fit_spread([]),
    "spikes": fit_spread([(0, 4)] * 300 + [(4, 4)] * 200 + [(1, 4), (2, 4), (3, 4)] * 100),
    "all in the middle": fit_spread([(2, 4)] * 300 + [(1, 4), (3, 4)] * 150),
}


def outcome(stopping: Stopping, samples: tuple[bool, ...]) -> tuple[bool, int]:
    """What is decided about a problem with these samples, and after how many of them."""
    correct = scored = 0
    while more := stopping.more(correct, scored, len(samples) - scored):
        correct += sum(samples[scored : scored + more])
        scored += more
    return stopping.decision(correct, scored, len(samples) - scored).is_kept, scored


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("epsilon", [0.005, 0.015, 0.05])
def test_no_more_than_epsilon_of_the_decisions_change_and_that_is_exact(name: str, epsilon: float) -> None:
    # Every order of ten samples, with the probability that it has when rates are spread like this.
    total, spread = 10, SPREADS[name]
    stopping = Stopping(KEEP, epsilon, spread)
    chances = {
        hits: sum(w * r**hits * (1 - r) ** (total - hits) for w, r in zip(spread, _RATES.tolist(), strict=True)) / sum(spread)
        for hits in range(total + 1)
    }
    changed = drawn = 0.0
    for samples in product((False, True), repeat=total):
        chance = chances[sum(samples)]
        is_kept, used = outcome(stopping, samples)
        changed += chance * (is_kept != KEEP.holds(sum(samples) / total))
        drawn += chance * used
    assert changed <= epsilon
    assert PILOT <= drawn < total


def test_the_spread_of_rates_is_found_again() -> None:
    random = rng("spread")
    counts = []
    for index in range(3000):
        rate = (0.0, 1.0, 0.5)[index % 3]
        counts.append((sum(random.random() < rate for _ in range(4)), 4))
    spread = fit_spread(counts)
    total = sum(spread)
    assert sum(spread[:3]) / total == pytest.approx(1 / 3, abs=0.05)
    assert sum(spread[-3:]) / total == pytest.approx(1 / 3, abs=0.05)
    middle = math.fsum(w for w, r in zip(spread, _RATES.tolist(), strict=True) if 0.35 < r < 0.65)
    assert middle / total == pytest.approx(1 / 3, abs=0.08)


def test_the_same_samples_say_more_where_all_problems_are_alike() -> None:
    seen = (2, 4, N - 4)  # correct, scored, left
    flips = {name: Stopping(KEEP, 0.015, spread).decision(*seen).flip for name, spread in SPREADS.items()}
    assert flips["all in the middle"] < 0.02 < flips["spikes"]


def test_an_end_that_nothing_can_change_is_found_with_every_spread() -> None:
    for spread in SPREADS.values():
        stopping = Stopping(KEEP, 1e-9, spread)
        for scored in range(PILOT, N + 1):
            for correct in range(scored + 1):
                is_over = stopping.more(correct, scored, N - scored) == 0
                assert is_over == (decide(KEEP, correct, scored, N - scored).flip == 0.0)


def test_without_a_spread_or_an_epsilon_it_decides_as_before() -> None:
    assert Stopping(KEEP).more(0, 0, N) == N
    assert Stopping(KEEP, 0.0, SPREADS["spikes"]).more(4, 8, 8) == 0
    assert Stopping(KEEP, 0.0, SPREADS["spikes"]).more(0, 12, 4) == 4 - 3
    assert Stopping(KEEP, 0.03).more(0, 7, 9) == 0
    assert Stopping(KEEP, 0.03, SPREADS["spikes"]).decision(0, 0, 0).is_kept is False
