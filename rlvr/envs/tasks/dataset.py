"""Problems read from rows: files in the folder that RLVR_DATA names, else the Hugging Face hub.

Looked for in RLVR_DATA, for a task `gsm8k` and its split `test`, each as .jsonl, .jsonl.gz or .parquet:
`gsm8k/test`, then `gsm8k`. Rows of the second kind may say their split (`split`, or `split` inside `meta`); where a file says
nothing of a test split, a tenth of its training rows is held out, chosen by a hash of their ids.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.envs.tasks.adapter import Draft, RowReader, messages
from rlvr.envs.tasks.rows import find, read_rows
from rlvr.envs.tasks.spec import HubSplit, PromptSpec
from rlvr.errors import TaskError, boundary
from rlvr.seeding import seed
from rlvr.types import JSON, Problem

HELD_OUT_SHARE = 10  # one row in so many


@dataclass(frozen=True, slots=True)
class Row:
    """One row and the id it has if the adapter gives it none."""

    id: str
    values: Mapping[str, JSON]


class DatasetProblems:
    """The problems of one task with rows. Nothing is read before problems are asked for; then once for each split."""

    is_endless = False

    def __init__(
        self,
        name: str,
        reader: RowReader,
        prompt: PromptSpec,
        hub: Mapping[str, tuple[HubSplit, ...]],
        *,
        local: str | None = None,
    ) -> None:
        self._name, self._reader, self._prompt, self._hub = name, reader, prompt, hub
        self._local = local or name
        self._loaded: dict[str, list[Problem]] = {}
        self._notes: dict[str, None] = {}  # a set that keeps its order

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._hub)

    def problems(self, split: str, limit: int | None) -> Sequence[Problem]:
        if split not in self._loaded:
            rows = self._rows(split)
            problems = [problem for row in rows if (problem := self._problem(split, row)) is not None]
            if len(problems) < len(rows):
                self._notes[f"split {split}: {len(rows) - len(problems)} of {len(rows)} rows are left out by the adapter"] = None
            self._loaded[split] = problems
        return self._loaded[split][:limit]

    def varied(self, problem: Problem, split: str, rng: random.Random) -> Problem | None:
        return None

    def problem(self, split: str, index: int) -> Problem:
        problems = self.problems(split, None)
        if not 0 <= index < len(problems):
            raise TaskError(f"task {self._name}, split {split}: problem {index} was asked for, but there are {len(problems)}")
        return problems[index]

    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def _problem(self, split: str, row: Row) -> Problem | None:
        where = f"task {self._name}, split {split}, row {row.id}"
        with boundary(TaskError, f"{where} cannot be read"):
            draft = self._reader.read(row.values)
        return None if draft is None else problem_of(draft, draft.id or row.id, self._prompt, where)

    def _rows(self, split: str) -> Sequence[Row]:
        folder = os.environ.get("RLVR_DATA")
        if folder:
            if not Path(folder).is_dir():
                raise TaskError(f"RLVR_DATA = {folder!r} is not a folder")
            if path := find(Path(folder) / self._local, split):
                return [Row(f"{self._name}/{split}/{i:05d}", values) for i, values in enumerate(read_rows(path))]
            if path := find(Path(folder), self._local):
                return self._rows_of_one_file(path, split)
        if not self._hub[split]:
            raise TaskError(f"task {self._name}, split {split}: no data. {self._not_found(split, folder)}")
        return [
            Row(f"{self._name}/{source.name}/{i:05d}", values)
            for source in self._hub[split]
            for i, values in enumerate(self._hub_rows(source, split, folder))
        ]

    def _rows_of_one_file(self, path: Path, split: str) -> list[Row]:
        found, note = choose_split(self._every_row(path), split, self.splits, path.name)
        if note:
            self._notes[note] = None
        if not found:
            raise TaskError(f"task {self._name}: {path} has no rows of split {split!r}")
        return found

    def _every_row(self, path: Path) -> list[Row]:
        return [Row(str(values.get("id") or f"{self._name}/{i:05d}"), values) for i, values in enumerate(read_rows(path))]

    def _hub_rows(self, source: HubSplit, split: str, folder: str | None) -> Sequence[Mapping[str, JSON]]:
        missing = f"task {self._name}, split {split}: no data. {self._not_found(split, folder)}"
        try:
            import datasets
        except ImportError as error:
            raise TaskError(f"{missing}, and to read {source.hub} from the Hugging Face hub: pip install 'rlvr[data]'") from error
        with boundary(TaskError, f"{missing}, and reading {source.hub} from the Hugging Face hub failed"):
            rows: list[Mapping[str, JSON]] = datasets.load_dataset(source.hub, source.config, split=source.split).to_list()
        return rows

    def _not_found(self, split: str, folder: str | None) -> str:
        names, suffixes = (f"{self._local}/{split}", self._local), "(.jsonl, .jsonl.gz or .parquet)"
        if folder:
            return f"RLVR_DATA ({folder}) has neither {names[0]} nor {names[1]} {suffixes}"
        return f"RLVR_DATA is not set (it names a folder with {names[0]} or {names[1]} {suffixes})"


def choose_split(rows: Sequence[Row], split: str, splits: Sequence[str], origin: str) -> tuple[list[Row], str]:
    """The rows of one split of a file that holds several, and a note where the file itself does not say.

    >>> rows = [Row(str(i), {}) for i in range(100)]
    >>> train, test = (choose_split(rows, split, ("train", "test"), "mine.jsonl")[0] for split in ("train", "test"))
    >>> len(train) + len(test), {row.id for row in train} & {row.id for row in test}
    (100, set())
    """
    unlabelled = next((name for name in ("train", "test") if name in splits), splits[0])
    labels = [_label(row.values, splits) or unlabelled for row in rows]
    found = [row for row, label in zip(rows, labels, strict=True) if label == split]
    if "test" in labels or not {"train", "test"} <= set(splits) or split not in ("train", "test"):
        return found, ""
    training = [row for row, label in zip(rows, labels, strict=True) if label == "train"]
    held_out = {row.id for row in training if seed("held out", row.id) % HELD_OUT_SHARE == 0}
    found = [row for row in training if (row.id in held_out) == (split == "test")]
    note = (
        f"{origin} has no rows of split 'test': {len(held_out)} of its {len(training)} training rows, chosen by a hash of their "
        "ids, are held out as 'test' and left out of 'train'"
    )
    return found, note


def _label(values: Mapping[str, JSON], splits: Sequence[str]) -> str | None:
    meta = values.get("meta")
    label = values.get("split") or (meta.get("split") if isinstance(meta, Mapping) else None)
    return label if label in splits else None


def problem_of(draft: Draft, problem_id: str, prompt: PromptSpec, where: str) -> Problem:
    """Finish a draft.

    Raises:
        TaskError: the prompt or the answer is empty.
    """
    if not draft.prompt:
        raise TaskError(f"{where}: the prompt is empty")
    if draft.answer is None or draft.answer == "" or draft.answer == []:
        raise TaskError(f"{where}: there is no answer")
    return Problem(problem_id, messages(draft.prompt, prompt), draft.answer, draft.metadata)
