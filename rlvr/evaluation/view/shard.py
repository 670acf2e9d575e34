"""The index of one file of rollouts, as a small file beside it: columns, previews, searchable text. Made once, read often."""

from __future__ import annotations

import gzip
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.printable import printable
from rlvr.evaluation.view.files import RolloutFile
from rlvr.evaluation.view.rows import ROW, index_row

_FORMAT = 1  # an index of another number is made again
_MOST_NOTES = 3  # of one file
_SNIPPET_BEFORE, _SNIPPET_AFTER = 40, 140  # bytes
_LONGEST_HEAD = 64 * 2**20
LONGEST_LINE = 256 * 2**20  # bytes; of a damaged file without line breaks no more than this is held

Rows = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """The index of one file. `rows` has dtype ROW; `problems` and `notes` are printable."""

    file: RolloutFile
    rows: Rows
    problems: tuple[str, ...]
    notes: tuple[str, ...]  # what could not be read
    path: Path  # of the index
    previews_at: int  # bytes
    preview_ends: npt.NDArray[np.int64]  # [rows], bytes from `previews_at`
    texts_at: int
    text_ends: npt.NDArray[np.int64]  # [problems + rows], bytes from `texts_at`

    def lines(self, indices: list[int], needle: bytes = b"") -> list[str]:
        """A line of each rollout, in lower case where its text has `needle`; else its end, as of a prompt that has it.

        Raises:
            EvaluationError: the index is gone.
        """
        with boundary(EvaluationError, f"{self.path} cannot be read"), self.path.open("rb") as file:
            return [(needle and self._snippet(file, index, needle)) or self._preview(file, index) for index in indices]

    def search(self, needle: bytes) -> npt.NDArray[np.bool_]:
        """[rows] whether the text of a rollout, or its prompt, contains `needle`, which is lower case and has no NUL.

        Raises:
            EvaluationError: the index is gone.
        """
        with boundary(EvaluationError, f"{self.path} cannot be read"), self.path.open("rb") as file:
            file.seek(self.texts_at)
            texts = file.read()
        ends, hits, owner = self.text_ends.tolist(), np.zeros(len(self.text_ends), dtype=bool), 0
        owners = []
        found = texts.find(needle)
        while found >= 0:
            owner = bisect_right(ends, found, owner)  # a list and its bisect are faster here than numpy's, one at a time
            if owner >= len(ends):
                break
            owners.append(owner)
            found = texts.find(needle, ends[owner])
        hits[owners] = True
        of_problem, of_row = hits[: len(self.problems)], hits[len(self.problems) :]
        chosen: npt.NDArray[np.bool_] = of_row | of_problem[self.rows["problem"]] if len(self.problems) else of_row
        return chosen

    def _snippet(self, file: BufferedReader, row: int, needle: bytes) -> str:
        """Where `needle` stands in the text of a rollout; empty where only the prompt has it."""
        index = len(self.problems) + row
        start = int(self.text_ends[index - 1]) if index else 0
        file.seek(self.texts_at + start)
        text = file.read(int(self.text_ends[index]) - start - 1)
        at = text.find(needle)
        if at < 0:
            return ""
        before, after = max(0, at - _SNIPPET_BEFORE), at + len(needle) + _SNIPPET_AFTER
        line = " ".join(printable(text[before:after].decode("utf-8", "ignore")).split())
        return f"{'… ' if before else ''}{line}{' …' if after < len(text) else ''}"

    def _preview(self, file: BufferedReader, index: int) -> str:
        start = int(self.preview_ends[index - 1]) if index else 0
        file.seek(self.previews_at + start)
        return file.read(int(self.preview_ends[index]) - start).decode("utf-8")


def shard_path(folder: Path, file: RolloutFile) -> Path:
    return folder / f"{file.path.name.removesuffix('.gz').removesuffix('.jsonl')}.index"


def load_shard(file: RolloutFile, path: Path) -> Shard | None:
    """The index of `file`, if there is one and it is of the file as it is now."""
    try:
        with boundary(EvaluationError, f"{path} is no index"), path.open("rb") as source:
            return _load(file, path, source)
    except EvaluationError:
        return None


