"""The line format of `rlvr verify`: one JSON object with a response in, one with a verdict out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlvr.errors import TaskError
from rlvr.types import Message, Problem, Rollout


def read_line(line: str, where: str) -> tuple[Any, Rollout]:
    """A line's id, which may be any JSON, and its rollout.

    Raises:
        TaskError: the line is not `{"id", "answer", "response", "prompt"?, "metadata"?, "truncated"?}`; the text has `where`.
    """
    row = _parse(line, where)
    return row["id"], _rollout(row, where)


def verdict_line(identity: Any, rollout: Rollout) -> dict[str, Any]:
    """The output line of a graded rollout."""
    verdict = next(iter(rollout.verdicts.values()))
    return {
        "id": identity,
        "outcome": verdict.outcome.value,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "elapsed_s": round(verdict.elapsed_s, 6),
    }


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
