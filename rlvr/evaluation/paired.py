"""Two models on the same problems: is one better, by how much, and how many problems would it take to tell?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rlvr.evaluation.statistics import Estimate, paired_gain
from rlvr.seeding import seed as seed_of
from rlvr.types import JSON

ALPHA, POWER = 0.05, 0.8
FLIPS = 9_999
_EXACT = 12  # problems: up to 4096 sign patterns are all looked at
_NOBODY_HAS = 1_000_000  # problems


@dataclass(frozen=True, slots=True)
class PairedTest:
    """other - base over the problems that both measured.

    `p`: two-sided, from a sign-flip test over problems. `detectable`: the smallest difference that this many problems, scattering
    like these, show with 80 % power at p < .05. `needed`: problems that would show the difference that was seen with that power;
    None when none was seen, or more than a million would be.
    """

    difference: Estimate
    p: float
    detectable: float
    needed: int | None

    @property
    def is_claimable(self) -> bool:
        return self.p < ALPHA

    def to_json(self) -> dict[str, JSON]:
        return {
            "difference": self.difference.to_json(),
            "p": self.p,
            "detectable": self.detectable,
            "problems": self.difference.n_problems,
            "problems_needed": self.needed,
        }


def paired_test(base: Sequence[float], other: Sequence[float], *, seed: int = 0) -> PairedTest:
    """Test `other` against `base`, one value in [0, 1] of each for every problem, in the same order.

    Under the null hypothesis the two models are alike, so that each problem's difference could as well have the other sign. The
    test flips signs at random and asks how often the mean is as far from zero as the one seen; sums that equal it count half,
    without which few samples make the test too timid (`benchmarks/interval_coverage.py`). Up to 12 problems every pattern of
    signs is looked at; then 9,999 and the one seen.

    Source: Fisher 1935, "The Design of Experiments", section 21; Lancaster 1961, JASA 56(294), for the half; Phipson & Smyth
    2010, for counting what was seen.

    Raises:
        ValueError: different lengths, no problems, or values outside [0, 1].
    """
    difference = paired_gain(base, other)
    gaps = np.asarray(other, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    scatter = float(gaps.std(ddof=1)) if gaps.size > 1 else 0.0
    normal = NormalDist()
    reach = (normal.inv_cdf(1.0 - ALPHA / 2.0) + normal.inv_cdf(POWER)) * scatter
    needed = None
    if abs(difference.mean) > 1e-12 and scatter > 0.0 and (reach / difference.mean) ** 2 <= _NOBODY_HAS:
        needed = max(2, math.ceil((reach / difference.mean) ** 2))
    return PairedTest(difference, sign_flip_p(gaps, seed=seed), reach / math.sqrt(gaps.size), needed)


def sign_flip_p(gaps: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value that the mean of `gaps` is zero; see `paired_test`."""
    gaps = gaps[gaps != 0.0]  # their sign changes nothing
    if gaps.size == 0:
        return 1.0
    seen, tolerance = abs(float(gaps.sum())), 1e-9 * float(np.abs(gaps).sum())
    if gaps.size <= _EXACT:
        patterns = np.arange(2**gaps.size)[:, None] >> np.arange(gaps.size) & 1
        sums = np.abs((patterns * 2.0 - 1.0) @ gaps)
        return float((sums > seen + tolerance).mean() + 0.5 * (np.abs(sums - seen) <= tolerance).mean())
    generator = np.random.default_rng(seed_of("sign flips", seed))
    flips = np.unpackbits(generator.integers(0, 256, size=(FLIPS, -(-gaps.size // 8)), dtype=np.uint8), axis=1)[:, : gaps.size]
    sums = np.abs(2.0 * (flips @ gaps) - gaps.sum())
    beyond, equal = int((sums > seen + tolerance).sum()), int((np.abs(sums - seen) <= tolerance).sum())
    return (beyond + 0.5 * equal + 0.5) / (FLIPS + 1)


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, so adjusted that the chance of one false claim among them stays below the level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).

    >>> holm([0.01, 0.04, 0.5])
    [0.03, 0.08, 0.5]
    """
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        highest = max(highest, min(1.0, values[place] * (len(values) - rank)))
        adjusted[place] = highest
    return adjusted


def p_text(p: float) -> str:
    """
    >>> p_text(0.0004), p_text(0.05)
    ('p < .001', 'p = .050')
    """
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def sentence(test: PairedTest, *, base: str, other: str, samples: int, p: float | None = None) -> str:
    """What may be claimed, in words. `p` replaces the test's own where several comparisons were made."""
    p = test.p if p is None else p
    found, problems = test.difference, test.difference.n_problems
    points = f"{found.mean * 100:+.1f} points [{found.low * 100:+.1f}, {found.high * 100:+.1f}]"
    said = p_text(p)
    setting = f"{problems} problem{'s' * (problems != 1)} x {samples} sample{'s' * (samples != 1)}"
    if p < ALPHA:
        return f"{other} is {'better' if found.mean > 0 else 'worse'} than {base}: {points}, {said}, {setting}"
    claim = f"no difference between {other} and {base} can be claimed with {setting}: {points}, {said}"
    detectable = f"a difference of {test.detectable * 100:.1f} points would have shown" if test.detectable else ""
    if test.needed is not None and test.needed > problems:
        return f"{claim}; {detectable}, and about {_rounded(test.needed):,} problems would be needed for one like this"
    return "; ".join(part for part in (claim, detectable) if part)


def _rounded(count: int) -> int:
    """Two digits: more would be a claim of their own."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
