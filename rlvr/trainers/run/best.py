"""What held-out measurements decide: which weights are the best so far, and when going on gains nothing that can be claimed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import CheckpointError, boundary
from rlvr.evaluation.measure import ProblemResult, gain_between
from rlvr.trainers.model.moments import MOMENTS
from rlvr.trainers.run.checkpoint import BEST as BEST
from rlvr.trainers.run.checkpoint import STATE
from rlvr.trainers.run.rundir import write_text

RECORD = "best.json"
_FILE = re.compile(r"step-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Measured:
    """The held-out set of one step: pass@k of the smallest k that is measured, and every problem's result."""

    step: int
    metric: str
    mean: float
    low: float
    high: float
    results: tuple[ProblemResult, ...]

    @classmethod
    def of(cls, step: int, found: Mapping[str, Any]) -> Measured:
        k = min(int(name.removeprefix("pass@")) for name in found if name.startswith("pass@"))
        one = found[f"pass@{k}"]
        results = tuple(ProblemResult(**row) for row in found["results"])
        return cls(step, f"pass@{k}", one["mean"], one["low"], one["high"], results)

    def series(self) -> dict[str, float]:
        """For metrics.jsonl, beside the training accuracy `correct_share`; stands in the line of the step that follows."""
        values = {"": self.mean, "_low": self.low, "_high": self.high}
        return {"held_out_step": float(self.step), **{f"held_out_{self.metric}{end}": value for end, value in values.items()}}

    def gain_over(self, other: Measured) -> tuple[float, float, float]:
        """Mean and 95 % interval of self - other, paired over problems."""
        found = gain_between(other.results, self.results, (int(self.metric.removeprefix("pass@")),))[self.metric]
        return found.mean, found.low, found.high


def read_measured(evaluations: Path, main: str, step: int) -> list[Measured]:
    """What a run has measured up to `step`, in order.

    Raises:
        CheckpointError: a file is damaged.
    """
    files = sorted((int(match[1]), path) for path in evaluations.glob("step-*.json") if (match := _FILE.fullmatch(path.name)))
    found = []
    for at, path in files:
        if at <= step:
            with boundary(CheckpointError, f"{path} cannot be read; delete it, and the step is measured again"):
                found.append(Measured.of(at, json.loads(path.read_text(encoding="utf-8"))[main]))
    return found


def best_of(measured: Sequence[Measured]) -> Measured:
    """The highest mean; of equal ones the earliest."""
    return max(measured, key=lambda one: (one.mean, -one.step))


def why_stop(measured: Sequence[Measured], patience: int) -> str:
    """Why training may end; empty: go on.

    It may when none of the last `patience` measurements is better than the best one before them by an interval that excludes
    zero. A point that is lower by chance stops nothing, and one that is higher by chance does not keep a run alive.
    """
    if not patience or len(measured) <= patience:
        return ""
    before, recent = best_of(measured[:-patience]), measured[-patience:]
    gains = [one.gain_over(before) for one in recent]
    if any(low > 0 for _, low, _ in gains):
        return ""
    mean, low, high = gains[-1]
    return (
        f"{patience} held-out measurements in a row show no gain over step {before.step} that can be claimed: {before.metric} "
        f"{before.mean:.1%} then, {mean * 100:+.1f} points [{low * 100:+.1f}, {high * 100:+.1f}] at step {recent[-1].step} "
        "(eval.patience)"
    )


def keep_best(run: Path, checkpoint: Path, measured: Measured) -> Path:
    """Copy a checkpoint's weights to `RUN/best`, a Hugging Face folder, without the trainer's state. Whole, or as it was.

    Raises:
        CheckpointError: the disk refuses.
    """
    target, draft, old = run / BEST, run / f".{BEST}.{os.getpid()}.tmp", run / f".{BEST}.{os.getpid()}.old"
    with boundary(CheckpointError, f"the best weights could not be kept in {target}"):
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(checkpoint, draft, ignore=shutil.ignore_patterns(STATE, MOMENTS))
        record = {
            "step": measured.step,
            "metric": measured.metric,
            "mean": measured.mean,
            "low": measured.low,
            "high": measured.high,
        }
        write_text(draft / RECORD, json.dumps(record) + "\n")
        if target.exists():
            target.replace(old)
        draft.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    return target


def kept_step(run: Path) -> int | None:
    """The step whose weights lie in `RUN/best`; None where there are none that can be trusted."""
    try:
        return int(json.loads((run / BEST / RECORD).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
