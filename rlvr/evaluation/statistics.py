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
    """Mean of one value per problem, with a BCa bootstrap interval over problems.

    Problems are resampled, not samples: the samples of one problem are not independent evidence about the next problem.
    BCa rather than plain percentiles, because per-problem pass@k is skewed and percentiles then cover too rarely
    (simulated with 20 problems: 91-94 % against 93-96 %, at a nominal 95 %).

    Equal values would give an interval of width zero, which no finite set of problems deserves. With `bounds` the
    interval is then the exact one for a share of unseen, differing problems (Clopper-Pearson at 0 or n successes):
    20 problems all solved give [0.83, 1]. `bounds=None` (a quantity without a known range) returns the bare value.

    Source: Efron 1987, "Better Bootstrap Confidence Intervals", JASA 82(397), eqs. 4.1-4.4; Clopper & Pearson 1934.

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
    low, high = _bca(sample, _resampled_means(sample, seed), confidence)
    return Estimate(mean, low, high, sample.size)


def paired_gain(before: Sequence[float], after: Sequence[float], *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Mean of after - before over the same problems in the same order, both in [0, 1]; the interval uses the pairing.

    Raises:
        ValueError: the two have different lengths, or `estimate` refuses them.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} problems before, but {len(after)} after: a paired gain needs the same problems")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return estimate(differences, seed=seed, confidence=confidence, bounds=(-1.0, 1.0))


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
    # Summation order can leave the mean a rounding error outside.
    return min(float(low), float(sample.mean())), max(float(high), float(sample.mean()))


def is_finite_number(value: object) -> bool:
    """Whether `value` can be averaged or plotted; a bool cannot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
