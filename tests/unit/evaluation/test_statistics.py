from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.evaluation import statistics
from rlvr.evaluation.statistics import estimate, is_finite_number, paired_gain, t_quantile
from rlvr.seeding import seed


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_interval_holds_the_mean_and_stays_inside_the_bounds(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    assert found.n_problems == len(values)


def test_a_bootstrapped_interval_depends_on_the_seed_alone_and_a_bounded_one_on_nothing() -> None:
    values = [0.0, 0.25, 0.5, 1.0, 1.0, 0.75]
    assert estimate(values, seed=3, bounds=None) == estimate(values, seed=3, bounds=None)
    assert estimate(values, seed=3, bounds=None) != estimate(values, seed=4, bounds=None)
    assert estimate(values, seed=3) == estimate(values, seed=4)


@pytest.mark.parametrize(
    ("degrees", "printed"),  # t tables, two-sided 95 %
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (29, 2.045), (99, 1.984), (499, 1.965)],
)
def test_quantiles_of_students_distribution_are_those_of_the_tables(degrees: int, printed: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(printed, abs=0.004)
    assert t_quantile(0.025, degrees) == pytest.approx(-printed, abs=0.004)


def test_zeros_and_ones_get_about_wilsons_interval() -> None:
    # 90 of 100: Wilson at z = 1.96 gives [0.826, 0.945].
    found = estimate([1.0] * 90 + [0.0] * 10)
    assert (found.low, found.high) == (pytest.approx(0.826, abs=0.003), pytest.approx(0.945, abs=0.003))


def test_rare_failures_that_the_sample_nearly_hides_do_not_make_the_interval_shrink_to_nothing() -> None:
    found = estimate([1.0] * 29 + [0.97])
    assert found.low < 0.985
    assert found.high > 0.9995


def test_a_gain_has_students_interval() -> None:
    differences = [0.5, -0.25, 0.25, 0.0, 0.25]
    found = paired_gain([0.5] * 5, [0.5 + difference for difference in differences])
    half = 2.776 * float(np.std(differences, ddof=1)) / math.sqrt(5)
    assert found.mean == pytest.approx(0.15)
    assert (found.low, found.high) == (pytest.approx(0.15 - half, abs=1e-3), pytest.approx(0.15 + half, abs=1e-3))


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.9), (2.0, 2.0)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(alpha: float, beta: float) -> None:
    generator = np.random.default_rng(seed("coverage", alpha))
    truth = alpha / (alpha + beta)
    intervals = [estimate(generator.beta(alpha, beta, size=40).tolist(), seed=trial) for trial in range(200)]
    covered = sum(interval.low <= truth <= interval.high for interval in intervals)
    assert 0.89 * 200 <= covered <= 0.99 * 200


def test_the_interval_is_close_to_the_normal_one_for_many_problems() -> None:
    values = np.random.default_rng(seed("normal")).random(4000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    found = estimate(values.tolist())
    assert found.high - found.mean == pytest.approx(half, rel=0.08)
    assert found.mean - found.low == pytest.approx(half, rel=0.08)


def test_all_or_nothing_samples_get_the_exact_binomial_interval_instead_of_no_width() -> None:
    # Clopper-Pearson, two-sided 95 %, 20 of 20: [0.025 ** (1 / 20), 1].
    solved, failed = estimate([1.0] * 20), estimate([0.0] * 20)
    assert (solved.low, solved.high) == (pytest.approx(0.83157, abs=1e-5), 1.0)
    assert (failed.low, failed.high) == (0.0, pytest.approx(0.16843, abs=1e-5))


def test_equal_values_inside_the_range_leave_room_on_both_sides() -> None:
    found = estimate([0.5] * 10)
    assert found.low < 0.5 < found.high
    assert found.high - 0.5 == pytest.approx(0.5 - found.low)


def test_a_quantity_without_a_range_keeps_its_bare_value() -> None:
    found = estimate([37.0, 37.0], bounds=None)
    assert (found.mean, found.low, found.high) == (37.0, 37.0, 37.0)


def test_resampling_in_chunks_covers_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", 21)
    means = statistics._resampled_means(np.arange(7.0), seed=0)
    assert means.shape == (statistics.RESAMPLES,)


def test_pairing_narrows_the_interval_of_a_gain() -> None:
    generator = np.random.default_rng(seed("pairs"))
    before = generator.random(60) * 0.7
    after = before + 0.2 + generator.normal(0, 0.02, 60)
    gain = paired_gain(before.tolist(), after.tolist())
    assert gain.low > 0.18
    assert gain.high - gain.low < 0.3 * (estimate(after.tolist()).high - estimate(after.tolist()).low)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least one problem"), ([math.nan], "finite"), ([0.5, 1.5], "outside the bounds")],
)
def test_values_that_cannot_be_averaged_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(values)


def test_a_gain_over_different_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="same problems"):
        paired_gain([0.0], [0.0, 1.0])


def test_only_finite_numbers_can_be_averaged() -> None:
    assert [is_finite_number(value) for value in (1, 0.5, True, None, "1", math.inf, math.nan)] == [True, True] + [False] * 5
