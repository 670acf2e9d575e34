"""The curves of a report: what changed over the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.evaluation.printable import printable_html
from rlvr.evaluation.report.charts import Series, line_chart
from rlvr.evaluation.statistics import is_finite_number


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _number(value: float) -> str:
    return f"{value / 1000:.4g}k" if 10_000 <= abs(value) < 1e6 else f"{value:.4g}"


def _small(value: float) -> str:
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e") if value and abs(value) < 1e-3 else _number(value)


@dataclass(frozen=True, slots=True)
class Curve:
    name: str  # in metrics.jsonl
    title: str
    number: Callable[[float], str] = _number

    @property
    def is_share(self) -> bool:
        return self.number is _percent


# What a person looks at first; everything else that is a number is drawn below, under its own name.
FIRST = (
    Curve("reward_mean", "Reward"),
    Curve("correct_share", "Correct", _percent),
    Curve("tokens_mean", "Response length, tokens"),
    Curve("truncated_share", "Truncated", _percent),
    Curve("held_out_pass@1", "Held-out pass@1, before each step", _percent),
    Curve("unparsed_share", "Without a readable answer", _percent),
    Curve("useful_call_share", "With a tool call that worked", _percent),
    Curve("calls_mean", "Tool calls per rollout"),
    Curve("unscored_share", "Unscored (our fault)", _percent),
    Curve("entropy", "Entropy, nats per token"),
    Curve("loss", "Loss", _small),
    Curve("grad_norm", "Gradient norm"),
    Curve("policy_kl", "KL to the sampling policy", _small),
    Curve("ref_kl", "KL to the reference", _small),
    Curve("kl", "KL", _small),
    Curve("clip_share", "Clipped tokens", _percent),
    Curve("groups_without_signal", "Groups without signal"),
    Curve("lr", "Learning rate", _small),
    Curve("time_tokens_per_s", "Tokens per second"),
    Curve("tokens_per_s", "Tokens per second"),
)


def curves(metrics: Sequence[Mapping[str, float]], evaluations: Mapping[int, Mapping[str, Any]]) -> str:
    """All curves as HTML: held-out pass@k where it was measured on the way, the usual ones, and the rest folded away."""
    first = _held_out(evaluations)
    # The measurements themselves say more than their copies in the lines of metrics.
    usual = [curve for curve in FIRST if not (first and curve.name.startswith("held_out_"))]
    first += [_figure(curve, found) for curve in usual if (found := series_of(metrics, curve.name)) is not None]
    known = {curve.name for curve in FIRST} | {"step"}
    others = sorted({name for row in metrics for name in row} - known)
    rest = [_figure(Curve(name, name), found) for name in others if (found := series_of(metrics, name)) is not None]
    if not first and not rest:
        return ""
    page = f'<h2>Over the run</h2><section class="charts">{"".join(first)}</section>'
    if rest:
        page += (
            f'<details class="card"><summary>All other metrics ({len(rest)})</summary>'
            f'<section class="charts">{"".join(rest)}</section></details>'
        )
    return page


def series_of(metrics: Sequence[Mapping[str, float]], name: str) -> Series | None:
    points = [(row.get("step", float(index)), row[name]) for index, row in enumerate(metrics, start=1) if name in row]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return Series(xs, ys)


def _held_out(evaluations: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """pass@k over the steps; two points are the table's business."""
    if len(evaluations) < 3:
        return []
    names = dict.fromkeys(name for found in evaluations.values() for name in found if name.startswith("pass@"))
    figures = []
    for name in names:
        points = [(float(step), _mean(found.get(name))) for step, found in sorted(evaluations.items())]
        known = [(step, mean) for step, mean in points if mean is not None]
        xs, ys = zip(*known, strict=True)
        figures.append(_figure(Curve(name, f"Held-out {name}", _percent), Series(xs, ys)))
    return figures


def _mean(value: Any) -> float | None:
    mean = value.get("mean") if isinstance(value, Mapping) else None
    return float(mean) if mean is not None and is_finite_number(mean) else None


def _figure(curve: Curve, series: Series) -> str:
    title = printable_html(curve.title)
    return (
        f'<figure class="card"><figcaption><span class="name">{title}</span>'
        f'<span class="last">{printable_html(curve.number(series.y[-1]))}</span></figcaption>'
        f"{line_chart(series, f'{curve.title} over steps', curve.number, is_share=curve.is_share)}</figure>"
    )
