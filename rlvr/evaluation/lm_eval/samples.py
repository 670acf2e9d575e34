"""What `lm-eval --log_samples` wrote, as rollouts: for paired tests, and to grade it again.

lm-eval keeps one line for each document and filter: the answers, what the filter made of them, and the metrics' values. It keeps
neither tokens nor which of several answers was right, so lengths are unknown (0), and a document counts as one sample.

Source: lm-eval 0.4.13, `lm_eval/evaluator.py` (the keys of a line) and `lm_eval/loggers/evaluation_tracker.py` (names of files,
and that numbers of a likelihood are written as text).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.ledger import StoredRollout, read_lines
from rlvr.types import JSON, Message, Problem, Rollout, Verdict

NOT_KEPT = frozenset({"tokens", "truncated", "unparsed"})
_NAME = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
_KEYS = frozenset({"doc_id", "doc", "target", "resps", "filtered_resps", "filter", "metrics"})
_GOLD = re.compile(r"####\s*(\S[^\n]*?)\s*$")  # how GSM8K and its kin mark the answer in a worked solution


@dataclass(frozen=True, slots=True)
class Graded:
    """The lines of one filter as one sample for each document, right or wrong by `metric`."""

    filter: str
    metric: str
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """One task's lines: `damaged` counts those that cannot be read; `about` is from the file's name and the results beside it."""

    path: Path
    task: str
    rows: tuple[Mapping[str, Any], ...]
    damaged: int
    about: Mapping[str, JSON]

    def graded(self) -> list[Graded]:
        """By filter, in the order of the file, under the first metric that says right or wrong of every document.

        Raises:
            ConfigError: no metric does.
        """
        by_filter: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.rows:
            by_filter.setdefault(str(row["filter"]), []).append(row)
        found = []
        for name, rows in by_filter.items():
            metric = _metric(rows)
            if metric is None:
                said = ", ".join(dict.fromkeys(str(one) for row in rows for one in row["metrics"])) or "none"
                raise ConfigError(
                    f"{self.path}: no metric is 0 or 1 for every document (it has {said}), so that right and wrong cannot be "
                    "told; grade it with `rlvr rescore`"
                )
            found.append(Graded(name, metric, tuple(_graded(self.task, row, metric) for row in rows)))
        return found

    def answers(self) -> Iterator[StoredRollout]:
        """Every answer of every document once, whatever filters there were; graded where lm-eval graded that very answer."""
        first = self.rows[0]["filter"] if self.rows else None
        rows = [row for row in self.rows if row["filter"] == first]
        metric = _metric(rows)
        for row in rows:
            responses = _responses(row)
            for index, response in enumerate(responses):
                rollout = _rollout(self.task, row, response, index)
                if metric is not None and len(responses) == 1:
                    rollout.verdicts[metric] = _verdict(row, metric)
                yield StoredRollout(rollout, {**self.about, "mode": "sampled", "seed": 0, "grading": _grading(metric)})


def is_samples_file(path: str | Path) -> bool:
    """Whether the first whole line is one of lm-eval's."""
    path = Path(path)
    if not path.is_file() or ".gz" in path.suffixes:
        return False
    with boundary(EvaluationError, f"{path} cannot be read"):
        for line in read_lines(path):
            row = _row(line)
            return row is not None
    return False


def samples_files(folder: Path) -> dict[str, list[Path]]:
    """The newest file of every task by model folder: `folder` itself (""), or those in it, as `--output_path` makes them."""
    found = {"": _newest(folder)} if folder.is_dir() else {}
    if not any(found.values()):
        found = {one.name: _newest(one) for one in sorted(folder.iterdir()) if one.is_dir()}
    return {name: paths for name, paths in found.items() if paths}


def read_samples(path: Path) -> SamplesFile:
    """
    Raises:
        ConfigError: no line is one of lm-eval's.
        EvaluationError: the disk refuses, or the results beside it are damaged.
    """
    with boundary(EvaluationError, f"{path} cannot be read"):
        rows = [_row(line) for line in read_lines(path)]
    whole = tuple(row for row in rows if row is not None)
    if not whole:
        raise ConfigError(f"{path} holds no samples of lm-eval; it writes them with --log_samples")
    match = _NAME.fullmatch(path.name)
    task = match[1] if match else path.stem
    return SamplesFile(path, task, whole, len(rows) - len(whole), {"task": task, **_about(path, match, whole[0])})


