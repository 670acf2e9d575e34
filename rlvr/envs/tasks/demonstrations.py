"""Pairs of prompt and response from a file, for a supervised warm start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvr.envs.tasks.rows import read_rows
from rlvr.errors import TaskError
from rlvr.types import Message


def read_demonstrations(path: str) -> list[tuple[tuple[Message, ...], str]]:
    """(opening messages, response) of every row of a JSONL or Parquet file.

    A row has `prompt` (a string, or a list of {role, content}) and `response`, or `messages` whose last is the assistant's.

    Raises:
        TaskError: the file or a row cannot be used; names the row.
    """
    pairs = [_pair(row, f"{path}, row {number}") for number, row in enumerate(read_rows(path), start=1)]
    if not pairs:
        raise TaskError(f"{path} has no rows")
    return pairs


def _pair(row: Mapping[str, Any], where: str) -> tuple[tuple[Message, ...], str]:
    if "messages" in row:
        messages = _messages(row["messages"], where)
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise TaskError(f"{where}: the last of `messages` must be the assistant's answer to an earlier one")
        return messages[:-1], messages[-1].content
    prompt, response = row.get("prompt"), row.get("response")
    if not prompt or not isinstance(response, str) or not response:
        raise TaskError(f"{where}: needs `prompt` and a non-empty `response` (or `messages`), got the keys {sorted(row)}")
    return (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, where), response


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    is_valid = isinstance(value, list) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )
    if not is_valid:
        raise TaskError(f"{where}: messages must be a list of {{role, content}} with text content")
    return tuple(Message(message["role"], message["content"]) for message in value)
