"""Several models, tasks and templates in one go: every combination is evaluated, then compared on the shared problems."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, PluginError, RlvrError, TaskError, boundary
from rlvr.evaluation.comparison import Study, compare
from rlvr.evaluation.evaluate import REPORT, Report, evaluate
from rlvr.evaluation.evaluations import Evaluation, load_evaluations
from rlvr.evaluation.observer import Observer, SilentObserver
from rlvr.types import JSON


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate. With one of each, `out` is the folder; else each combination has its own below it."""

    models: Sequence[str]
    tasks: Sequence[str]
    templates: Sequence[str] = ("auto",)
    out: str | None = None
    other_numbers: bool = False  # beside each combination, the same problems with other numbers

    @property
    def is_single(self) -> bool:
        return len(self.models) * len(self.tasks) * len(self.templates) == 1 and not self.other_numbers


@dataclass(frozen=True, slots=True)
class Studied:
    """The reports by label, the comparisons, and what failed. `finished` are reports that a resumed study found on disk."""

    reports: dict[str, Report]
    study: Study
    failures: tuple[str, ...]
    finished: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Cell:
    label: str
    model: str
    task: str
    template: str
    out: str | None
    other_numbers: bool


def run_study(
    plan: Plan,
    split: str = "test",
    *,
    metrics: Sequence[str] = ("pass@1",),
    resume: bool = False,
    observer: Observer | None = None,
    **settings: Any,
) -> Studied:
    """Evaluate every combination as `evaluate` does; one that fails for reasons around it leaves the others standing.

    With `resume`, combinations whose report is there are read instead of being drawn again.

    Raises:
        ConfigError, PluginError, TaskError: something that was asked for is wrong.
        RlvrError: nothing could be evaluated.
    """
    observer = observer or SilentObserver()
    reports: dict[str, Report] = {}
    evaluations: list[Evaluation] = []
    failures: list[str] = []
    finished: dict[str, JSON] = {}
    first: RlvrError | None = None
    for cell in _cells(plan):
        if resume and cell.out is not None and (Path(cell.out) / REPORT).is_file():
            if plan.is_single:
                raise ConfigError(f"{cell.out} is finished already; look at it with `rlvr compare {cell.out}`")
            observer.note(f"{cell.label} is finished already, and read from {cell.out}")
            finished[cell.label] = _stored_report(Path(cell.out) / REPORT)
            evaluations.append(replace(load_evaluations(cell.out)[0], label=cell.label))
            continue
        try:
            report = evaluate(
                cell.model,
                cell.task,
                split,
                out=cell.out,
                resume=resume and cell.out is not None and Path(cell.out).is_dir(),
                observer=observer,
                template=cell.template,
                other_numbers=cell.other_numbers,
                **settings,
            )
        except (ConfigError, PluginError, TaskError):
            raise
        except RlvrError as error:
            first = first or error
            failures.append(f"{cell.label}: {error}")
            observer.note(f"{cell.label} failed: {error}")
            continue
        reports[cell.label] = report
        evaluations.append(Evaluation.of(report, cell.label))
    if first is not None and not evaluations:
        raise first
    return Studied(reports, compare(evaluations, metrics), tuple(failures), finished)


def _stored_report(path: Path) -> JSON:
    with boundary(EvaluationError, f"{path} cannot be read"):
        return json.loads(path.read_text(encoding="utf-8"))


def _cells(plan: Plan) -> list[_Cell]:
    """
    Raises:
        ConfigError: two models cannot be told apart.
    """
    for what, values in (("model", plan.models), ("task", plan.tasks), ("template", plan.templates)):
        if len(set(values)) < len(values):
            raise ConfigError(f"a {what} was given twice: {', '.join(values)}")
    names = _short_names(plan.models)
    cells = []
    variants = (False, True) if plan.other_numbers else (False,)
    for (model, name), task, template, changed in product(
        zip(plan.models, names, strict=True), plan.tasks, plan.templates, variants
    ):
        parts = [name] * (len(plan.models) > 1) + [Path(task).name] * (len(plan.tasks) > 1)
        parts += [Path(template).name] * (len(plan.templates) > 1)
        label = " ".join(parts) or name
        label += ", other numbers" if changed else ""
        out = plan.out
        if out is not None and not plan.is_single:
            out = str(Path(out) / re.sub(r"[^\w.-]+", "_", label))
        cells.append(_Cell(label, model, task, template, out, changed))
    return cells


def _short_names(models: Sequence[str]) -> list[str]:
    """The last parts of paths that tell them apart: `base/step-100` and `run/step-100`, where `step-100` alone would not."""
    parts = [Path(model).parts or (model,) for model in models]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(models)
