"""What a tool said, made fit for a prompt: text without terminal commands, and no longer than it may be."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.tools.base import Output

CHARS_PER_TOKEN = 16  # more than any tokenizer packs on average into one; the cut before the exact one
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating-system commands: titles, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # device control and other strings
    r"|\x1b[ -/]*[0-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_DROPPED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


class Counts(Protocol):
    """The part of a tokenizer that measuring needs."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """An output as the model is shown it."""

    text: str
    is_truncated: bool = False


def shown(raw: Output, limit: int, tokenizer: Counts | None = None) -> Shown:
    """`raw` as at most `limit` tokens of clean text, beginning and end kept, with a line that says what was left out.

    Without a tokenizer three characters count as a token. Bytes are read as UTF-8, others shown as U+FFFD.
    """
    size = limit * (CHARS_PER_TOKEN if tokenizer is not None else 3)
    text, left_out = _bounded(raw, 4 * size)
    text = clean(text)
    # No tokenizer makes more tokens than there are bytes: most outputs need not be counted.
    if not left_out and len(text) <= size and (len(text.encode()) <= limit or _count(text, tokenizer) <= limit):
        return Shown(text)
    return Shown(_fitted(text, left_out, limit, size, tokenizer), is_truncated=True)


def clean(text: str) -> str:
    r"""`text` without terminal commands and control characters; line ends are `\n`, lone surrogates U+FFFD.

    >>> clean("\x1b[31mred\x1b[0m\r\n")
    'red\n'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SURROGATES.sub("\ufffd", _DROPPED.sub("", _ESCAPES.sub("", text)))


def _bounded(raw: Output, size: int) -> tuple[str, int]:
    """The text of `raw`, or its beginning and end where it is far too long, and how many characters (or bytes) are missing."""
    if isinstance(raw, bytes | bytearray):
        if len(raw) > 2 * size:
            return f"{raw[:size].decode('utf-8', 'replace')}{raw[-size:].decode('utf-8', 'replace')}", len(raw) - 2 * size
        return bytes(raw).decode("utf-8", "replace"), 0
    text = raw if isinstance(raw, str) else as_json(raw)
    return (text, 0) if len(text) <= 2 * size else (text[:size] + text[-size:], len(text) - 2 * size)


def as_json(value: Any) -> str:
    """What is neither text nor bytes, as text."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _fitted(text: str, missing: int, limit: int, size: int, tokenizer: Counts | None) -> str:
    """Beginning (three quarters) and end of `text` with a note between them, within `limit` tokens."""
    budget = min(len(text), size)

    def cut(chars: int) -> str:
        head, tail = text[: chars - chars // 4], text[len(text) - chars // 4 :]
        return f"{head}\n[... {len(text) - chars + missing:,} characters left out ...]\n{tail}"

    chars = budget
    while chars > 0:
        candidate = cut(chars)
        tokens = _count(candidate, tokenizer)
        if tokens <= limit:
            return candidate
        chars = min(chars - 1, int(chars * limit / tokens * 0.97))
    return cut(0)


def _count(text: str, tokenizer: Counts | None) -> int:
    return -(-len(text) // 3) if tokenizer is None else len(tokenizer.encode(text, add_special_tokens=False))
