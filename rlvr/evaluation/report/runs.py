"""One page about several runs: what each gained, the mean and spread over them, and curves with bands."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, RlvrError, boundary
from rlvr.evaluation.headline import Row, headline
from rlvr.evaluation.health.watch import Finding, stored_findings
from rlvr.evaluation.printable import printable_html
from rlvr.evaluation.report.charts import Band, band_chart
from rlvr.evaluation.report.curves import FIRST, series_of
from rlvr.evaluation.report.run import Reading, WrittenReport, health_rows, page, problems_html, record, write_page
from rlvr.evaluation.run_folder import open_run


@dataclass(frozen=True, slots=True)
class _Run:
    name: str
    task: str
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, float]]
    recipe_text: str
    environment: Mapping[str, Any]
    findings: Sequence[Finding]


def write_runs_report(runs: Sequence[str | Path], out: str | Path) -> WrittenReport:
    """Write one page about several runs, e.g. the seeds of a recipe. Runs of different tasks stand apart: their numbers mean
    different things. A run that cannot be opened is named, and the others are shown.

    Raises:
        ConfigError: no run can be opened.
        EvaluationError: the disk refuses.
    """
    reading = Reading()
    found = [run for path in runs if (run := _opened(Path(path), reading)) is not None]
    if not found:
        raise ConfigError("; ".join(reading.problems))
    tasks = list(dict.fromkeys(run.task for run in found))
    if len(tasks) > 1:
        reading.problems.append(f"these runs are of different tasks ({', '.join(tasks)}); they are shown apart, never averaged")
    body = [f"<h1>{len(found)} runs</h1>", problems_html(reading.problems)]
    for task in tasks:
        group = [run for run in found if run.task == task]
        body += [f"<h2>{printable_html(task)}</h2>", _differences(group), _table(group), _health(group), _curves(group)]
        body += [record(f"Recipe of {group[0].name}", group[0].recipe_text), record("Environments", _environments(group))]
    write_page(Path(out), page(f"{len(found)} runs · rlvr", body))
    return WrittenReport(Path(out), tuple(reading.problems))


def _opened(path: Path, reading: Reading) -> _Run | None:
    try:
        folder = open_run(path)
    except RlvrError as error:
        reading.problems.append(str(error))
        return None

    def recipe() -> dict[str, Any]:
        with boundary(EvaluationError, f"{folder.path / 'config.toml'} cannot be read"):
            return tomllib.loads(folder.config_text())

    empty: dict[str, Any] = {}
    known = reading.of(empty, recipe)
    arguments = " ".join(f"{key}={value}" for key, value in sorted((known.get("task_args") or {}).items()))
    task = f"{known.get('task', 'unknown task')} {arguments}".strip()
    return _Run(
        str(path),
        task,
        known,
        reading.of(empty, folder.summary),
        reading.metrics(folder),
        reading.of("", folder.config_text),
        reading.of(empty, folder.environment),
        stored_findings(folder.path / "metrics.jsonl"),
    )


def _differences(runs: Sequence[_Run]) -> str:
    """Recipe keys beside seed and folder in which the runs differ: what a spread over 'seeds' would hide."""
    flat = [_flat(run.recipe) for run in runs]
    keys = sorted({key for one in flat for key in one} - {"seed", "out"})
    differing = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    if not differing:
        return '<p class="note">The recipes differ in seed and folder alone.</p>'
    return f'<p class="note">The recipes differ in more than the seed: {printable_html(", ".join(differing))}.</p>'


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _table(runs: Sequence[_Run]) -> str:
    rows = [{row.label: row for row in headline(run.summary)} for run in runs]
    labels = [label for label in dict.fromkeys(label for row in rows for label in row) if label.startswith(("pass@", "greedy"))]
    head = "".join(f"<th>{printable_html(label)}</th>" for label in labels)
    lines = []
    for run, row in zip(runs, rows, strict=True):
        cells = "".join(f"<td>{_change(row.get(one))}</td>" for one in labels)
        seed = run.recipe.get("seed", "")
        lines.append(f"<tr><th>{printable_html(run.name)} · seed {printable_html(str(seed))}</th>{cells}</tr>")
    for when in ("before", "after"):
        cells = "".join(f"<td>{_spread([getattr(row[one], when) for row in rows if one in row])}</td>" for one in labels)
        lines.append(f"<tr><th>{when}, mean ± sd over runs</th>{cells}</tr>")
    if not labels:
        return '<p class="note">None of these runs has finished: there is no measurement before and after.</p>'
    return (
        f'<div class="card scroll"><table class="headline"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        '</table></div><p class="note">Ranges are 95 % intervals over problems; sd is between runs, which is another thing: how '
        "much another seed would change the result.</p>"
    )


def _change(row: Row | None) -> str:
    """HTML: before and after, and below them their intervals."""
    if row is None:
        return ""
    parts = [text.strip().partition("[") for text in row.texts()[:2]]
    values = " → ".join(value.strip() for value, _, _ in parts if value.strip())
    ranges = " → ".join(bracket + rest for _, bracket, rest in parts if rest)
    below = f'<span class="range below">{printable_html(ranges)}</span>' if ranges else ""
    return printable_html(values) + below


def _health(runs: Sequence[_Run]) -> str:
    """What the rules said, by run; nothing where they said nothing."""
    tables = [(run, health_rows(run.findings)) for run in runs if run.findings]
    lines = "".join(f'<tr><th colspan="3">{printable_html(run.name)}</th></tr>{rows}' for run, rows in tables)
    if not lines:
        return ""
    return f'<h3>Health</h3><div class="card scroll"><table class="health"><tbody>{lines}</tbody></table></div>'


def _environments(runs: Sequence[_Run]) -> str:
    """On what each run was made; one text where they are equal but for the command."""
    shown = {
        run.name: {key: value for key, value in run.environment.items() if key != "command"} for run in runs if run.environment
    }
    different = {json.dumps(one, sort_keys=True) for one in shown.values()}
    if not shown:
        return ""
    return json.dumps(next(iter(shown.values())) if len(different) == 1 else shown, indent=2)


def _spread(cells: Sequence[Any]) -> str:
    means = [cell.mean for cell in cells if cell is not None]
    if not means:
        return ""
    spread = f" ± {stdev(means) * 100:.1f}" if len(means) > 1 else ""
    return f"{fmean(means) * 100:.1f}{spread} % ({len(means)})"


def _curves(runs: Sequence[_Run]) -> str:
    figures = []
    for curve in FIRST:
        found = [series for run in runs if (series := series_of(run.metrics, curve.name)) is not None]
        if not found:
            continue
        band = Band.of(found)
        if not band.x:
            continue
        title = printable_html(curve.title + ("" if len(found) == len(runs) else f" ({len(found)} runs)"))
        drawn = band_chart(band, f"{curve.title} over steps, {len(found)} runs", curve.number, is_share=curve.is_share)
        last = printable_html(curve.number(band.mean[-1]))
        caption = f'<figcaption><span class="name">{title}</span><span class="last">{last}</span></figcaption>'
        figures.append(f'<figure class="card">{caption}{drawn}</figure>')
    if not figures:
        return ""
    note = (
        '<p class="note">Lines are means over runs, bands reach from the lowest to the highest, over the steps that all have.</p>'
    )
    return f'<h3>Over the runs</h3><section class="charts">{"".join(figures)}</section>{note}'
