"""Means over problems, with intervals that say how far the chosen problems can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlvr.seeding import seed as seed_of

RESAMPLES = 5_000
UNSEEN = 0.1  # of a problem, at either bound
_CHUNK = 4_000_000  # drawn indices held at once: 32 MB

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n_problems` problems and its interval [low, high]."""

    mean: float
    low: float
    high: float
    n_problems: int

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def estimate(
    values: Sequence[float],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Estimate:
    """Mean of one value per problem, with an interval over problems.

    The problem is the unit, not the sample: the samples of one problem are not independent evidence about the next problem, and
    how its value scatters over problems already holds the noise of its samples, so nothing is resampled within a problem.

    With `bounds` the interval is Wilson's score interval at the number of coin flips that would scatter as much as these values
    do, with Student's quantile. The spread counts a tenth of an unseen problem at either bound: values that are nearly all equal
    hide the rare ones that differ, and then every interval from their own spread is too short. For 30 problems and
    means between 3 and 97 %, a BCa bootstrap covers 84 to 98 % and this interval 94 to 99 % (`benchmarks/interval_coverage.py`).
    Values that are all equal get the exact
    interval for a share of unseen, differing problems (Clopper-Pearson at 0 or n successes): 20 problems all solved give
    [0.83, 1].

    `bounds=None`, a quantity without a known range: a BCa bootstrap over problems, and the bare value where all are equal.

    Source: Wilson 1927, JASA 22(158); Efron 1987, "Better Bootstrap Confidence Intervals", JASA 82(397), eqs. 4.1-4.4; Clopper
    & Pearson 1934. The use of an effective number of trials follows Korn & Graubard 1998, Survey Methodology 24(2).

    Raises:
        ValueError: no values, a value that is not finite or outside `bounds`, or a confidence outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("an estimate needs at least one problem")
    if not np.isfinite(sample).all():
        raise ValueError("values must be finite")
    if bounds is not None and (sample.min() < bounds[0] or sample.max() > bounds[1]):
        raise ValueError(f"values span [{sample.min()}, {sample.max()}], outside the bounds {bounds}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence}: it must be between 0 and 1")
    mean = float(sample.mean())
    if sample.min() == sample.max():
        low, high = _interval_of_equal_values(float(sample[0]), sample.size, confidence, bounds)
        return Estimate(float(sample[0]), low, high, sample.size)
    if bounds is None:
        low, high = _bca(sample, _resampled_means(sample, seed), confidence)
    else:
        width = bounds[1] - bounds[0]
        low, high = (bounds[0] + width * end for end in score_interval((sample - bounds[0]) / width, confidence))
    # Summation order can leave the mean a rounding error outside.
    return Estimate(mean, min(low, mean), max(high, mean), sample.size)


def score_interval(shares: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The bounded interval of `estimate` for values in [0, 1] that are not all equal."""
    n, mean = shares.size, float(shares.mean())
    unseen = UNSEEN * (mean**2 + (1.0 - mean) ** 2)
    variance = (float(((shares - mean) ** 2).sum()) + unseen) / (n - 1)
    trials = n * mean * (1.0 - mean) / variance
    z = t_quantile((1.0 + confidence) / 2.0, n - 1)
    centre = (mean + z * z / (2.0 * trials)) / (1.0 + z * z / trials)
    half = z / (1.0 + z * z / trials) * math.sqrt(mean * (1.0 - mean) / trials + z * z / (4.0 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, to three digits and better.

    Source: Abramowitz & Stegun 1964, 26.7.5; the closed forms for one and two degrees of freedom.

    >>> [round(t_quantile(0.975, degrees), 2) for degrees in (1, 2, 3, 29)]
    [12.71, 4.3, 3.18, 2.05]
    """
    if degrees < 1:
        raise ValueError(f"degrees = {degrees}: a t distribution has 1 degree of freedom or more")
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2.0 * probability - 1.0) / math.sqrt(2.0 * probability * (1.0 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return z + math.fsum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))


def paired_gain(before: Sequence[float], after: Sequence[float], *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Mean of after - before over the same problems in the same order, both in [0, 1]; the interval uses the pairing.

    Raises:
        ValueError: the two have different lengths, or `estimate` refuses them.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} problems before, but {len(after)} after: a paired gain needs the same problems")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if not differences or min(differences) == max(differences) or max(map(abs, differences)) > 1.0:
        return estimate(differences, seed=seed, confidence=confidence, bounds=(-1.0, 1.0))
    # Student's interval: differences scatter around a middle, not near a bound, and a score interval would only be longer.
    sample = np.asarray(differences)
    mean = float(sample.mean())
    half = t_quantile((1.0 + confidence) / 2.0, sample.size - 1) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half), sample.size)


def _interval_of_equal_values(value: float, n: int, confidence: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
    if bounds is None:
        return value, value
    # Up to this share of all problems may differ from what n problems showed, and at worst lie at a bound.
    unseen = 1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / n)
    return value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)


def _resampled_means(sample: Floats, seed: int) -> Floats:
    generator = np.random.default_rng(seed_of("bootstrap", seed))
    rows = max(1, _CHUNK // sample.size)
    means = [
        sample[generator.integers(0, sample.size, size=(min(rows, RESAMPLES - start), sample.size))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)


def _bca(sample: Floats, means: Floats, confidence: float) -> tuple[float, float]:
    normal = NormalDist()
    deviations = (sample - sample.mean()) / np.ptp(sample)  # scaled, so that cubes of tiny differences do not underflow
    below = float((means < sample.mean()).mean() + 0.5 * (means == sample.mean()).mean())
    # A bias of "all resamples on one side" is a limit of the resampling, not a fact: half a resample keeps it finite.
    bias = normal.inv_cdf(min(max(below, 0.5 / means.size), 1.0 - 0.5 / means.size))
    acceleration = float((deviations**3).sum() / (6.0 * (deviations**2).sum() ** 1.5))
    quantiles = []
    for tail in ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0):
        shifted = bias + normal.inv_cdf(tail)
        scale = 1.0 - acceleration * shifted
        quantiles.append(normal.cdf(bias + shifted / scale) if scale > 0 else float(shifted > 0))
    low, high = np.quantile(means, quantiles)
    return float(low), float(high)


def is_finite_number(value: object) -> bool:
    """Whether `value` can be averaged or plotted; a bool cannot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
