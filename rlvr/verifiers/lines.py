"""Responses as JSON lines in, verdicts as JSON lines out: the contract of `rlvr verify`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.errors import TaskError
from rlvr.types import JSON, Message, Problem, Rollout, Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One input line: its number, its id, which may be any JSON, and the rollout."""

    number: int
    identity: JSON
    rollout: Rollout


def read_rows(lines: Iterable[str], name: str, first: int = 1) -> Iterator[Row]:
    """The rows of JSON lines; blank lines are skipped. `first` is the number of the first line.

    Raises:
        TaskError: a line is not what is expected; the text has its number.
    """
    for number, line in enumerate(lines, first):
        if line.strip():
            row = _parse(line, f"{name}:{number}")
            yield Row(number, row["id"], _rollout(row, f"{name}:{number}"))


def verdict_line(identity: JSON, verdict: Verdict) -> str:
    """The output line of a row, without its end."""
    return json.dumps(
        {
            "id": identity,
            "outcome": verdict.outcome.value,
            "score": verdict.score,
            "extracted": verdict.extracted,
            "reason": verdict.reason,
            "elapsed_s": round(verdict.elapsed_s, 6),
        }
    )


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise TaskError(f"{where} is a {type(row).__name__}, not an object")
    for key in ("id", "answer", "response"):
        if key not in row:
            raise TaskError(f"{where} has no {key!r}; it has {', '.join(row) or 'nothing'}")
    if not isinstance(row["response"], str):
        raise TaskError(f"{where}: response is {type(row['response']).__name__}, not text")
    return row


def _rollout(row: Mapping[str, Any], where: str) -> Rollout:
    prompt, metadata = row.get("prompt", ""), row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise TaskError(f"{where}: metadata is {type(metadata).__name__}, not an object")
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = (Message("user", prompt),) if prompt else ()
    elif isinstance(prompt, list) and all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in prompt):
        messages = tuple(Message(str(item["role"]), str(item["content"])) for item in prompt)
    else:
        raise TaskError(f"{where}: prompt is neither text nor a list of {{'role', 'content'}}")
    problem = Problem(str(row["id"]), messages, row["answer"], metadata)
    return Rollout.from_response(problem, row["response"], truncated=bool(row.get("truncated", False)))
