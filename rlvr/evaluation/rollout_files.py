"""Where stored rollouts lie: a file, the folder of an evaluation, or the folder of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.evaluate import REPORT, SAMPLES
from rlvr.evaluation.ledger import StoredRollout, read_rollouts

_MEASURED = re.compile(r"step-(\d+)\.held-out\.jsonl(?:\.gz)?")
_TRAINED = re.compile(r"step-(\d+)\.jsonl(?:\.gz)?")


def measured_files(source: Path, step: int | None = None) -> list[Path]:
    """Files with the samples of one measurement: of a run its held-out one at `step`, or the newest.

    Raises:
        ConfigError: there are none.
    """
    if (found := _one_file(source, step)) is not None:
        return found
    return [_at(source, _numbered(source / "evaluations", _MEASURED), step, "held-out measurement")]


def trained_files(source: Path, step: int | None = None) -> list[Path]:
    """Files with rollouts that may be trained on: of a run those of all its steps, or of `step`.

    Raises:
        ConfigError: there are none, or they are an evaluation of a split that is not for training.
    """
    if (source / SAMPLES).is_file():
        _check_is_for_training(source)
    if (found := _one_file(source, step)) is not None:
        return found
    files = _numbered(source / "rollouts", _TRAINED)
    if step is not None or not files:
        return [_at(source, files, step, "training step")]
    return [files[number] for number in sorted(files)]


def read_all(files: list[Path]) -> Iterator[StoredRollout]:
    """Sampled rollouts of these files in order; greedy ones, which are no samples, are left out.

    Raises:
        EvaluationError: a file is damaged.
    """
    for file in files:
        yield from (stored for stored in read_rollouts(file) if stored.provenance.get("mode", "sampled") == "sampled")


def _one_file(source: Path, step: int | None) -> list[Path] | None:
    single = source if source.is_file() else source / SAMPLES
    if not single.is_file():
        return None
    if step is not None:
        raise ConfigError(f"--step {step}, but {single} holds one measurement; steps belong to the folder of a run")
    return [single]


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    return {int(match[1]): path for path in folder.glob("step-*") if (match := pattern.fullmatch(path.name))}


def _at(source: Path, files: dict[int, Path], step: int | None, what: str) -> Path:
    if not files:
        raise ConfigError(f"{source} holds no {what}; give a file of rollouts, the folder of `rlvr eval --out`, or a run folder")
    if step is not None and step not in files:
        raise ConfigError(f"--step {step}, but {source} has a {what} at {', '.join(map(str, sorted(files)))}")
    return files[max(files) if step is None else step]


def _check_is_for_training(source: Path) -> None:
    with boundary(EvaluationError, f"{source / REPORT} cannot be read"):
        about = json.loads((source / REPORT).read_text(encoding="utf-8"))
        split = str(about["split"])
    if split != "train":
        raise ConfigError(
            f"{source} holds samples of split {split!r}: what a model is measured on must not be trained on; "
            "sample the other split with `rlvr eval --split train --out`"
        )
