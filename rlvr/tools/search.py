"""The tool `search`: BM25 over a corpus on this machine, a JSONL or Parquet file of documents."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import CallError, ConfigError, boundary
from rlvr.tools.base import Scope, ToolSpec
from rlvr.tools.threads import in_thread
from rlvr.types import JSON

_MAX_QUERY_CHARS = 2_000
_TITLES = ("title", "name", "url", "id")


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    text: str


class Search:
    """Finds documents by their words.

    `corpus` is a `.jsonl`, `.jsonl.gz` or `.parquet` file whose rows have their text in the field `text_field`; a title is taken
    from the first of title, name, url, id. `results` documents are shown, `snippet_chars` of each, around the words asked for.
    `language` chooses the words that are too common to count (en, de, fr, ...; "none": all count). `tool_name` and
    `description` are what the model sees.

    Raises:
        ConfigError: the corpus cannot be read, is empty, or a setting is out of range. `bm25s` missing: a ModuleNotFoundError
            that names it (`pip install 'rlvr[search]'`).
    """

    is_ordered = False

    def __init__(
        self,
        corpus: str,
        *,
        text_field: str = "text",
        results: int = 3,
        snippet_chars: int = 600,
        language: str = "en",
        tool_name: str = "search",
        description: str = "Searches a collection of documents and shows the parts that fit the query best.",
    ) -> None:
        import bm25s

        if results < 1 or snippet_chars < 20:
            raise ConfigError(f"tool search: results = {results}, snippet_chars = {snippet_chars}; at least 1 and 20 are needed")
        self._documents = list(_documents(Path(corpus), text_field))
        if not self._documents:
            raise ConfigError(f"tool search: {corpus} holds no documents")
        self._results = min(results, len(self._documents))
        self._snippet_chars = snippet_chars
        self._words = functools.partial(bm25s.tokenize, stopwords=None if language == "none" else language, show_progress=False)
        with boundary(ConfigError, f"tool search: indexing {corpus}"):
            self._index = bm25s.BM25()
            texts = [f"{document.title}\n{document.text}" for document in self._documents]
            self._index.index(self._words(texts), show_progress=False)
        parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
        self._spec = ToolSpec(tool_name, description, parameters)

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> str:
        """
        Raises:
            CallError: the query has no word to look for, or is too long.
        """
        query = arguments["query"]
        if len(query) > _MAX_QUERY_CHARS:
            raise CallError(f"the query has {len(query)} characters; at most {_MAX_QUERY_CHARS} are read")
        found: str = await in_thread(self._spec.name, functools.partial(self._find, query))
        return found

    def _find(self, query: str) -> str:
        words = self._words([query], return_ids=False)[0]
        if not words:
            raise CallError(f"{query!r} has no word to look for; common words do not count")
        ids, scores = self._index.retrieve([words], k=self._results, show_progress=False, n_threads=0)
        hits = [self._documents[int(index)] for index, score in zip(ids[0], scores[0], strict=True) if score > 0]
        if not hits:
            return "Nothing was found."
        return "\n\n".join(f"[{number}] {self._excerpt(document, words)}" for number, document in enumerate(hits, start=1))

    def _excerpt(self, document: Document, words: list[str]) -> str:
        """The title, and the part of the text that begins shortly before the first of the words."""
        text, size = document.text, self._snippet_chars
        heading = f"{document.title}\n" if document.title else ""
        if len(text) <= size:
            return heading + text
        lowered = text.lower()
        places = [place for place in (lowered.find(word) for word in words) if place >= 0]
        start = min(max(0, min(places, default=0) - size // 4), len(text) - size)
        return f"{heading}{'...' if start else ''}{text[start : start + size]}{'...' if start + size < len(text) else ''}"


def _documents(path: Path, field: str) -> Iterator[Document]:
    for number, row in enumerate(_rows(path), start=1):
        text = row.get(field) if isinstance(row, Mapping) else None
        if not isinstance(text, str):
            raise ConfigError(f"tool search: row {number} of {path} has no text in {field!r}; set text_field")
        title = next((str(row[name]) for name in _TITLES if row.get(name)), "")
        yield Document(title, text)


def _rows(path: Path) -> Iterator[Any]:
    with boundary(ConfigError, f"tool search: {path} cannot be read"):
        if path.suffix == ".parquet":
            import pyarrow.parquet

            for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield json.loads(line)
