"""Tables and plots of ablations: what goes between the marks of docs/ablations.md, and the SVG files beside it."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablation_charts import Curve, chart
from ablation_results import BUDGET, TO_TARGET, Comparison, Difference, Point, Series, paired, ratios

PAGE = "ablations.md"
MIN_SEEDS = 3  # an arm with fewer finished runs is not shown: its interval would say nothing


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is called and written."""

    words: str
    decimals: int


METRICS = {
    "step": Metric("steps", 0),
    "sampled_tokens": Metric("tokens sampled for training", 0),
    "wall_s": Metric("seconds of training", 0),
    "pass@1": Metric("pass@1", 3),
    "pass@8": Metric("pass@8", 3),
    "mean pass@1": Metric("pass@1, mean of the measurements", 3),
    "budget pass@1": Metric(f"pass@1, mean over the first {BUDGET // 1000}k sampled tokens", 3),
    "at budget pass@1": Metric(f"pass@1 at {BUDGET // 1000}k sampled tokens", 3),
    "mean pass@8": Metric("pass@8, mean of the measurements", 3),
    "entropy": Metric("entropy, nats per token", 3),
    "clip_share": Metric("share of tokens clipped", 4),
    "ref_kl": Metric("KL to the base, nats per token", 4),
    "tokens": Metric("tokens of an answer", 1),
    "wrong_tokens": Metric("tokens of a wrong answer", 1),
    "mean wrong_tokens": Metric("tokens of a wrong answer, mean of the measurements", 1),
    "right_tokens": Metric("tokens of a right answer", 1),
    **{name: Metric(target.words, 0) for name, target in TO_TARGET.items()},
}
Finished = Mapping[str, Sequence[Series]]


def write_pages(comparisons: Sequence[Comparison], words: Mapping[str, str], finished: Finished, docs: Path | None) -> None:
    """Print the table of every comparison that has runs, and with `docs` write it and its plot there.

    Raises:
        ValueError: the page has no place for a table; names the mark to add.
    """
    for comparison in comparisons:
        arms = _shown(comparison, finished)
        if comparison.arms[0] not in arms or len(arms) < 2:
            print(f"{comparison.title}: fewer than {MIN_SEEDS} seeds have finished\n")
            continue
        text = table(comparison, words, arms)
        print(f"{comparison.title}\n\n{text}\n")
        if docs is not None:
            page = docs / PAGE
            page.write_text(replaced(page.read_text(encoding="utf-8"), comparison.name, text), encoding="utf-8")
            plot = chart(
                [curve(comparison, words[name], series) for name, series in arms.items()],
                comparison.title,
                METRICS[comparison.over].words,
                METRICS[comparison.curve].words,
            )
            (docs / f"ablation-{comparison.name}.svg").write_text(plot, encoding="utf-8")


def _shown(comparison: Comparison, finished: Finished) -> dict[str, list[Series]]:
    """The arms with enough runs, each with the seeds that all of them have: means over other seeds are of other bases."""
    arms = {name: finished[name] for name in comparison.arms if len(finished.get(name, ())) >= MIN_SEEDS}
    common = set.intersection(*({one.seed for one in series} for series in arms.values())) if arms else set()
    return {name: [one for one in series if one.seed in common] for name, series in arms.items()}


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between `<!-- ablation: NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: there is no such place.
    """
    mark = f"<!-- ablation: {name} -->"
    found, count = re.subn(rf"({re.escape(mark)}\n).*?(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(
            f"{PAGE} has {count} places for {name}, but 1 is needed; add {mark} and <!-- end --> on lines of their own"
        )
    return found


def table(comparison: Comparison, words: Mapping[str, str], arms: Finished) -> str:
    """A Markdown table: means over seeds and, in brackets, the paired difference from the first arm, bold where it is clear."""
    baseline, *_ = comparison.arms
    lines = [
        f"| | seeds | {' | '.join(METRICS[metric].words for metric in comparison.metrics)} |",
        "|---|---|" + "---|" * len(comparison.metrics),
    ]
    for name, series in arms.items():
        cells = [_cell(metric, arms[baseline], series, is_baseline=name == baseline) for metric in comparison.metrics]
        lines.append(f"| {words[name]} | {len(series)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(metric: str, baseline: Sequence[Series], arm: Sequence[Series], *, is_baseline: bool) -> str:
    values = [series.final(metric) for series in arm]
    if metric in TO_TARGET:
        return _cost(metric, values, [] if is_baseline else ratios(baseline, arm, metric))
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    decimals = METRICS[metric].decimals
    mean = f"{statistics.fmean(known):.{decimals}f}"
    return mean if is_baseline else f"{mean} ({signed(paired(baseline, arm, metric), decimals)})"


def signed(found: Difference, decimals: int) -> str:
    """`+0.02 [-0.01, +0.05]`, bold where the interval does not hold 0."""
    if math.isnan(found.mean):
        return "no pair"
    if math.isnan(found.low):
        return f"{found.mean:+.{decimals}f}, one seed"
    text = f"{found.mean:+.{decimals}f} [{found.low:+.{decimals}f}, {found.high:+.{decimals}f}]"
    return f"**{text}**" if found.is_clear else text


def _cost(metric: str, values: Sequence[float], compared: Sequence[float]) -> str:
    """The median, how many came there, and the median of the ratios to the baseline with their range."""
    reached = sum(math.isfinite(value) for value in values)
    middle = statistics.median(values)
    text = f"{middle:,.{METRICS[metric].decimals}f}" if math.isfinite(middle) else "not reached"
    if reached < len(values):
        text += f", {reached} of {len(values)} came there"
    if not compared:
        return text
    low, high, ratio = (_ratio(value) for value in (min(compared), max(compared), statistics.median(compared)))
    return f"{text} (x {ratio} [{low} to {high}])"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def curve(comparison: Comparison, name: str, series: Sequence[Series]) -> Curve:
    """The arm as it is drawn: over training, or its end alone where the comparison is of two metrics."""
    over, metric = comparison.over, comparison.curve
    if over in series[0].points[-1].values:
        ends = [(one.final(over), one.final(metric)) for one in series]
        return Curve(name, (_mean(ends),), tuple((end,) for end in ends))
    drawn = [[(_x(point, over), point.values[metric]) for point in one.points if metric in point.values] for one in series]
    length = min(map(len, drawn))
    return Curve(name, tuple(_mean([one[index] for one in drawn]) for index in range(length)), tuple(map(tuple, drawn)))


def _x(point: Point, over: str) -> float:
    return float(getattr(point, over))


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    xs, ys = zip(*points, strict=True)
    return statistics.fmean(xs), statistics.fmean(ys)
