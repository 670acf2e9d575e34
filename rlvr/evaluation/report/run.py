"""`report.html`: one page about a run that opens anywhere, offline, and reads well in light and dark."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from rlvr.errors import EvaluationError, RlvrError, boundary
from rlvr.evaluation.headline import Cell, Row, duration, headline
from rlvr.evaluation.health.watch import Finding, stored_findings
from rlvr.evaluation.printable import printable_html
from rlvr.evaluation.report.charts import histogram, interval_bar
from rlvr.evaluation.report.curves import curves
from rlvr.evaluation.report.reward import length_histogram, reward_breakdown
from rlvr.evaluation.report.samples import ends_of, samples
from rlvr.evaluation.run_folder import Readable, RunFolder, open_run
from rlvr.evaluation.statistics import is_finite_number

T = TypeVar("T")

# Nothing may be fetched or run, whatever a model wrote.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where the page lies, and which files of the run could not be read: they are named on it, too."""

    path: Path
    problems: tuple[str, ...]


def write_report(run: str | Path) -> WrittenReport:
    """Write `report.html` into a run folder, from whatever is there and can be read.

    Raises:
        ConfigError: not a run folder.
        EvaluationError: the disk refuses.
    """
    folder = open_run(run)
    path = folder.path / "report.html"
    rendered = render_report(folder)
    write_page(path, rendered.html)
    return WrittenReport(path, rendered.problems)


def write_page(path: Path, html: str) -> None:
    """
    Raises:
        EvaluationError: the disk refuses.
    """
    unfinished = path.with_name(path.name + ".tmp")
    with boundary(EvaluationError, f"{path} cannot be written"):
        unfinished.write_text(html, encoding="utf-8")
        os.replace(unfinished, path)


@dataclass(frozen=True, slots=True)
class Rendered:
    html: str
    problems: tuple[str, ...]


