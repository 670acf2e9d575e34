"""What the grader and its worker processes say to each other: frames of length-prefixed JSON.

Never pickle: a worker has run a plugin on model text, and what it says is data. JSON escapes everything outside
ASCII, so lone surrogates survive, and Python's JSON carries NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlvr.errors import VerifierError, boundary
from rlvr.types import (
    JSON,
    CallStatus,
    Completion,
    FinishReason,
    Message,
    Outcome,
    Problem,
    Rollout,
    Stop,
    ToolCall,
    Turn,
    Verdict,
)

MAX_FRAME_BYTES = 256 * 2**20
HEADER_BYTES = 4
NO_TOKEN = -1  # stands in a worker for each token of a completion


def encode_frame(message: Mapping[str, JSON]) -> bytes:
    """One frame.

    Raises:
        VerifierError: the message is not JSON, or larger than `MAX_FRAME_BYTES`.
    """
    with boundary(VerifierError, "writing a message as JSON"):
        body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise VerifierError(f"a message of {len(body)} bytes; at most {MAX_FRAME_BYTES} can be sent to or from a verifier")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def frame_size(header: bytes) -> int:
    """The size of the body that follows `header`.

    Raises:
        VerifierError: not a header that `encode_frame` writes.
    """
    size = int.from_bytes(header, "big")
    if size > MAX_FRAME_BYTES:
        raise VerifierError(f"a frame of {size} bytes; at most {MAX_FRAME_BYTES} are read")
    return size


def decode_frame(body: bytes) -> dict[str, Any]:
    """The message in a frame's body.

    Raises:
        VerifierError: it is not a JSON object.
    """
    with boundary(VerifierError, "reading a message as JSON"):
        message = json.loads(body)
    if not isinstance(message, dict):
        raise VerifierError(f"a message is {type(message).__name__}, not an object")
    return message


def rollout_to_json(rollout: Rollout) -> dict[str, JSON]:
    """The problem and the conversation. Of tokens only their number travels: verifiers read text."""
    problem = rollout.problem
    return {
        "id": problem.id,
        "prompt": [[message.role, message.content] for message in problem.prompt],
        "answer": problem.answer,
        "metadata": dict(problem.metadata),
        "sample_index": rollout.sample_index,
        "stop": rollout.stop,
        "turns": [
            {
                "message": [turn.message.role, turn.message.content],
                "replies": [[message.role, message.content] for message in turn.replies],
                "finish": turn.completion.finish_reason,
                "tokens": turn.completion.sampled_tokens,
                "inline": turn.inline,
                "calls": [[call.name, call.arguments, call.status, call.elapsed_s, call.is_truncated] for call in turn.calls],
            }
            for turn in rollout.turns
        ],
    }


def rollout_from_json(data: Mapping[str, Any]) -> Rollout:
    """The rollout as a verifier sees it: every text and flag, token ids all 0 (their number is kept)."""
    problem = Problem(data["id"], tuple(Message(*message) for message in data["prompt"]), data["answer"], data["metadata"])
    turns = [
        Turn(
            prompt_ids=(),
            completion=Completion((NO_TOKEN,) * turn["tokens"], (0.0,) * turn["tokens"], FinishReason(turn["finish"])),
            message=Message(*turn["message"]),
            replies=tuple(Message(*reply) for reply in turn["replies"]),
            inline=turn.get("inline"),
            calls=tuple(ToolCall(name, said, CallStatus(status), *rest) for name, said, status, *rest in turn.get("calls", ())),
        )
        for turn in data["turns"]
    ]
    stop = data["stop"]
    return Rollout(problem, data["sample_index"], turns, None if stop is None else Stop(stop))


def verdict_to_json(verdict: Verdict) -> dict[str, JSON]:
    return {
        "outcome": verdict.outcome,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "elapsed_s": verdict.elapsed_s,
        "details": dict(verdict.details),
    }


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """The verdict in a worker's reply.

    Raises:
        VerifierError: the worker sent something else.
    """
    with boundary(VerifierError, "reading a verdict"):
        return Verdict(
            Outcome(data["outcome"]), data["score"], data["extracted"], data["reason"], data["elapsed_s"], data["details"]
        )
