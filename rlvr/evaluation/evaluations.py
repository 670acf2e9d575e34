"""Evaluations as they lie on disk: the folder of `rlvr eval`, a run's held-out sets, or a file of rollouts."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, RlvrError, boundary
from rlvr.evaluation.evaluate import REPORT, SAMPLES, Report
from rlvr.evaluation.ledger import read_lines, rollout_from_json
from rlvr.evaluation.lm_eval.samples import NOT_KEPT, about_graded, is_samples_file, read_samples, samples_files
from rlvr.evaluation.resume import unfinished_files
from rlvr.evaluation.samples import Metric, Sample, Samples
from rlvr.evaluation.statistics import Estimate, estimate
from rlvr.types import JSON

_HELD_OUT = re.compile(r"step-(\d+)\.held-out\.jsonl(\.gz)?")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one task: its samples, its greedy answers (1 or 0 by problem), what is known about how they came to be, and
    what a reader must know about how they were read. `unknown` are shares and means that its samples cannot tell."""

    label: str
    about: Mapping[str, JSON]
    samples: Samples
    greedy: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()

    @classmethod
    def of(cls, report: Report, label: str) -> Evaluation:
        found = report.measurement
        greedy = {one.id: float(one.greedy_correct) for one in found.problems if one.greedy_correct is not None}
        return cls(label, report.about, found.samples, greedy)

    @property
    def task(self) -> str:
        """Task, arguments and split: what two evaluations must share to be compared."""
        arguments = self.about.get("task_args") or {}
        said = " ".join(f"{key}={json.dumps(value)}" for key, value in sorted(arguments.items()))
        return " ".join(part for part in (str(self.about.get("task", "?")), str(self.about.get("split", "")), said) if part)

    @property
    def title(self) -> str:
        """Task and split, for people: arguments are most often the task's own."""
        return f"{self.about.get('task', '?')} {self.about.get('split', '')}".strip()

    @property
    def n(self) -> int:
        """Samples of a problem, of the problem that has most."""
        return max((len(group) for group in self.samples.values()), default=0)

    @property
    def tokens_mean(self) -> float:
        """Tokens of a sample, mean over all samples."""
        tokens = [sample.tokens for group in self.samples.values() for sample in group]
        return sum(tokens) / max(1, len(tokens))

    def estimate(self, metric: Metric) -> Estimate | None:
        """None where no problem has enough samples."""
        values = metric.values(self.samples)
        return estimate(list(values.values())) if values else None

    def shares(self) -> dict[str, float]:
        """Truncated, unparsed and unscored samples, each as a share of all."""
        samples = [sample for group in self.samples.values() for sample in group]
        size = max(1, len(samples))
        found = {
            "truncated": sum(one.is_truncated for one in samples) / size,
            "unparsed": sum(one.is_unparsed for one in samples) / size,
            "unscored": sum(not one.is_scored for one in samples) / size,
        }
        return {name: share for name, share in found.items() if name not in self.unknown}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What several places hold, and why the others could not be read."""

    evaluations: tuple[Evaluation, ...]
    failures: tuple[str, ...]


def load_all(paths: Sequence[str | Path]) -> Loaded:
    """The evaluations of several folders and files, by labels of their own: those that would be called alike get their folder's
    name in front.

    Raises:
        ConfigError: none of them can be read.
    """
    found: list[tuple[str, Evaluation]] = []
    failures: list[str] = []
    for path in paths:
        try:
            found += [(Path(path).resolve().parent.name, one) for one in load_evaluations(path)]
        except RlvrError as error:
            failures.append(str(error))
    if not found:
        raise ConfigError("; ".join(failures))
    count = Counter(one.label for _, one in found)
    named = (replace(one, label=f"{folder}/{one.label}") if count[one.label] > 1 else one for folder, one in found)
    return Loaded(tuple(named), tuple(failures))


def load_evaluations(path: str | Path) -> list[Evaluation]:
    """The evaluation of a folder or file; of a run, what it measured first (before training) and last.

    A file that `lm-eval --log_samples` wrote, or its `--output_path`, gives one evaluation for every task and
    filter. What a crash left is read as far as it goes, and `notes` says so.

    Raises:
        ConfigError: there are no evaluated rollouts.
        EvaluationError: the disk refuses.
    """
    path = Path(path)
    if path.is_file():
        return _read_lm_eval(path, path.resolve().parent.name) if is_samples_file(path) else [_read(path, path.name, {})]
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist; give the folder of an evaluation, a run folder, or a file of rollouts")
    if (path / SAMPLES).is_file():
        return [_read(path / SAMPLES, _name(path), _json(path / REPORT))]
    if left := unfinished_files(path / SAMPLES):
        found = [_read(file, _name(path), {}) for file in left]
        most = max(found, key=lambda one: sum(map(len, one.samples.values())))
        return [_with_note(most, f"{path} is an evaluation that did not finish: continue it with --resume --out {path}")]
    held_out = sorted(
        (int(match[1]), file) for file in (path / "evaluations").glob("*") if (match := _HELD_OUT.fullmatch(file.name))
    )
    if not held_out:
        if by_model := samples_files(path):
            return _lm_eval_folder(path, by_model)
        raise ConfigError(
            f"{path} holds no evaluation: neither {SAMPLES} nor evaluations/step-*.held-out.jsonl.gz, nor "
            "samples_*.jsonl of lm-eval"
        )
    about = _about_run(path)
    steps = [held_out[0], held_out[-1]] if len(held_out) > 1 else held_out
    return [_read(file, f"{_name(path)} step {step}", {**about, "step": step}) for step, file in steps]


def _lm_eval_folder(path: Path, by_model: Mapping[str, Sequence[Path]]) -> list[Evaluation]:
    """Every task and filter that says right or wrong; the others are named in a note, unless there are none but them."""
    found: list[Evaluation] = []
    refused: list[ConfigError] = []
    for model, files in by_model.items():
        name = f"{_name(path)}/{model}" if len(by_model) > 1 else _name(path)
        for file in files:
            try:
                found += _read_lm_eval(file, name, is_alone=len(files) == 1)
            except ConfigError as error:
                refused.append(error)
    if not found:
        raise refused[0]
    return [_with_note(one, "; ".join(map(str, refused))) for one in found] if refused else found


def _read_lm_eval(path: Path, name: str, *, is_alone: bool = False) -> list[Evaluation]:
    file = read_samples(path)
    every = file.graded()
    label = name if is_alone else f"{name} {file.task}"
    damaged = (f"{path}: {file.damaged} damaged lines were left out",) if file.damaged else ()
    found = []
    for graded in every:
        samples = {rollout.problem.id: [Sample.of(rollout)] for rollout in graded.rollouts}
        said = f"{file.task}: right and wrong are lm-eval's {graded.metric}; it keeps no tokens"
        called = label if len(every) == 1 else f"{label} {graded.filter}"
        about = about_graded(file, graded)
        found.append(Evaluation(called, about, samples, notes=(*damaged, said), unknown=NOT_KEPT))
    return found


def _name(path: Path) -> str:
    return path.resolve().name


def _read(path: Path, label: str, about: Mapping[str, JSON]) -> Evaluation:
    samples: dict[str, list[Sample]] = {}
    greedy: dict[str, float] = {}
    known: dict[str, JSON] = {}
    rows = damaged = 0
    cuts: list[str] = []
    with boundary(EvaluationError, f"stored rollouts in {path} cannot be read"):
        for row in _rows(path, lambda: cuts.append(f"{path} ends in the middle: what stands before it was read")):
            if row is None:
                damaged += 1
                continue
            rows += 1
            rollout = rollout_from_json(row)
            known = known or dict(row["provenance"])
            if row["provenance"].get("mode", "sampled") == "sampled":
                sample = Sample.of(rollout, row["provenance"].get("seed", 0))
                samples.setdefault(rollout.problem.id, []).append(sample)
            elif rollout.is_scored:
                greedy[rollout.problem.id] = float(rollout.is_correct)
    if not samples:
        raise ConfigError(f"{path} holds no sampled rollouts" + (f", and {damaged} damaged lines" if damaged else ""))
    notes = (*cuts, *((f"{path}: {damaged} damaged lines were left out",) if damaged else ()))
    return Evaluation(label, {**known, **about}, samples, greedy, notes)


def _rows(path: Path, on_cut: Callable[[], None]) -> Iterator[dict[str, Any] | None]:
    for line in read_lines(path, on_cut):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        yield row if isinstance(row, dict) and "problem" in row else None


def _with_note(evaluation: Evaluation, note: str) -> Evaluation:
    return replace(evaluation, notes=(*evaluation.notes, note))


def _json(path: Path) -> dict[str, JSON]:
    if not path.is_file():
        return {}
    with boundary(EvaluationError, f"{path} cannot be read"):
        found = json.loads(path.read_text(encoding="utf-8"))
    keep = (
        "model",
        "task",
        "task_args",
        "split",
        "sampling",
        "template",
        "grading",
        "problems_sha256",
        "prompts_sha256",
        "scorer",
    )
    return {key: found[key] for key in keep if key in found}


def _about_run(path: Path) -> dict[str, JSON]:
    config = path / "config.toml"
    if not config.is_file():
        return {}
    with boundary(EvaluationError, f"{config} cannot be read"):
        recipe = tomllib.loads(config.read_text(encoding="utf-8"))
    measured = recipe.get("eval", {})
    return {
        "model": recipe.get("model"),
        "task": recipe.get("task"),
        "task_args": recipe.get("task_args", {}),
        "split": measured.get("split", "test"),
        "sampling": {"temperature": measured.get("temperature", 1.0)},
    }
