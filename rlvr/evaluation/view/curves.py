"""The curves of a run that may still go on: `metrics.jsonl` is read on from where it ended last time."""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.printable import printable
from rlvr.evaluation.run_folder import RunFolder
from rlvr.evaluation.statistics import is_finite_number
from rlvr.evaluation.view.findings import Said, findings_of
from rlvr.types import JSON

_MOST_POINTS = 400  # of a curve; longer ones are averaged in buckets
_MOST_NOTES = 3
_MOST_CURVES = 200
_MOST_FINDINGS = 100
_EVALUATION = re.compile(r"step-(\d{1,9})\.json")


class Unit(StrEnum):
    NUMBER = "number"
    SHARE = "share"  # in [0, 1]


@dataclass(frozen=True, slots=True)
class Curve:
    """`xs` are steps. `is_main`: among those that a person looks at first."""

    name: str
    title: str
    unit: Unit
    is_main: bool
    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def to_json(self) -> dict[str, JSON]:
        return {
            "name": printable(self.name),
            "title": printable(self.title),
            "unit": self.unit.value,
            "is_main": self.is_main,
            "xs": list(self.xs),
            "ys": list(self.ys),
        }


_MAIN = {
    "reward_mean": ("Reward", Unit.NUMBER),
    "correct_share": ("Correct", Unit.SHARE),
    "tokens_mean": ("Response length, tokens", Unit.NUMBER),
    "truncated_share": ("Truncated", Unit.SHARE),
    "unparsed_share": ("Without a readable answer", Unit.SHARE),
    "without_signal_share": ("Groups without gradient", Unit.SHARE),
    "entropy": ("Entropy, nats per token", Unit.NUMBER),
    "useful_call_share": ("With a tool call that worked", Unit.SHARE),
    "calls_mean": ("Tool calls per rollout", Unit.NUMBER),
    "unscored_share": ("Unscored (our fault)", Unit.SHARE),
    "policy_kl": ("KL to the sampling policy", Unit.NUMBER),
    "ref_kl": ("KL to the reference", Unit.NUMBER),
    "grad_norm": ("Gradient norm", Unit.NUMBER),
    "loss": ("Loss", Unit.NUMBER),
    "time_tokens_per_s": ("Tokens per second", Unit.NUMBER),
}


class Follower:
    """The metrics of one run. May be asked from several threads."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._path = folder.path / "metrics.jsonl"
        self._lock = threading.Lock()  # guards all below
        self._rows: list[dict[str, float]] = []
        self._position = 0
        self._lines = 0
        self._findings: list[Said] = []
        self._file = (0, 0)  # device and inode
        self._damaged: list[str] = []
        self._unreadable: str | None = None
        self._held_out_notes: list[str] = []

    def refresh(self) -> None:
        """Read what was appended; all again where a resumed run has cut the file."""
        with self._lock:
            self._unreadable = None
            try:
                with boundary(EvaluationError, "metrics.jsonl cannot be read"):
                    self._read_on()
            except EvaluationError as error:
                self._unreadable = printable(str(error))

    @property
    def step(self) -> int:
        """The last step of which there are metrics."""
        with self._lock:
            return int(max((row.get("step", 0.0) for row in self._rows[-1:]), default=0.0))

    @property
    def version(self) -> str:
        """Another one as soon as there is something new to draw."""
        with self._lock:
            held_out = len(list((self._folder.path / "evaluations").glob("step-*.json")))
            return f"{self._file[1]}-{self._position}-{held_out}"

    def notes(self) -> list[str]:
        """What is wrong with the files, in words."""
        with self._lock:
            notes = [self._unreadable] if self._unreadable else []
            notes += [*self._held_out_notes[:_MOST_NOTES], *self._damaged[:_MOST_NOTES]]
            more = len(self._damaged) - _MOST_NOTES
            return [*notes, f"metrics.jsonl: {more} more damaged lines"] if more > 0 else notes

    def curves(self) -> list[Curve]:
        """Held-out measurements, then what matters most, then all other metrics by name."""
        with self._lock:
            rows = list(self._rows)
        notes: list[str] = []
        found = _held_out(self._folder.path / "evaluations", notes)
        with self._lock:
            self._held_out_notes = notes
        names = sorted({name for row in rows for name in row} - {"step"} - set(_MAIN))
        for name in [*_MAIN, *names][:_MOST_CURVES]:
            points = _points(rows, name)
            if points:
                title, unit = _MAIN.get(name, (name, Unit.SHARE if name.endswith("_share") else Unit.NUMBER))
                found.append(_curve(name, title, unit, points, is_main=name in _MAIN))
        return found

    def findings(self) -> list[Said]:
        """What the health rules said, newest first."""
        with self._lock:
            return self._findings[::-1][:_MOST_FINDINGS]

    def _read_on(self) -> None:
        if not self._path.is_file():
            self._start_again()
            return
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            # A resumed run puts a shorter file in its place, which may have grown since.
            if (status.st_dev, status.st_ino) != self._file or status.st_size < self._position:
                self._start_again()
                self._file = (status.st_dev, status.st_ino)
            file.seek(self._position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may still be written
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            self._add(line)
        self._position += len(whole)

    def _start_again(self) -> None:
        self._rows, self._damaged, self._position, self._lines, self._file = [], [], 0, 0, (0, 0)
        self._findings = []

    def _add(self, line: bytes) -> None:
        try:
            with boundary(EvaluationError, f"metrics.jsonl: line {self._lines} is damaged"):
                row = json.loads(line)
                self._rows.append({name: float(value) for name, value in row.items() if is_finite_number(value)})
                self._findings += findings_of(row)
        except EvaluationError as error:
            self._damaged.append(printable(str(error)))


def _points(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    if name == "without_signal_share":
        return [
            (row.get("step", float(number)), row["groups_without_signal"] / row["groups"])
            for number, row in enumerate(rows, start=1)
            if row.get("groups") and "groups_without_signal" in row
        ]
    return [(row.get("step", float(number)), row[name]) for number, row in enumerate(rows, start=1) if name in row]


def _held_out(evaluations: Path, notes: list[str]) -> list[Curve]:
    """Held-out pass@k by step. A file that cannot be read becomes a note."""
    points: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(evaluations.glob("step-*.json")):
        if (match := _EVALUATION.fullmatch(path.name)) is None:
            continue
        try:
            with boundary(EvaluationError, f"evaluations/{path.name} cannot be read"):
                measured = next(iter(json.loads(path.read_text(encoding="utf-8")).values()))
                means = {name: value["mean"] for name, value in measured.items() if name.startswith("pass@")}
        except EvaluationError as error:
            notes.append(printable(str(error)))
            continue
        for name, mean in means.items():
            if is_finite_number(mean):
                points.setdefault(name, []).append((float(match[1]), float(mean)))
    return [_curve(f"held_out_{name}", f"Held-out {name}", Unit.SHARE, found, is_main=True) for name, found in points.items()]


def _curve(name: str, title: str, unit: Unit, points: Sequence[tuple[float, float]], *, is_main: bool) -> Curve:
    size = math.ceil(len(points) / _MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    xs = tuple(part[-1][0] for part in parts)
    ys = tuple(math.fsum(y for _, y in part) / len(part) for part in parts)
    return Curve(name, title, unit, is_main, xs, ys)
