from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlvr.errors import CallError, ConfigError
from rlvr.tools.base import Scope
from rlvr.tools.search import Search

ROWS: list[dict[str, Any]] = [
    {"title": "Rome", "text": "Rome is the capital of Italy.", "n": 1},
    {"title": "Paris", "text": "Paris is the capital of France. The Seine flows through it.", "n": 2},
    {
        "id": "bern",
        "text": "Bern is the federal city of Switzerland. " + "Nothing of note happened. " * 100 + "Then a bear escaped.",
        "n": 3,
    },
]


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"corpus{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"title": None, "id": None, **row} for row in ROWS]), path)
    elif suffix == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


def find(search: Search, query: str) -> str:
    return asyncio.run(search.call({"query": query}, Scope()))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_documents_are_found_by_their_words_best_first(tmp_path: Path, suffix: str) -> None:
    search = Search(str(write(tmp_path, suffix)), results=2)
    assert find(search, "What is the capital of France?").startswith("[1] Paris\nParis is the capital")
    assert find(search, "Switzerland").startswith("[1] bern\nBern is the federal city")
    assert find(search, "xylophone") == "Nothing was found."


def test_long_documents_are_shown_around_the_words(tmp_path: Path) -> None:
    search = Search(str(write(tmp_path, ".jsonl")), snippet_chars=60)
    found = find(search, "bear")
    assert "a bear escaped" in found
    assert len(found) < 120


def test_the_model_sees_the_name_and_description_of_the_recipe(tmp_path: Path) -> None:
    search = Search(str(write(tmp_path, ".jsonl")), tool_name="wiki", description="Cities.")
    assert (search.spec.name, search.spec.description, search.spec.text_argument) == ("wiki", "Cities.", "query")


@pytest.mark.parametrize(
    ("query", "reason"), [("", "no word"), ("the of", "no word"), ("?!", "no word"), ("x " * 2000, "at most 2000")]
)
def test_a_query_without_words_is_refused(tmp_path: Path, query: str, reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        find(Search(str(write(tmp_path, ".jsonl"))), query)


def test_a_corpus_that_cannot_be_used_is_refused_with_the_place(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl")
    with pytest.raises(ConfigError, match=r"row 1 of .*corpus.jsonl has no text in 'body'; set text_field"):
        Search(str(path), text_field="body")
    with pytest.raises(ConfigError, match="results = 0"):
        Search(str(path), results=0)
    with pytest.raises(ConfigError, match="cannot be read"):
        Search(str(tmp_path / "missing.jsonl"))
    path.write_text("")
    with pytest.raises(ConfigError, match="holds no documents"):
        Search(str(path))
    path.write_text("{broken")
    with pytest.raises(ConfigError, match="cannot be read"):
        Search(str(path))
