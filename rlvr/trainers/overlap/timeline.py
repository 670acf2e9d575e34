"""Who did what when, in a run that generates and updates at the same time: `timeline.jsonl` in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rlvr.errors import CheckpointError, boundary


class Lane(StrEnum):
    GENERATE = "generate"  # one group, from its first request to its last verdict
    WAIT = "wait"  # the trainer has no batch
    UPDATE = "update"
    WEIGHTS = "weights"  # new ones go over to the engine


@dataclass(frozen=True, slots=True)
class Span:
    """`name`: the step, or the number of the group. Seconds since the run began."""

    lane: Lane
    name: int
    begin: float
    end: float


class Timeline:
    """Collects spans, and appends those of a step to the file when it is over; without a path they are forgotten."""

    def __init__(self, path: Path | None, clock: Callable[[], float]) -> None:
        self._path = path
        self.clock = clock
        self._spans: list[Span] = []

    def add(self, lane: Lane, name: int, begin: float) -> None:
        """A span that ends now."""
        self._spans.append(Span(lane, name, begin, self.clock()))

    def write(self, step: int) -> None:
        """
        Raises:
            CheckpointError: the disk refuses.
        """
        spans, self._spans = self._spans, []
        if self._path is None:
            return
        rows = [json.dumps({"step": step, **asdict(span)}) for span in spans]
        with boundary(CheckpointError, f"{self._path} cannot be written"), self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{row}\n" for row in rows))


def read_timeline(path: Path) -> list[Span]:
    """The spans of a run, in the order in which they ended.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    with boundary(CheckpointError, f"{path} cannot be read"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Span(Lane(row["lane"]), row["name"], row["begin"], row["end"]) for row in rows]
