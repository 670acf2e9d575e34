"""A stored rollout as plain JSON for a page. Every text in it is printable: no control, invisible or direction characters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.ledger import StoredRollout, rollout_from_json
from rlvr.evaluation.printable import printable
from rlvr.types import JSON, Message, Rollout, ToolCall, Turn, Verdict

LONGEST_TEXT = 200_000  # characters of one message; the rest is counted
_LONGEST_VALUE = 20_000  # characters of a gold answer, a call's arguments, a detail
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Where:
    """A rollout's place: which run of those that are shown, training step, line of the step's file."""

    run: int
    step: int
    line: int

    def to_json(self) -> dict[str, JSON]:
        return {"run": self.run, "step": self.step, "line": self.line}


def parse_stored(content: bytes) -> StoredRollout:
    """
    Raises:
        EvaluationError: not a stored rollout.
    """
    with boundary(EvaluationError, "a stored rollout cannot be read"):
        row = json.loads(content)
        return StoredRollout(rollout_from_json(row), row["provenance"])


def rollout_json(where: Where, stored: StoredRollout) -> dict[str, JSON]:
    """Everything that a page shows of a rollout, without its tokens."""
    rollout = stored.rollout
    provenance = {name: value for name, value in stored.provenance.items() if name != "advantage"}
    return {
        **where.to_json(),
        "problem": problem_json(rollout),
        "sample": rollout.sample_index,
        "outcome": _outcome(rollout),
        "is_truncated": rollout.is_truncated,
        "stop": None if rollout.stop is None else rollout.stop.value,
        "reward": _number(rollout.reward),
        "advantage": _number(stored.provenance.get("advantage")),
        "tokens": rollout.completion_tokens,
        "mean_logprob": _mean([value for turn in rollout.turns for value in turn.completion.logprobs]),
        "error": None if rollout.error is None else text_json(rollout.error),
        "turns": [_turn(turn) for turn in rollout.turns],
        "verdicts": [_verdict(name, verdict) for name, verdict in rollout.verdicts.items()],
        "provenance": shown_value(provenance),
    }


def problem_json(rollout: Rollout) -> dict[str, JSON]:
    problem = rollout.problem
    return {
        "id": printable(str(problem.id)),
        "prompt": [_message(message) for message in problem.prompt],
        "answer": value_text(problem.answer),
        "metadata": shown_value(problem.metadata),
    }


def text_json(text: str, longest: int = LONGEST_TEXT) -> dict[str, JSON]:
    """`text`, and how many characters of it are left out."""
    return {"text": printable(text[:longest]), "left_out": max(0, len(text) - longest)}


def value_text(value: JSON) -> str:
    """A value as the text in which a person reads it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… {len(text) - _LONGEST_VALUE:,} more")


def shown_value(value: JSON, depth: int = 0) -> JSON:
    """`value` with every text in it printable; what lies deeper than a page can show becomes text."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {printable(str(name)): shown_value(part, depth + 1) for name, part in value.items()}
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return [shown_value(part, depth + 1) for part in value]
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return value_text(value)


def _turn(turn: Turn) -> dict[str, JSON]:
    completion = turn.completion
    return {
        "message": _message(turn.message),
        "answers": [_message(message) for message in turn.answers],
        "calls": [_call(call) for call in turn.calls],
        "tokens": completion.sampled_tokens,
        "context_tokens": len(turn.prompt_ids),
        "finish_reason": completion.finish_reason.value,
        "policy_version": completion.policy_version,
    }


def _message(message: Message) -> dict[str, JSON]:
    return {"role": printable(message.role), "name": printable(message.name), **text_json(message.content)}


def _call(call: ToolCall) -> dict[str, JSON]:
    return {
        "name": printable(call.name),
        "arguments": value_text(call.arguments),
        "status": call.status.value,
        "elapsed_s": _number(call.elapsed_s),
        "is_truncated": call.is_truncated,
    }


def _verdict(name: str, verdict: Verdict) -> dict[str, JSON]:
    details = dict(verdict.details)
    tests = details.pop("tests", None)
    has_tests = isinstance(tests, list) and all(isinstance(test, Mapping) for test in tests)
    if tests is not None and not has_tests:
        details["tests"] = tests
    return {
        "name": printable(name),
        "outcome": verdict.outcome.value,
        "score": _number(verdict.score),
        "extracted": None if verdict.extracted is None else text_json(verdict.extracted, _LONGEST_VALUE),
        "reason": text_json(verdict.reason, _LONGEST_VALUE),
        "elapsed_s": _number(verdict.elapsed_s),
        "tests": shown_value(tests) if has_tests else [],
        "details": shown_value(details),
    }


def _outcome(rollout: Rollout) -> str:
    if rollout.error is not None or rollout.verdict is None:
        return "unscored"
    return rollout.verdict.outcome.value


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _mean(values: list[float]) -> float | None:
    return _number(sum(values) / len(values)) if values else None
