from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.evaluation.passk import pass_at_k


def by_enumeration(n: int, correct: int, k: int) -> float:
    """Share of all k-subsets of n samples that hold a correct one."""
    subsets = list(itertools.combinations([index < correct for index in range(n)], k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(1, 9) for k in range(1, n + 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n: int, k: int) -> None:
    for correct in range(n + 1):
        assert pass_at_k(n, correct, k) == pytest.approx(by_enumeration(n, correct, k), abs=1e-12)


@given(st.integers(1, 400), st.data())
def test_pass_at_k_matches_the_binomials_and_grows_with_k_and_correct(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    correct = data.draw(st.integers(0, n))
    value = pass_at_k(n, correct, k)
    assert value == pytest.approx(1 - math.comb(n - correct, k) / math.comb(n, k), abs=1e-9)
    assert 0.0 <= value <= 1.0
    if k < n:
        assert pass_at_k(n, correct, k + 1) >= value - 1e-12
    if correct < n:
        assert pass_at_k(n, correct + 1, k) >= value - 1e-12


@given(st.integers(1, 200), st.data())
def test_pass_at_1_is_the_share_of_correct_samples(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    assert pass_at_k(n, correct, 1) == pytest.approx(correct / n, abs=1e-12)


def test_large_sample_counts_do_not_overflow() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 2), (4, -1, 2), (0, 0, 1)])
def test_impossible_counts_are_refused(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        pass_at_k(n, correct, k)
