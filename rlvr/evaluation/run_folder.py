"""A run's folder as it lies on disk: summary, metrics, rollouts, configuration. A run that still trains reads fine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, EvaluationError, boundary
from rlvr.evaluation.ledger import StoredRollout, read_rollouts
from rlvr.evaluation.statistics import is_finite_number
from rlvr.types import JSON

_EVALUATION_FILE = re.compile(r"step-(\d+)\.json")
_STEP_FILE = re.compile(r"step-(\d+)\.jsonl(\.gz)?")


@dataclass(frozen=True, slots=True)
class Readable:
    """The rows of metrics.jsonl that can be read, and the numbers of the lines that cannot."""

    rows: tuple[dict[str, float], ...]
    damaged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Opened with `open_run`; everything is read when it is asked for."""

    path: Path

    def summary(self) -> dict[str, JSON]:
        """`summary.json`; empty while the run goes on."""
        return self._json("summary.json")

    def environment(self) -> dict[str, JSON]:
        return self._json("environment.json")

    def config_text(self) -> str:
        """The resolved recipe as TOML text; empty if there is none."""
        path = self.path / "config.toml"
        with boundary(EvaluationError, f"{path} cannot be read"):
            return path.read_text(encoding="utf-8") if path.is_file() else ""

    def metrics(self) -> list[dict[str, float]]:
        """One dict of finite numbers for each line of `metrics.jsonl`; a line that is still being written is left out.

        Raises:
            EvaluationError: a line that is not the last is damaged.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        with boundary(EvaluationError, f"{path} cannot be read"):
            text = path.read_text(encoding="utf-8")
        rows = []
        for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
            with boundary(EvaluationError, f"{path}, line {number} is damaged"):
                row = json.loads(line)
                rows.append({name: value for name, value in row.items() if is_finite_number(value)})
        return rows

    def readable_metrics(self) -> Readable:
        """As `metrics`, without the lines that are damaged, which a crash or another hand may leave; says which they are.

        Raises:
            EvaluationError: the disk refuses.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return Readable((), ())
        with boundary(EvaluationError, f"{path} cannot be read"):
            text = path.read_text(encoding="utf-8", errors="replace")
        rows, damaged = [], []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                rows.append({name: value for name, value in row.items() if is_finite_number(value)})
            else:
                damaged.append(number)
        return Readable(tuple(rows), tuple(damaged))

    def steps(self) -> list[int]:
        """Training steps whose rollouts are stored, in order."""
        return sorted(self._step_files())

    def rollouts(self, step: int) -> Iterator[StoredRollout]:
        """The rollouts of one step.

        Raises:
            ConfigError: no rollouts of this step are stored.
            EvaluationError: the file is damaged.
        """
        files = self._step_files()
        if step not in files:
            steps = sorted(files)
            held = f"steps {_ranges(steps)}" if steps else "no rollouts"
            raise ConfigError(f"step = {step}, but {self.path} holds {held}")
        return read_rollouts(files[step])

    def evaluations(self) -> dict[int, dict[str, JSON]]:
        """Held-out measurements by training step: the first set of each `evaluations/step-*.json`."""
        found: dict[int, dict[str, JSON]] = {}
        for path in sorted((self.path / "evaluations").glob("step-*.json")):
            match = _EVALUATION_FILE.fullmatch(path.name)
            measured = next(iter(self._json(f"evaluations/{path.name}").values()), None)
            if match is not None and isinstance(measured, dict):
                found[int(match[1])] = measured
        return found

    def solve_rates(self) -> list[float]:
        """Expected solve rate of every training problem that was sampled; empty where the run wrote none.

        Raises:
            EvaluationError: the file is damaged.
        """
        path = self.path / "solve_rates.parquet"
        if not path.is_file():
            return []
        import pyarrow.parquet as pq

        with boundary(EvaluationError, f"{path} cannot be read"):
            means: list[float] = pq.read_table(path, columns=["mean"])["mean"].to_pylist()
        return means

    def _step_files(self) -> dict[int, Path]:
        folder = self.path / "rollouts"
        found = [(match, path) for path in folder.glob("step-*") if (match := _STEP_FILE.fullmatch(path.name))]
        return {int(match[1]): path for match, path in found}

    def _json(self, name: str) -> dict[str, JSON]:
        path = self.path / name
        if not path.is_file():
            return {}
        with boundary(EvaluationError, f"{path} cannot be read"):
            value: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, Mapping):
            raise EvaluationError(f"{path} holds {type(value).__name__}, but an object is needed")
        return dict(value)


def _ranges(steps: Sequence[int]) -> str:
    """
    >>> _ranges([1, 2, 3, 7, 9, 10])
    '1 to 3, 7, 9 to 10'
    """
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)


def open_run(path: str | Path) -> RunFolder:
    """
    Raises:
        ConfigError: not a folder, or a folder that no run has written.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder; give a run folder, e.g. runs/quickstart")
    if not any((path / name).exists() for name in ("config.toml", "metrics.jsonl", "summary.json", "rollouts")):
        raise ConfigError(f"{path} is not a run folder: it has neither config.toml, metrics.jsonl, summary.json nor rollouts/")
    return RunFolder(path)
