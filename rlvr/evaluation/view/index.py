"""The index of a run: one shard for each file of rollouts, columns over all of them, kept up to date while the run goes on."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.printable import printable
from rlvr.evaluation.view.files import RolloutFile, Source
from rlvr.evaluation.view.rows import ROW
from rlvr.evaluation.view.shard import Shard, build_shard, load_shard, shard_path

FOLDER = ".view"
_EVERY_S = 1.0  # how often the folder is looked at
_PUBLISH_S = 0.5  # while many files are read, what is known is shown at most this often
Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rollouts that are known, newest step first and in the order of their file; never changes.

    `columns` has the fields of ROW, `step` and `shard` (index into `shards`), each [N]; its `problem` is an index into
    `problems`.
    """

    version: int = 0
    shards: tuple[Shard, ...] = ()
    starts: tuple[int, ...] = ()  # of each shard in the columns
    columns: Mapping[str, Column] = field(default_factory=lambda: _columns((), ()))
    problems: Sequence[str] = ()
    files: int = 0  # that are there, indexed or not
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["step"])

    def shard_of_step(self, step: int) -> tuple[int, Shard] | None:
        """(index, shard) of a step."""
        return next(((index, shard) for index, shard in enumerate(self.shards) if shard.file.step == step), None)


class RunIndex:
    """Reads what is new in a thread of its own between `start` and `close`; `snapshot` may be read from any thread.

    The index is kept in `.view` beside the rollouts, or, where that cannot be written, in a temporary folder.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.snapshot = Snapshot()
        self._shards: dict[RolloutFile, Shard] = {}
        self._failed: dict[RolloutFile, str] = {}
        self._numbers: dict[str, int] = {}  # of problems; only ever grows
        self._problems: list[str] = []
        self._global: dict[RolloutFile, npt.NDArray[np.int32]] = {}  # [rows] number of each row's problem
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._trouble: tuple[str, ...] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="rlvr-view-index", daemon=True)

    def start(self) -> None:
        """Read the newest file at once, and the others while pages are shown."""
        self.refresh(at_most=1)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._temporary is not None:
            self._temporary.cleanup()

    def refresh(self, at_most: int | None = None) -> None:
        """Look at the folder, and index what is new, newest first; with `at_most`, no more than so many files."""
        files = self.source.files()
        gone = self._shards.keys() - set(files)
        for file in gone:
            del self._shards[file], self._global[file]
        self._failed = {file: reason for file, reason in self._failed.items() if file in files}
        new = [file for file in files if file not in self._shards and file not in self._failed]
        due_at, is_due = time.monotonic() + _PUBLISH_S, bool(gone)
        for file in new[:at_most]:
            if self._stop.is_set():
                break
            self._add(file)
            is_due = True
            if time.monotonic() > due_at:
                due_at, is_due = time.monotonic() + _PUBLISH_S + 5 * self._publish(files), False
        if is_due or len(files) != self.snapshot.files or self._notes() != self.snapshot.notes:
            self._publish(files)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                with boundary(EvaluationError, "new rollouts are not read any more"):
                    self.refresh()
            except EvaluationError as error:
                self._trouble = (str(error),)
                self.snapshot = replace(self.snapshot, version=self.snapshot.version + 1, notes=self._notes())
                return
            self._stop.wait(_EVERY_S)

    def _add(self, file: RolloutFile) -> None:
        try:
            shard = self._shard(file)
        except EvaluationError as error:
            self._failed[file] = str(error)
            return
        self._shards[file] = shard
        for id in shard.problems:
            if id not in self._numbers:
                self._numbers[id] = len(self._problems)
                self._problems.append(id)
        numbers = np.array([self._numbers[id] for id in shard.problems] or [0], dtype=np.int32)
        self._global[file] = numbers[np.clip(shard.rows["problem"], 0, len(numbers) - 1)]

    def _shard(self, file: RolloutFile) -> Shard:
        if self._temporary is None:
            path = shard_path(self.source.folder / FOLDER, file)
            if (found := load_shard(file, path)) is not None:
                return found
            try:
                return build_shard(file, path)
            except EvaluationError:
                pass  # a folder of someone else, or a full disk
        return build_shard(file, shard_path(self._temporary_folder(), file))

    def _temporary_folder(self) -> Path:
        if self._temporary is None:
            with boundary(EvaluationError, "no folder for the index can be made"):
                self._temporary = tempfile.TemporaryDirectory(prefix="rlvr-view-")
        return Path(self._temporary.name)

    def _notes(self) -> tuple[str, ...]:
        notes = [*self._trouble, *self.source.notes()]
        for shard in sorted(self._shards.values(), key=lambda shard: -shard.file.step):
            notes += [f"{shard.file.path.name}: {note}" for note in shard.notes]
        notes += [f"{file.path.name}: {reason}" for file, reason in self._failed.items()]
        return tuple(map(printable, notes))

    def _publish(self, files: Sequence[RolloutFile]) -> float:
        """Make the next snapshot; returns the seconds that it took."""
        began = time.monotonic()
        shards = tuple(self._shards[file] for file in files if file in self._shards)
        starts = np.cumsum([0, *(len(shard.rows) for shard in shards)])
        self.snapshot = Snapshot(
            self.snapshot.version + 1,
            shards,
            tuple(map(int, starts)),
            _columns(shards, [self._global[shard.file] for shard in shards]),
            self._problems,
            len(files),
            self._notes(),
        )
        return time.monotonic() - began


def _columns(shards: Sequence[Shard], problems: Sequence[npt.NDArray[np.int32]]) -> dict[str, Column]:
    lengths = [len(shard.rows) for shard in shards]
    columns: dict[str, Column] = {
        name: np.concatenate([np.empty(0, dtype=ROW[name]), *(shard.rows[name] for shard in shards)]) for name in ROW.names or ()
    }
    columns["problem"] = np.concatenate([np.empty(0, dtype=np.int32), *problems])
    columns["step"] = np.repeat(np.array([shard.file.step for shard in shards], dtype=np.int32), lengths)
    columns["shard"] = np.repeat(np.arange(len(shards), dtype=np.int32), lengths)
    return columns
