"""Do the intervals hold what they promise, and does the paired test? Simulated models with known solve rates, no engine.

Each population gives every problem its own solve rate; a repeat draws new problems and new samples, and the truth is the mean
pass@k of the whole population. Prints how often the 95 % interval of `rlvr.evaluation.statistics.estimate` holds it: the lowest
and the highest share over populations and k, for means in the middle and for means near 0 or 1. Beside it, for 30 problems: the
BCa bootstrap, and a bootstrap that resamples problems and then samples within them. Then how often the paired test calls two
equal models different at p < .05. Exit code 1 when a goal is missed.

    python benchmarks/interval_coverage.py [--repeats 1000] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvr.evaluation.paired import sign_flip_p
from rlvr.evaluation.statistics import _bca, _resampled_means, estimate
from rlvr.seeding import seed

# Beta distributions of solve rates: even, all-or-nothing, alike, hard, very hard, easy, very easy.
POPULATIONS = {
    "even": (1.0, 1.0),
    "split": (0.3, 0.3),
    "alike": (4.0, 4.0),
    "hard": (0.3, 1.5),
    "very hard": (0.3, 6.0),
    "easy": (1.5, 0.3),
    "very easy": (6.0, 0.3),
}
PROBLEMS, SAMPLES = (30, 100, 500), (4, 16, 64)
MIDDLE, INFORMATIVE = (0.1, 0.9), (0.03, 0.97)
COVERAGE_GOAL, FALSE_GOAL = (0.93, 0.97), (0.04, 0.06)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One population, size and k: its true mean pass@k, and how often each interval holds it."""

    population: str
    problems: int
    samples: int
    k: int
    truth: float
    ours: float
    bca: float | None = None
    nested: float | None = None


def pass_at(n: int, correct: Floats, k: int) -> Floats:
    wrong = np.ones_like(correct, dtype=np.float64)
    for taken in range(k):
        wrong *= np.clip((n - correct - taken) / (n - taken), 0.0, None)
    return 1.0 - wrong


def truth_of(a: float, b: float, k: int) -> float:
    """1 - E[(1 - p)^k] for p of a Beta(a, b), exactly."""
    log = math.lgamma(b + k) + math.lgamma(a + b) - math.lgamma(b) - math.lgamma(a + b + k)
    return 1.0 - math.exp(log)


def coverage(repeats: int, problems: tuple[int, ...]) -> Iterator[Cell]:
    for name, (a, b) in POPULATIONS.items():
        for size in problems:
            for n in SAMPLES:
                generator = np.random.default_rng(seed("coverage", name, size, n))
                rates = generator.beta(a, b, size=(repeats, size))
                correct = generator.binomial(n, rates).astype(np.float64)
                for k in sorted({1, 4, n}):
                    yield cell(name, size, n, k, pass_at(n, correct, k), correct, truth_of(a, b, k))


def cell(name: str, size: int, n: int, k: int, values: Floats, correct: Floats, truth: float) -> Cell:
    held = [estimate(row.tolist()) for row in values]
    ours = float(np.mean([one.low <= truth <= one.high for one in held]))
    if size != min(PROBLEMS):
        return Cell(name, size, n, k, truth, ours)
    bootstrapped = [
        _bca(row, _resampled_means(row, 0), 0.95) if np.ptp(row) else (one.low, one.high)
        for row, one in zip(values, held, strict=True)
    ]
    bca = float(np.mean([low <= truth <= high for low, high in bootstrapped]))
    nested = None
    if k == 1:
        # The variance that resampling problems and then their samples gives, in closed form.
        shares = correct / n
        variance = (values.var(axis=1) + (shares * (1.0 - shares)).mean(axis=1) / n) / size
        nested = float(np.mean(np.abs(values.mean(axis=1) - truth) <= 1.96 * np.sqrt(variance)))
    return Cell(name, size, n, k, truth, ours, bca, nested)


def false_positives(repeats: int, size: int, n: int, population: str) -> float:
    """Share of comparisons of two equal models, seen on the same problems, that the paired test calls different."""
    generator = np.random.default_rng(seed("false positives", population, size, n))
    rates = generator.beta(*POPULATIONS[population], size=(repeats, size))
    gaps = (generator.binomial(n, rates) - generator.binomial(n, rates)) / n
    return float(np.mean([sign_flip_p(row, seed=index) < 0.05 for index, row in enumerate(gaps)]))


def span(values: list[float]) -> str:
    return f"{min(values):.1%} to {max(values):.1%}" if values else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="30 problems alone")
    args = parser.parse_args()
    started = time.perf_counter()
    problems = PROBLEMS[:1] if args.quick else PROBLEMS
    cells = list(coverage(args.repeats, problems))
    # A share over 1,000 repeats has a standard error of 0.7 %: the extremes of dozens stray by two or three of it.
    stray = 2.5 * math.sqrt(0.05 * 0.95 / args.repeats)
    titles = ("mean in .1 to .9", ".03 to .97", "beyond", "BCa, .03 to .97")
    print(f"{'problems x samples':>18}  " + "  ".join(f"{title:>17}" for title in titles) + "  nested, k = 1")
    for size in problems:
        for n in SAMPLES:
            here = [one for one in cells if (one.problems, one.samples) == (size, n)]
            middle = [one.ours for one in here if MIDDLE[0] <= one.truth <= MIDDLE[1]]
            wide = [one for one in here if INFORMATIVE[0] <= one.truth <= INFORMATIVE[1]]
            beyond = [one.ours for one in here if not INFORMATIVE[0] <= one.truth <= INFORMATIVE[1]]
            bca, nested = [one.bca for one in wide if one.bca is not None], [one.nested for one in wide if one.nested is not None]
            row = "  ".join(f"{span(values):>17}" for values in (middle, [one.ours for one in wide], beyond, bca))
            print(f"{size:>12} x {n:>3}  {row}  {span(nested)}", flush=True)
    middle_cells = [one for one in cells if MIDDLE[0] <= one.truth <= MIDDLE[1]]
    missed = [one for one in middle_cells if not COVERAGE_GOAL[0] - stray <= one.ours <= COVERAGE_GOAL[1] + stray]
    mean_coverage = float(np.mean([one.ours for one in middle_cells]))
    for one in missed:
        print(f"outside {COVERAGE_GOAL}: {one}")
    found = {
        (size, n, name): false_positives(args.repeats, size, n, name)
        for size in problems
        for n in SAMPLES
        for name in (("even", "hard", "easy") if size < 500 else ("even",))
    }
    print("\nequal models called different at p < .05")
    for (size, n, name), share in found.items():
        print(f"{size:>12} x {n:>3}  {name:<6} {share:.1%}")
    average = float(np.mean(list(found.values())))
    wrong = [key for key, share in found.items() if not FALSE_GOAL[0] - stray <= share <= FALSE_GOAL[1] + stray]
    print(f"\ncoverage of means in .1 to .9: {mean_coverage:.1%} on average; false positives: {average:.1%} on average")
    result = {
        "repeats": args.repeats,
        "coverage_mean": mean_coverage,
        "coverage_missed": len(missed),
        "cells": len(middle_cells),
        "false_positives_mean": average,
        "false_positives_missed": len(wrong),
        "wall_s": time.perf_counter() - started,
    }
    print(json.dumps(result))
    is_good = COVERAGE_GOAL[0] <= mean_coverage <= COVERAGE_GOAL[1] and FALSE_GOAL[0] <= average <= FALSE_GOAL[1]
    return 0 if is_good and not missed and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