class Reading:
    """Reads what can be read, and keeps in words what cannot."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def of(self, default: T, read: Callable[[], T]) -> T:
        try:
            return read()
        except RlvrError as error:
            self.problems.append(str(error))
            return default

    def metrics(self, folder: RunFolder) -> tuple[dict[str, float], ...]:
        found = self.of(Readable((), ()), folder.readable_metrics)
        if found.damaged:
            lines = ", ".join(map(str, found.damaged[:5])) + (", ..." if len(found.damaged) > 5 else "")
            self.problems.append(f"{folder.path / 'metrics.jsonl'}: damaged lines are left out ({lines})")
        return found.rows


def render_report(folder: RunFolder) -> Rendered:
    """The whole page. Everything that a model or a file wrote is escaped."""
    reading = Reading()
    summary: dict[str, Any] = reading.of({}, folder.summary)
    metrics = reading.metrics(folder)
    recipe: dict[str, Any] = reading.of({}, lambda: _recipe(folder))
    rows = headline(summary)
    title = f"{recipe.get('task', folder.path.name)}"
    environment: dict[str, Any] = reading.of({}, folder.environment)
    evaluations: dict[int, dict[str, Any]] = reading.of({}, folder.evaluations)
    findings = stored_findings(folder.path / "metrics.jsonl")

    def damaged(error: EvaluationError) -> None:
        reading.problems.append(str(error))

    stored = ends_of(folder, damaged)
    spreads = [length_histogram(stored), _difficulty(reading.of([], folder.solve_rates))]
    shown = samples(folder, stored, findings, damaged)
    body = [
        f"<h1>{printable_html(title)}</h1>",
        f'<p class="lead">{printable_html(_subtitle(recipe, metrics))}</p>',
        f'<p class="note">Ended early: {printable_html(str(summary["early_end"]))}</p>' if summary.get("early_end") else "",
        problems_html(list(dict.fromkeys(reading.problems))),
        _tiles(rows, summary, metrics),
        _health(findings),
        _table(rows),
        reward_breakdown(metrics, recipe),
        curves(metrics, evaluations),
        _distributions(spreads),
        shown,
        record("Recipe", reading.of("", folder.config_text)),
        record("Environment", json.dumps(environment, indent=2) if environment else ""),
        f"<footer>{printable_html(str(folder.path))}</footer>",
    ]
    return Rendered(page(f"{title} · rlvr", body), tuple(dict.fromkeys(reading.problems)))


def page(title: str, body: Sequence[str]) -> str:
    """A page that opens offline and runs nothing; `body` is HTML already."""
    style = files("rlvr.evaluation.report").joinpath("report.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{printable_html(title)}</title>",
        f"<style>\n{style}</style>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            *head,
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def problems_html(problems: Sequence[str]) -> str:
    """What could not be read, in words; nothing where all could."""
    if not problems:
        return ""
    lines = "".join(f"<li>{printable_html(problem)}</li>" for problem in problems)
    return f'<div class="card warn"><b>Not everything could be read; the rest is shown.</b><ul>{lines}</ul></div>'


def _recipe(folder: RunFolder) -> dict[str, Any]:
    with boundary(EvaluationError, f"{folder.path / 'config.toml'} cannot be read"):
        return tomllib.loads(folder.config_text())


def _subtitle(recipe: Mapping[str, Any], metrics: Sequence[Mapping[str, float]]) -> str:
    algorithm = recipe.get("algorithm")
    kind = (
        algorithm.get("name") if isinstance(algorithm, Mapping) else {"sft": "supervised warm start"}.get(str(recipe.get("kind")))
    )
    done = f"{metrics[-1].get('step', len(metrics)):.0f}" if metrics else "0"
    parts = [recipe.get("model"), kind, f"{done} of {recipe['steps']} steps" if "steps" in recipe else f"{done} steps"]
    seed = recipe.get("seed")
    return " · ".join(str(part) for part in [*parts, None if seed is None else f"seed {seed}"] if part is not None)


def _tiles(rows: Sequence[Row], summary: Mapping[str, Any], metrics: Sequence[Mapping[str, float]]) -> str:
    named = {row.label: row for row in rows}
    tiles = [_tile(named[name]) for name in ("pass@1", "greedy", "length, tokens") if name in named]
    seconds = summary.get("wall_time_s")
    if isinstance(seconds, int | float) and is_finite_number(seconds):
        rollouts = sum(row.get("rollouts", 0) for row in metrics)
        detail = f"{rollouts:,.0f} training rollouts" if rollouts else ""
        tiles.append(_tile_of("wall time", duration(seconds), detail))
    return f'<section class="tiles">{"".join(tiles)}</section>' if tiles else ""


def _tile(row: Row) -> str:
    before, after = (_plain(row, cell) for cell in (row.before, row.after))
    value = f'<span class="from">{before} →</span> {after}' if before and after else before or after
    _, _, gained = row.texts()
    unit = "points" if row.is_share else "tokens"
    return _tile_of(row.label, value, f"{printable_html(gained.strip())} {unit}" if gained else "")


def _tile_of(name: str, value: str, detail: str) -> str:
    """`value` and `detail` are HTML already."""
    lines = [
        f'<div class="name">{printable_html(name)}</div>',
        f'<div class="value">{value}</div>',
        f'<div class="detail">{detail}</div>',
    ]
    return f'<div class="card tile">{"".join(lines)}</div>'


def _plain(row: Row, cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{100 * cell.mean:.1f} %" if row.is_share else f"{cell.mean:.1f}"


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = "".join(_table_row(row) for row in rows)
    return (
        '<h2>Before and after</h2><div class="card scroll"><table class="headline"><thead><tr><th></th>'
        '<th><span class="key before"></span>before</th><th><span class="key after"></span>after</th><th>gain</th>'
        f"<th>0 to 100 %</th></tr></thead><tbody>{lines}</tbody></table></div>"
        '<p class="note">Ranges are 95 % intervals over problems. Gains are in points (or tokens), paired by problem. '
        "Unscored samples are failures of the infrastructure, and in no other share.</p>"
    )


def _table_row(row: Row) -> str:
    cells = [(name, cell) for name, cell in (("before", row.before), ("after", row.after)) if cell is not None]
    picture = interval_bar([(name, cell.mean, cell.low, cell.high) for name, cell in cells]) if row.is_share else ""
    columns = "".join(f"<td>{_value_and_range(value)}</td>" for value in row.texts()[:2])
    gained = row.texts()[2]
    is_clear = row.is_share and row.gain is not None and row.gain.low is not None and row.gain.low > 0
    gain_class = ' class="good"' if is_clear else ""
    return (
        f"<tr><th>{printable_html(row.label)}</th>{columns}<td{gain_class}>{_value_and_range(gained)}</td>"
        f'<td class="picture">{picture}</td></tr>'
    )


def _value_and_range(cell: str) -> str:
    value, bracket, interval = cell.partition("[")
    shown = printable_html(value.strip())
    return f'{shown}<span class="range">{printable_html(bracket + interval)}</span>' if bracket else shown


def _difficulty(means: Sequence[float]) -> str:
    if not means:
        return ""
    return (
        '<figure class="card"><figcaption><span class="name">Difficulty at the end: expected solve rate</span>'
        f'<span class="last">{len(means):,} problems</span>'
        f"</figcaption>{histogram(means, 'Training problems by expected solve rate')}</figure>"
    )


def _distributions(figures: Sequence[str]) -> str:
    """Histograms side by side, those that there are."""
    drawn = "".join(figures)
    if not drawn:
        return ""
    note = (
        '<p class="note">Solve rates are of the training problems that were sampled. Each is believed from its samples, old ones '
        "counting less: <code>rlvr view RUN --solve-rates</code>.</p>"
    )
    return f'<h2>Distributions</h2><section class="charts">{drawn}</section>{note if figures[-1] else ""}'


def _health(findings: Sequence[Finding]) -> str:
    """What the rules said while the run trained; nothing where they said nothing."""
    if not findings:
        return ""
    rows = health_rows(findings)
    return f'<h2>Health</h2><div class="card scroll"><table class="health"><tbody>{rows}</tbody></table></div>'


def health_rows(findings: Sequence[Finding]) -> str:
    """Rows of a table: rule, step, what was said, and the rollouts that show it."""
    lines = []
    for finding in findings:
        proof = "; ".join(finding.rollouts)
        ended = " <b>The run ended here.</b>" if finding.stops else ""
        shown = f'<div class="note">see {printable_html(proof)}</div>' if proof else ""
        lines.append(
            f'<tr><th>{printable_html(finding.rule)}</th><td class="step">step {finding.step}</td>'
            f"<td>{printable_html(finding.words)}.{ended}{shown}</td></tr>"
        )
    return "".join(lines)


def record(name: str, content: str) -> str:
    return (
        f'<details class="card"><summary>{printable_html(name)}</summary><pre>{printable_html(content)}</pre></details>'
        if content
        else ""
    )