def _load(file: RolloutFile, path: Path, source: BufferedReader) -> Shard | None:
    head = json.loads(source.readline(_LONGEST_HEAD))
    if head["format"] != _FORMAT or tuple(head["stamp"]) != file.stamp:
        return None
    problems, count = tuple(map(str, head["problems"])), int(head["rows"])
    rows = np.frombuffer(source.read(count * ROW.itemsize), dtype=ROW)
    preview_ends = np.frombuffer(source.read(8 * count), dtype="<i8")
    text_ends = np.frombuffer(source.read(8 * (count + len(problems))), dtype="<i8")
    previews_at = source.tell()
    texts_at = previews_at + (int(preview_ends[-1]) if count else 0)
    whole = texts_at + (int(text_ends[-1]) if len(text_ends) else 0)
    if len(rows) != count or len(text_ends) != count + len(problems) or path.stat().st_size != whole:
        return None
    return Shard(file, rows, problems, tuple(head["notes"]), path, previews_at, preview_ends, texts_at, text_ends)


def build_shard(file: RolloutFile, path: Path) -> Shard:
    """Read `file` and write its index to `path`. What is damaged becomes a note, and the rest is there.

    Raises:
        EvaluationError: the index cannot be written.
    """
    draft = _Draft()
    try:
        with boundary(EvaluationError, "the rest cannot be read"), _open(file.path) as source:
            for line, offset, content in _lines(source):
                draft.add(line, offset, content)
    except EvaluationError as error:
        draft.note(f"after {len(draft.values)} rollouts {error}")
    if draft.is_empty:
        draft.note("holds no rollouts")
    with boundary(EvaluationError, f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as target:
                draft.write(target, file)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    shard = load_shard(file, path)
    if shard is None:
        raise EvaluationError(f"{path} was written, but cannot be read back; is the disk full?")
    return shard


class _Draft:
    """An index while it is made."""

    def __init__(self) -> None:
        self.values: list[tuple[float, ...]] = []
        self._problems: dict[str, int] = {}
        self._prompts: list[bytes] = []
        self._previews: list[bytes] = []
        self._texts: list[bytes] = []
        self._notes: list[str] = []
        self._damaged = 0

    @property
    def is_empty(self) -> bool:
        """Neither rollouts nor anything said about why."""
        return not self.values and not self._notes

    def add(self, line: int, offset: int, content: bytes) -> None:
        try:
            with boundary(EvaluationError, "not JSON"):
                stored = json.loads(content)
            row = index_row(stored)
        except EvaluationError as error:
            self._damaged += 1
            if self._damaged <= _MOST_NOTES:
                self.note(f"line {line + 1} is damaged: {error}")
            return
        if row.problem not in self._problems:
            self._problems[row.problem] = len(self._problems)
            self._prompts.append(_searchable(row.prompt))
        group, *others = row.values
        self.values.append((line, offset, len(content), group, self._problems[row.problem], *others))
        self._previews.append(row.preview.encode("utf-8", "replace"))
        self._texts.append(_searchable(row.text))

    def note(self, text: str) -> None:
        self._notes.append(text[:500])

    def write(self, target: BinaryIO, file: RolloutFile) -> None:
        if self._damaged > _MOST_NOTES:
            self.note(f"{self._damaged} damaged lines in all")
        texts = [*self._prompts, *self._texts]
        head = {
            "format": _FORMAT,
            "stamp": file.stamp,
            "rows": len(self.values),
            "problems": list(self._problems),
            "notes": self._notes,
        }
        target.write(json.dumps(head).encode("ascii") + b"\n")
        target.write(np.array(self.values, dtype=ROW).tobytes())
        target.write(_ends(self._previews).tobytes())
        target.write(_ends(texts).tobytes())
        target.writelines(self._previews)
        target.writelines(texts)


def needle_of(text: str) -> bytes:
    """What `Shard.search` looks for."""
    return text.lower().replace("\0", "").encode("utf-8", "surrogatepass")


def _searchable(text: str) -> bytes:
    # NUL ends a text, so that nothing is found across two.
    return text.replace("\0", "").encode("utf-8", "surrogatepass") + b"\0"


def _ends(texts: list[bytes]) -> npt.NDArray[np.int64]:
    return np.cumsum([len(text) for text in texts], dtype="<i8")


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(source: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """(number from 0, offset in bytes, content) of each line.

    Raises:
        EvaluationError: a line is longer than anything that a run writes.
    """
    offset = line = 0
    while content := source.readline(LONGEST_LINE):
        if len(content) == LONGEST_LINE:
            raise EvaluationError(f"line {line + 1} is longer than {LONGEST_LINE >> 20} MiB")
        if content.strip():
            yield line, offset, content
        offset += len(content)
        line += 1
