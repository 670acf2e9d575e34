"""An evaluation for other programs and for a model card: JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.comparison import Study
from rlvr.evaluation.evaluations import Evaluation
from rlvr.evaluation.lm_eval.results import ENDING, lm_eval_results
from rlvr.evaluation.samples import Kind, Metric, metrics_for
from rlvr.types import JSON

FORMATS = (".json", ".csv", ".md")
COLUMNS = ("label", "model", "task", "metric", "mean", "low", "high", "problems", "samples")


@dataclass(frozen=True, slots=True)
class Line:
    """One estimate of one evaluation; shares in [0, 1]."""

    label: str
    model: str
    task: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    problems: int
    samples: int

    def cells(self) -> list[str | int | float | None]:
        return [getattr(self, name) for name in COLUMNS]


def check_export(path: str) -> None:
    """
    Raises:
        ConfigError: the ending is none that is written, or the folder is not there.
    """
    if Path(path).suffix not in FORMATS:
        raise ConfigError(f"--export {path}: the ending decides the form, and must be one of {', '.join(FORMATS)}")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"--export {path}: there is no folder {Path(path).parent}")


def export(path: str, study: Study, k: Sequence[int]) -> None:
    """Write every estimate, and in JSON and Markdown the comparisons and notes; `.lm-eval.json` is lm-eval's results file.

    Raises:
        ConfigError: as `check_export`, or lm-eval's form cannot hold it.
        EvaluationError: the file cannot be written.
    """
    check_export(path)
    texts = {".json": _json, ".csv": _csv, ".md": model_card}
    form = _lm_eval if path.endswith(ENDING) else texts[Path(path).suffix]
    text = form(study, k)
    with boundary(EvaluationError, f"{path} cannot be written"):
        Path(path).write_text(text, encoding="utf-8")


def lines(evaluation: Evaluation, k: Sequence[int]) -> list[Line]:
    """pass@k, then what stands beside it, the greedy answers, and the shares of what went wrong."""
    model, scorer = str(evaluation.about.get("model", "")), str(evaluation.about.get("scorer", ""))
    common = (evaluation.label, model, evaluation.task)
    sizes = [size for size in sorted(set(k)) if size <= evaluation.n]
    metrics = [Metric(Kind.PASS, size) for size in sizes] + metrics_for(evaluation.samples, sizes, scorer)
    found = []
    for metric in metrics:
        estimated = evaluation.estimate(metric)
        if estimated is not None:
            mean, low, high, size = estimated.mean, estimated.low, estimated.high, estimated.n_problems
            found.append(Line(*common, str(metric), mean, low, high, size, evaluation.n))
    if evaluation.greedy:
        mean = sum(evaluation.greedy.values()) / len(evaluation.greedy)
        found.append(Line(*common, "greedy", mean, None, None, len(evaluation.greedy), 1))
    size = len(evaluation.samples)
    found += [Line(*common, name, share, None, None, size, evaluation.n) for name, share in evaluation.shares().items()]
    if "tokens" not in evaluation.unknown:
        found.append(Line(*common, "tokens", evaluation.tokens_mean, None, None, size, evaluation.n))
    return found


def model_card(study: Study, k: Sequence[int]) -> str:
    """Markdown to paste: a table with intervals, the settings that decide it, and what may be claimed."""
    rows = [lines(evaluation, k) for evaluation in study.evaluations]
    names = list(dict.fromkeys(line.metric for row in rows for line in row if line.metric not in ("unscored", "tokens")))
    out = ["## Evaluation", "", "| | task | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for evaluation, row in zip(study.evaluations, rows, strict=True):
        by_name = {line.metric: line for line in row}
        cells = [_percent(by_name.get(name)) for name in names]
        out.append(f"| {_plain(evaluation.label)} | {_plain(evaluation.title)} | " + " | ".join(cells) + " |")
    out += ["", "In brackets: 95 % interval over problems.", ""]
    for evaluation in study.evaluations:
        out.append(f"- {_plain(evaluation.label)}: {_plain(_settings(evaluation))}")
    said = [one.sentence for one in study.comparisons] + [one.sentence for one in study.templates] + list(study.notes)
    return "\n".join([*out, *(["", *(f"- {_plain(text)}" for text in said)] if said else []), ""])


def _settings(evaluation: Evaluation) -> str:
    about = evaluation.about
    sampling: Mapping[str, JSON] = about.get("sampling") or {}
    drawn = ", ".join(f"{key} {value}" for key, value in sampling.items() if value not in ((), [], None))
    graded = ", ".join(f"{name} {one.get('version')}" for name, one in (about.get("grading") or {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items())
    parts = {
        "": f"{len(evaluation.samples)} problems x {evaluation.n} samples",
        "template": about.get("template"),
        "sampling": drawn,
        "seeds": about.get("seeds") or about.get("seed"),
        "graded by": graded,
        "problems": str(about.get("problems_sha256") or "")[:12],
        "prompts": str(about.get("prompts_sha256") or "")[:12],
        "with": versions,
    }
    return "; ".join(f"{name} {value}".strip() for name, value in parts.items() if value not in (None, ""))


def _percent(line: Line | None) -> str:
    if line is None:
        return ""
    interval = "" if line.low is None or line.high is None else f" [{line.low * 100:.1f}, {line.high * 100:.1f}]"
    return f"{line.mean * 100:.1f} %{interval}"


def _plain(text: str) -> str:
    """One cell, whatever a task or folder is called."""
    return "".join(char if char.isprintable() else " " for char in text).replace("|", "\\|")


def _json(study: Study, k: Sequence[int]) -> str:
    shown = [
        {
            "label": one.label,
            "about": dict(one.about),
            "estimates": [dict(zip(COLUMNS, line.cells(), strict=True)) for line in lines(one, k)],
        }
        for one in study.evaluations
    ]
    return json.dumps({"evaluations": shown, **study.to_json()}, indent=2, default=str) + "\n"


def _lm_eval(study: Study, k: Sequence[int]) -> str:
    return json.dumps(lm_eval_results(study, k), indent=2, default=str) + "\n"


def _csv(study: Study, k: Sequence[int]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for evaluation in study.evaluations:
        writer.writerows(line.cells() for line in lines(evaluation, k))
    return text.getvalue()
