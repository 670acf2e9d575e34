"""Which files of rollouts there are: of a run, of an evaluation, or a single one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import partial_path
from rlvr.evaluation.run_folder import open_run

SAMPLES = "samples.jsonl.gz"  # as rlvr.evaluation.evaluate writes it; a page need not load what can evaluate
_STEP_FILE = re.compile(r"step-(\d{1,9})\.jsonl(\.gz)?")
_LARGEST_STEP = 2**31 - 1  # of a column


@dataclass(frozen=True, slots=True)
class RolloutFile:
    """A file of rollouts as it is now. `stamp` changes when it is written again."""

    path: Path
    step: int  # 0 where rollouts belong to no training step
    stamp: tuple[int, int]  # size in bytes, time of the last change in ns


@dataclass(frozen=True, slots=True)
class Source:
    """Opened with `open_source`. `path` is a run folder exactly if `is_run`; otherwise `files` has one."""

    path: Path
    is_run: bool

    @property
    def folder(self) -> Path:
        """Where the files are, and beside them the index."""
        return self.path if self.path.is_dir() else self.path.parent

    def files(self) -> list[RolloutFile]:
        """Every file that is there now, newest step first. A file that vanishes meanwhile is left out."""
        if not self.is_run:
            path = _samples(self.path) or self.path
            return [found] if (found := _file(path, 0)) is not None else []
        named = [(path, match) for path in self._rollouts() if (match := _STEP_FILE.fullmatch(path.name))]
        steps = {min(int(match[1]), _LARGEST_STEP): path for path, match in sorted(named, key=lambda one: one[0].name)}
        found_files = [_file(steps[step], step) for step in sorted(steps, reverse=True)]
        return [one for one in found_files if one is not None]

    def _rollouts(self) -> list[Path]:
        folder = self.path / "rollouts"
        try:
            return list(folder.iterdir())
        except OSError:
            return []  # not written yet, or unreadable, which `notes` says

    def notes(self) -> list[str]:
        """What is wrong with the folder itself, in words."""
        folder = self.path / "rollouts"
        if not self.is_run:
            return [] if self.files() else [f"{self.path} is gone"]
        if not folder.exists():
            return ["no rollouts are stored yet"]
        try:
            next(folder.iterdir(), None)
        except OSError as error:
            return [f"{folder} cannot be read: {error.strerror or error}"]
        return []


def open_source(path: str | Path) -> Source:
    """A run folder, the folder of an evaluation, or a `.jsonl` or `.jsonl.gz` file of rollouts.

    Raises:
        ConfigError: it is none of these.
    """
    path = Path(path)
    if path.is_file() or _samples(path) is not None:
        return Source(path, is_run=False)
    return Source(open_run(path).path, is_run=True)


def _samples(folder: Path) -> Path | None:
    """The samples of an evaluation's folder; also of one that was interrupted."""
    return next((path for path in (folder / SAMPLES, partial_path(folder / SAMPLES)) if path.is_file()), None)


def _file(path: Path, step: int) -> RolloutFile | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return RolloutFile(path, step, (status.st_size, status.st_mtime_ns))


def check_different(sources: list[Source]) -> None:
    """
    Raises:
        ConfigError: the same run twice.
    """
    paths = [source.path.resolve() for source in sources]
    if len(set(paths)) < len(paths):
        raise ConfigError("the run is to be compared with itself; its steps can be compared without --against")
