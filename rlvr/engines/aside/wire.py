"""What goes between the trainer and a process that generates for it: lines of JSON over a socket pair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.errors import ContextFullError, EngineError
from rlvr.types import JSON, Completion, FinishReason, Sampling


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process is started with. `folder` holds the model's config and its tokenizer, `weights` is a safetensors file."""

    folder: str
    weights: str
    version: int
    device: str
    precision: str
    attention: str | None
    max_rows: int
    max_context: int
    has_tokenizer: bool
    end_ids: tuple[int, ...]
    threads: int
    beat_s: float  # how often it says that its event loop turns, which it does between two decoding steps


def line(row: Mapping[str, JSON]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def request_row(prompt: tuple[int, ...], sampling: Sampling, *, is_urgent: bool) -> dict[str, JSON]:
    return {"prompt": prompt, "sampling": {name: getattr(sampling, name) for name in Sampling.__slots__}, "urgent": is_urgent}


def sampling_of(row: Mapping[str, Any]) -> Sampling:
    given = dict(row["sampling"])
    return Sampling(**{**given, "stop": tuple(given["stop"])})


def completion_row(completion: Completion) -> dict[str, JSON]:
    return {
        "tokens": completion.token_ids,
        "logprobs": completion.logprobs,
        "finish": completion.finish_reason.value,
        "version": completion.policy_version,
        "versions": completion.token_versions,
    }


def completion_of(row: Mapping[str, Any]) -> Completion:
    """
    Raises:
        ContextFullError, EngineError: what the process answered instead of tokens.
    """
    if "error" in row:
        raise (ContextFullError if row.get("is_context") else EngineError)(str(row["error"]))
    versions = row["versions"]
    return Completion(
        tuple(row["tokens"]),
        tuple(row["logprobs"]),
        FinishReason(row["finish"]),
        row["version"],
        token_versions=None if versions is None else tuple(versions),
    )