def about_graded(file: SamplesFile, graded: Graded) -> dict[str, JSON]:
    """What an evaluation is told apart by: filters of one task are different measurements."""
    split = "" if graded.filter == "none" else graded.filter
    return {**file.about, "split": split, "grading": _grading(graded.metric)}


def _newest(folder: Path) -> list[Path]:
    newest: dict[str, Path] = {}
    named = [(match[2], match[1], path) for path in folder.glob("samples_*.jsonl") if (match := _NAME.fullmatch(path.name))]
    for _, task, path in sorted(named):
        newest[task] = path
    return [newest[task] for task in sorted(newest)]


def _row(line: bytes) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not row.keys() >= _KEYS:
        return None
    are_lists = all(isinstance(row[key], list) for key in ("resps", "filtered_resps", "metrics"))
    return row if are_lists and row["resps"] and row["filtered_resps"] else None


def _metric(rows: Sequence[Mapping[str, Any]]) -> str | None:
    names = [str(name) for name in rows[0]["metrics"]] if rows else []
    return next((name for name in names if all(row.get(name) in (0, 1) for row in rows)), None)


def _grading(metric: str | None) -> dict[str, JSON]:
    return {} if metric is None else {metric: {"reference": f"lm-eval:{metric}", "weight": 1.0}}


def _graded(task: str, row: Mapping[str, Any], metric: str) -> Rollout:
    rollout = _rollout(task, row, _text(row, row["filtered_resps"]), 0)
    rollout.verdicts[metric] = _verdict(row, metric)
    return rollout


def _verdict(row: Mapping[str, Any], metric: str) -> Verdict:
    read = _text(row, row["filtered_resps"])
    return Verdict.correct(read) if row[metric] == 1 else Verdict.incorrect(read)


def _rollout(task: str, row: Mapping[str, Any], response: str, index: int) -> Rollout:
    # Two runs may have numbered different documents alike: the hash of the document is part of what makes a problem.
    identity = f"{task}/{row['doc_id']}-{str(row.get('doc_hash', ''))[:12]}"
    doc = row["doc"] if isinstance(row["doc"], dict) else {"doc": row["doc"]}
    target = row["target"]
    gold = _GOLD.search(target) if isinstance(target, str) else None
    problem = Problem(identity, (Message("user", _argument(row, 0, 0)),), gold[1] if gold else target, doc)
    rollout = Rollout.from_response(problem, response)
    rollout.sample_index = index
    return rollout


def _responses(row: Mapping[str, Any]) -> list[str]:
    """The generated answers; of a choice between given ones, the likeliest."""
    if _is_choice(row):
        return [_text(row, row["filtered_resps"])]
    first = row["resps"][0]
    return [str(one) for one in first] if isinstance(first, list) else [str(first)]


def _text(row: Mapping[str, Any], read: Sequence[Any]) -> str:
    if not _is_choice(row):
        first = read[0]
        return str(first[0] if isinstance(first, list) and first else first)
    with boundary(EvaluationError, f"the likelihoods of document {row['doc_id']!r} cannot be read"):
        values = [float(one[0]) for one in read]
    return _argument(row, values.index(max(values)), 1)


def _is_choice(row: Mapping[str, Any]) -> bool:
    """A likelihood is a pair: its logarithm, and whether greedy decoding gives it."""
    first = row["filtered_resps"][0]
    return isinstance(first, list) and len(first) == 2 and str(first[1]) in ("True", "False")


def _argument(row: Mapping[str, Any], request: int, place: int) -> str:
    arguments = row.get("arguments")
    of_request = arguments.get(f"gen_args_{request}") if isinstance(arguments, dict) else None
    value = of_request.get(f"arg_{place}") if isinstance(of_request, dict) else None
    return value if isinstance(value, str) else ""


def _about(path: Path, match: re.Match[str] | None, row: Mapping[str, Any]) -> dict[str, JSON]:
    about: dict[str, JSON] = {"model": path.parent.name}
    arguments = row.get("arguments")
    settings = arguments.get("gen_args_0", {}).get("arg_1") if isinstance(arguments, dict) else None
    if isinstance(settings, dict):
        about["sampling"] = settings
    results = path.with_name(f"results_{match[2]}.json") if match else None
    if results is None or not results.is_file():
        return about
    with boundary(EvaluationError, f"{results} cannot be read"):
        found = json.loads(results.read_text(encoding="utf-8"))
        about["model"] = str(found.get("model_name") or about["model"])
        about["template"] = str(found.get("chat_template_sha") or "plain")[:12]
        about["versions"] = {"lm-eval": str(found.get("lm_eval_version"))}
    return about
