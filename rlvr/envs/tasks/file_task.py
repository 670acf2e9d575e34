"""A plain file of problems as a task.

Columns: `prompt` (text, or a list of messages) and `answer`; `id`, `metadata` and `split` where there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvr.config import VerifierConfig
from rlvr.envs.tasks.adapter import Draft, RowReader
from rlvr.envs.tasks.dataset import DatasetProblems, Row
from rlvr.envs.tasks.rows import stem
from rlvr.envs.tasks.spec import PromptSpec
from rlvr.envs.tasks.task import Task
from rlvr.errors import TaskError
from rlvr.types import JSON, Message

SPLITS = ("train", "test", "all")


class PlainRows(RowReader):
    """Rows as they are."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        prompt = row.get("prompt")
        if isinstance(prompt, list):
            prompt = tuple(Message(message["role"], message["content"]) for message in prompt)
        elif prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"prompt must be text or a list of messages, but it is {prompt!r}")
        return Draft(prompt or "", row.get("answer"), metadata=row.get("metadata") or row.get("meta") or {})


class FileProblems(DatasetProblems):
    """The rows of one file: `all` of them, or `train` and `test` as the file says or by holding out a tenth."""

    def __init__(self, path: Path) -> None:
        super().__init__(stem(path), PlainRows(), PromptSpec(), dict.fromkeys(SPLITS, ()))
        self._path = path

    def _rows(self, split: str) -> Sequence[Row]:
        return self._every_row(self._path) if split == "all" else self._rows_of_one_file(self._path, split)


def file_task(path: Path, args: Mapping[str, JSON]) -> Task:
    """A task of the rows of one file, graded by the verifier `math` unless a recipe names others.

    Raises:
        TaskError: arguments were given, for a file has none. What is wrong in the file is said when its problems are asked for.
    """
    if args:
        raise TaskError(f"task {path} is a plain file, which has no arguments, but {', '.join(map(repr, args))} was given")
    source = FileProblems(path)
    return Task(
        name=stem(path),
        description=f"Problems of {path}",
        folder=path.resolve().parent,
        args={},
        verifiers=(VerifierConfig(name="math"),),
        max_tokens=1024,
        stop=(),
        tiny=None,
        variants={},
        adapter=PlainRows(),
        source=source,
    )
