from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from rlvr.evaluation.paired import holm, paired_test, sentence, sign_flip_p
from rlvr.seeding import seed


def test_few_problems_are_tested_exactly() -> None:
    gaps = [0.25, 0.5, -0.25, 0.75]
    sums = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) for signs in itertools.product((-1, 1), repeat=4)]
    expected = sum(1.0 if s > 1.25 + 1e-9 else 0.5 if abs(s - 1.25) < 1e-9 else 0.0 for s in sums) / 16
    assert sign_flip_p(np.array(gaps)) == pytest.approx(expected)


def test_many_problems_agree_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(seed("gaps"))
    gaps = generator.normal(0.0, 0.2, 400)
    gaps += 0.02 - gaps.mean()
    z = gaps.sum() / math.sqrt(float((gaps**2).sum()))
    assert sign_flip_p(gaps) == pytest.approx(2 * NormalDist().cdf(-z), abs=0.01)


def test_equal_models_differ_by_nothing_and_no_number_of_problems_would_show_it() -> None:
    found = paired_test([0.5, 1.0, 0.0], [0.5, 1.0, 0.0])
    assert (found.p, found.needed, found.difference.mean) == (1.0, None, 0.0)
    assert "no difference" in sentence(found, base="a", other="b", samples=4)


def test_alike_models_seldom_seem_to_differ() -> None:
    generator = np.random.default_rng(seed("alike"))
    rates = generator.beta(1, 1, size=(300, 30))
    one, other = (generator.binomial(4, rates) / 4 for _ in range(2))
    false = sum(paired_test(list(a), list(b), seed=i).p < 0.05 for i, (a, b) in enumerate(zip(one, other, strict=True)))
    assert 0.02 * 300 <= false <= 0.09 * 300


def test_a_clear_gain_is_claimed_with_its_interval() -> None:
    base = [0.25, 0.5, 0.0, 0.75] * 10
    found = paired_test(base, [value + 0.25 - 0.05 * (index % 3) for index, value in enumerate(base)])
    assert found.is_claimable
    said = sentence(found, base="base", other="trained", samples=4)
    assert said.startswith("trained is better than base: +20.1 points [+18.8, +21.5], p < .001, 40 problems x 4 samples")


def test_what_cannot_be_claimed_says_how_many_problems_it_would_take() -> None:
    generator = np.random.default_rng(seed("small"))
    base = generator.binomial(4, 0.5, size=30) / 4
    other = generator.binomial(4, 0.5, size=30) / 4
    found = paired_test(list(base), list(other))
    assert found.p > 0.05
    assert found.needed is not None
    said = sentence(found, base="A", other="B", samples=4)
    assert "no difference between B and A can be claimed with 30 problems x 4 samples" in said
    assert "problems would be needed" in said


def test_as_many_problems_as_needed_show_the_difference_with_the_power_promised() -> None:
    generator = np.random.default_rng(seed("power"))
    pilot = paired_test([0.5] * 200, list(np.clip(generator.normal(0.55, 0.2, 200), 0, 1)))
    assert pilot.needed is not None
    scatter = 0.2
    true_gap = pilot.difference.mean
    hits = sum(sign_flip_p(generator.normal(true_gap, scatter, pilot.needed), seed=trial) < 0.05 for trial in range(200))
    assert 0.68 * 200 <= hits <= 0.92 * 200


def test_a_lower_value_is_called_worse() -> None:
    found = paired_test([0.9, 0.8, 1.0, 0.7] * 5, [0.1, 0.2, 0.0, 0.2] * 5)
    assert "B is worse than A" in sentence(found, base="A", other="B", samples=1)


def test_several_comparisons_raise_the_bar_and_keep_their_order() -> None:
    assert holm([0.04, 0.01, 0.5]) == [0.08, 0.03, 0.5]
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([]) == []


def test_different_problems_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same problems"):
        paired_test([0.0], [0.0, 1.0])
