"""What the reward of a run is made of, and how long its responses are: the first steps beside the last ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlvr.evaluation.printable import printable_html
from rlvr.evaluation.report.charts import paired_histogram
from rlvr.evaluation.report.samples import Ends
from rlvr.evaluation.statistics import is_finite_number

_PREFIX = "verifier_"
_MOST_STEPS = 10  # at either end


@dataclass(frozen=True, slots=True)
class _Part:
    """A verifier's mean score at both ends; `weight` is None where the recipe does not say it."""

    name: str
    weight: float | None
    first: float
    last: float


def reward_breakdown(metrics: Sequence[Mapping[str, float]], recipe: Mapping[str, Any]) -> str:
    """Each verifier's mean score, times its weight, and what shaping added or took; empty for runs without verifiers."""
    parts = _parts(metrics, recipe)
    if not parts:
        return ""
    size = _window(metrics)
    lines = [_row(part.name, part.weight, part.first, part.last) for part in parts]
    reward = _ends(metrics, "reward_mean")
    if reward is not None and all(part.weight is not None for part in parts):
        earned = [sum((part.weight or 0.0) * getattr(part, end) for part in parts) for end in ("first", "last")]
        rest = (reward[0] - earned[0], reward[1] - earned[1])
        if max(map(abs, rest)) >= 5e-4:
            lines.append(_line("shaping, and rollouts without a score", "", ["", ""], [f"{value:+.3f}" for value in rest]))
        lines.append(_line("reward", "", ["", ""], [f"{value:.3f}" for value in reward], is_total=True))
    heads = "".join(f"<th>{name}</th>" for name in ("weight", "score, first", "score, last", "reward, first", "reward, last"))
    return (
        '<h2>What the reward is made of</h2><div class="card scroll"><table class="headline">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="note">Means over the first and the last '
        f"{'step' if size == 1 else f'{size} steps'}. A verifier's share of the reward is its score times its weight.</p>"
    )


def length_histogram(stored: Ends | None) -> str:
    """How long the responses of the first and the last stored step are; empty where there is only one, or none."""
    if stored is None or not stored.first or not stored.last:
        return ""
    first, last = ([float(one.rollout.completion_tokens) for one in step] for step in (stored.first, stored.last))
    steps = (stored.first_step, stored.last_step)
    title = "Response length, tokens"
    ends = f'<span class="key before"></span>step {steps[0]} <span class="key after"></span>step {steps[-1]}'
    key = f'<span class="last">{ends}</span>'
    return (
        f'<figure class="card"><figcaption><span class="name">{title}</span>{key}</figcaption>'
        f"{paired_histogram(first, last, f'{title}, of steps {steps[0]} and {steps[-1]}')}</figure>"
    )


def _parts(metrics: Sequence[Mapping[str, float]], recipe: Mapping[str, Any]) -> list[_Part]:
    names = dict.fromkeys(name for row in metrics for name in row if name.startswith(_PREFIX))
    weights = _weights(recipe)
    found = []
    for name in names:
        ends = _ends(metrics, name)
        if ends is not None:
            short = name.removeprefix(_PREFIX)
            found.append(_Part(short, weights.get(short), *ends))
    order = list(weights)
    return sorted(found, key=lambda part: order.index(part.name) if part.name in order else len(order))


def _weights(recipe: Mapping[str, Any]) -> dict[str, float]:
    """By the name that the metrics use: of a reference its last part."""
    given = recipe.get("verifiers")
    found: dict[str, float] = {}
    for one in given if isinstance(given, list) else ():
        if isinstance(one, Mapping) and is_finite_number(one.get("weight", 1.0)):
            found[str(one.get("name", "")).rpartition(":")[2]] = float(one.get("weight", 1.0))
    return found


def _window(metrics: Sequence[Mapping[str, float]]) -> int:
    return max(1, min(_MOST_STEPS, len(metrics) // 4))


def _ends(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[float, float] | None:
    values = [row[name] for row in metrics if name in row]
    size = _window(metrics)
    return (fmean(values[:size]), fmean(values[-size:])) if values else None


def _row(name: str, weight: float | None, first: float, last: float) -> str:
    earned = ["", ""] if weight is None else [f"{weight * value:.3f}" for value in (first, last)]
    return _line(name, "" if weight is None else f"{weight:g}", [f"{first:.3f}", f"{last:.3f}"], earned)


def _line(name: str, weight: str, scores: Sequence[str], earned: Sequence[str], *, is_total: bool = False) -> str:
    cells = "".join(f"<td>{printable_html(text)}</td>" for text in (weight, *scores, *earned))
    start = '<tr class="total">' if is_total else "<tr>"
    return f"{start}<th>{printable_html(name)}</th>{cells}</tr>"
