"""Rows from JSON lines (plain or gzip) and Parquet."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rlvr.errors import TaskError, boundary
from rlvr.types import JSON

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def is_row_file(name: str) -> bool:
    return name.endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without folder and suffix: `data/mine.jsonl.gz` is `mine`."""
    return next(path.name.removesuffix(suffix) for suffix in reversed(SUFFIXES) if path.name.endswith(suffix))


def find(folder: Path, name: str) -> Path | None:
    """The first of `name.jsonl`, `name.jsonl.gz`, `name.parquet` in a folder."""
    return next((folder / (name + suffix) for suffix in SUFFIXES if (folder / (name + suffix)).is_file()), None)


def read_rows(path: str | Path) -> list[Mapping[str, JSON]]:
    """All rows of a file.

    Raises:
        TaskError: the file is missing, damaged, empty or of another kind, or a line is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise TaskError(f"{path} does not exist")
    if not is_row_file(path.name):
        raise TaskError(f"{path} is not one of {', '.join(SUFFIXES)}")
    rows = _parquet_rows(path) if path.name.endswith(".parquet") else _json_rows(path)
    if not rows:
        raise TaskError(f"{path} has no rows")
    return rows


def _json_rows(path: Path) -> list[Mapping[str, JSON]]:
    with boundary(TaskError, f"{path} cannot be read"):
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8-sig")
    # Not splitlines(): JSON strings may hold U+2028 and its kin unescaped.
    return list(_parse(path, text.split("\n")))


def _parse(path: Path, lines: Iterable[str]) -> Iterable[Mapping[str, JSON]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise TaskError(f"{path}, line {number}: a JSON object is needed, but it is {line[:80]!r}")
        yield row


def _parquet_rows(path: Path) -> list[Mapping[str, JSON]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise TaskError(f"{path} needs pyarrow: pip install 'rlvr[data]'") from error
    with boundary(TaskError, f"{path} cannot be read"):
        rows: list[Mapping[str, JSON]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows
