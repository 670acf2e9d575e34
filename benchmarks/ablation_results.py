"""Finished runs of an ablation as numbers: what each measured over training, and how arms differ seed by seed."""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.evaluation.ledger import rollout_from_json
from rlvr.evaluation.passk import pass_at_k
from rlvr.filtering.beta import beta_quantile
from rlvr.types import Outcome

BUDGET = 120_000  # tokens sampled for training that every arm on those problems has at least
TRAINED_WITH = ("entropy", "clip_share", "ref_kl")  # recorded by training steps, not by measurements


@dataclass(frozen=True, slots=True)
class Target:
    """A cost until pass@1 is at a fixed value, or so much above the base's: bases differ, and a fixed value suits only some.

    `over`: it is the mean of so many measurements in a row that has to be there. One alone is there early by luck.
    """

    cost: str  # sampled_tokens or wall_s
    gain: float | None = None
    value: float | None = None
    over: int = 1

    def of(self, base: float) -> float:
        return self.value if self.value is not None else base + (self.gain or 0.0)

    @property
    def words(self) -> str:
        reached = f"is {self.value:g}" if self.value is not None else f"is {100 * (self.gain or 0.0):g} points up"
        return f"{'tokens sampled' if self.cost == 'sampled_tokens' else 'seconds of training'} until pass@1 {reached}"


TO_TARGET = {
    "to_target_tokens": Target("sampled_tokens", gain=0.1),
    "to_target_s": Target("wall_s", gain=0.1),
    "to_15_tokens": Target("sampled_tokens", gain=0.15),
    "to_20_tokens": Target("sampled_tokens", gain=0.2),
    "to_0.30_tokens": Target("sampled_tokens", value=0.3),
    "to_0.35_tokens": Target("sampled_tokens", value=0.35),
    "to_0.40_tokens": Target("sampled_tokens", value=0.4),
    **{f"to_{value:.2f}_twice_tokens": Target("sampled_tokens", value=value, over=2) for value in (0.7, 0.8, 0.85, 0.9)},
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arms to set side by side; the first is the one that the others are compared with."""

    name: str
    title: str
    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    curve: str  # metric that is drawn
    over: str = "step"  # what it is drawn over: step, sampled_tokens or wall_s


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement on held-out problems, and what training had cost until then."""

    step: int
    sampled_tokens: int  # generated for training, with those of the offline filter
    wall_s: float  # of training steps and the offline filter; measurements are left out
    values: dict[str, float]  # metric -> value; a metric without one (no wrong answer, no step yet) is missing


@dataclass(frozen=True, slots=True)
class Series:
    """One finished run: its measurements in order of steps."""

    seed: int
    points: tuple[Point, ...]

    def final(self, metric: str) -> float:
        """The value at the end; `mean METRIC`: its mean over all measurements but the first, which no training precedes.

        `budget METRIC`: its mean while the first `BUDGET` tokens were sampled, those of the offline filter included;
        `at budget METRIC`: its value after them.
        For a cost, what it took to reach the target (infinite where it was not reached). NaN where the run has no such value.
        """
        if metric in TO_TARGET:
            target = TO_TARGET[metric]
            return self.cost_of(target.of(self.points[0].values["pass@1"]), target.cost, target.over)
        if metric.startswith("mean "):
            found = [point.values.get(metric.removeprefix("mean "), math.nan) for point in self.points[1:]]
            return statistics.fmean(found) if found else math.nan
        if metric.startswith("budget "):
            return self.mean_until(BUDGET, metric.removeprefix("budget "))
        if metric.startswith("at budget "):
            return self.value_at(BUDGET, metric.removeprefix("at budget "))
        return self.points[-1].values.get(metric, math.nan)

    def value_at(self, tokens: int, metric: str) -> float:
        """A metric when so many tokens were sampled, between two measurements in proportion; NaN where fewer were sampled."""
        if self.points[-1].sampled_tokens < tokens:
            return math.nan
        xs = [point.sampled_tokens for point in self.points]
        return float(np.interp(tokens, xs, [point.values[metric] for point in self.points]))

    def mean_until(self, tokens: int, metric: str) -> float:
        """Mean of a metric over the first so many sampled tokens: straight lines between measurements, flat before the first.

        NaN where fewer were sampled.
        """
        if self.points[-1].sampled_tokens < tokens:
            return math.nan
        xs = [point.sampled_tokens for point in self.points]
        ys = [point.values[metric] for point in self.points]
        ends = sorted({0, *(x for x in xs if x < tokens), tokens})
        heights = np.interp(ends, xs, ys)
        return float(((heights[1:] + heights[:-1]) / 2 * np.diff(ends)).sum()) / tokens

    def cost_of(self, target: float, cost: str, over: int = 1) -> float:
        """What training had cost when the mean of pass@1 over `over` measurements in a row first reached `target`.

        The mean belongs to the last of them. Between two measurements it is taken in proportion.
        """
        values = [point.values["pass@1"] for point in self.points]
        before: tuple[float, float] | None = None
        for index in range(over - 1, len(values)):
            reached, spent = statistics.fmean(values[index + 1 - over : index + 1]), float(getattr(self.points[index], cost))
            if reached >= target:
                if before is None:
                    return spent
                share = (target - before[0]) / (reached - before[0])
                return before[1] + share * (spent - before[1])
            before = reached, spent
        return math.inf


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean over seeds of (arm - baseline) with its 95 % t interval; NaN bounds with fewer than two seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_clear(self) -> bool:
        """The interval does not hold 0."""
        return self.low > 0 or self.high < 0


def read_series(folder: Path, *, seed: int, cost: Path | None = None) -> Series:
    """A finished run folder; `cost` is what an offline filter had spent before it (`tokens`, `wall_s`)."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = {"tokens": 0, "wall_s": 0.0} if cost is None else json.loads(cost.read_text(encoding="utf-8"))
    points: list[Point] = []
    for path in sorted((folder / "evaluations").glob("step-??????.json")):
        step = int(path.stem.removeprefix("step-"))
        done = [row for row in steps if row["step"] <= step]
        since = [row for row in done if not points or row["step"] > points[-1].step]
        measured = json.loads(path.read_text(encoding="utf-8"))["held-out"]
        values = _measured(measured["results"], measured["samples_per_problem"]) | _wrong(path.with_suffix(".held-out.jsonl.gz"))
        for name in TRAINED_WITH:
            found = [row[name] for row in since if row.get(name) is not None]
            values |= {name: statistics.fmean(found)} if found else {}
        points.append(
            Point(
                step,
                spent["tokens"] + sum(row["tokens"] for row in done),
                spent["wall_s"] + sum(row["time_step_s"] for row in done),
                values,
            )
        )
    if not points:
        raise ValueError(f"{folder} holds no measurement; the run needs eval.problems of 1 or more")
    return Series(seed, tuple(points))


def _measured(results: Sequence[dict[str, Any]], samples: int) -> dict[str, float]:
    return {
        "tokens": statistics.fmean(row["tokens_mean"] for row in results),
        **{
            f"pass@{k}": statistics.fmean(pass_at_k(row["scored"], row["correct"], k) for row in results if row["scored"] >= k)
            for k in (1, 8)
            if k <= samples
        },
    }


def _wrong(path: Path) -> dict[str, float]:
    """Length of the answers that are wrong, and of those that are right, in tokens."""
    lengths: dict[str, list[int]] = {"wrong_tokens": [], "right_tokens": []}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            rollout = rollout_from_json(json.loads(line))
            if rollout.verdict is not None and rollout.verdict.outcome is not Outcome.VERIFIER_ERROR:
                lengths["right_tokens" if rollout.is_correct else "wrong_tokens"].append(rollout.completion_tokens)
    return {name: statistics.fmean(found) for name, found in lengths.items() if found}


def paired(baseline: Sequence[Series], arm: Sequence[Series], metric: str) -> Difference:
    """arm - baseline at the end, over the seeds that both have finite values for."""
    pairs = [(ours, theirs) for ours, theirs in _pairs(baseline, arm, metric) if math.isfinite(ours) and math.isfinite(theirs)]
    return difference([theirs - ours for ours, theirs in pairs])


def ratios(baseline: Sequence[Series], arm: Sequence[Series], metric: str) -> list[float]:
    """arm / baseline for each seed whose baseline has a finite value; infinite where the arm never came there."""
    return [theirs / ours for ours, theirs in _pairs(baseline, arm, metric) if math.isfinite(ours)]


def _pairs(baseline: Sequence[Series], arm: Sequence[Series], metric: str) -> list[tuple[float, float]]:
    by_seed = {series.seed: series for series in baseline}
    return [(by_seed[one.seed].final(metric), one.final(metric)) for one in arm if one.seed in by_seed]


def difference(values: Sequence[float]) -> Difference:
    """Mean and 95 % t interval of one value per seed. With five seeds a bootstrap would be too narrow."""
    if not values:
        return Difference(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Difference(mean, math.nan, math.nan, len(values))
    reach = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(mean, mean - reach, mean + reach, len(values))


def t_quantile(freedom: int) -> float:
    """Student's t below which 97.5 % lie: t² / (t² + freedom) is Beta(1/2, freedom / 2).

    >>> round(t_quantile(4), 3)
    2.776
    """
    x = float(beta_quantile(0.95, np.array([0.5]), np.array([freedom / 2]))[0])
    return math.sqrt(freedom * x / (1 - x))
