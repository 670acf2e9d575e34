"""What the index keeps of a stored rollout: its numbers as columns, a line to show, and the text that is searched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.printable import printable

# One element of a rollout file's index. `problem` counts the problems of that file; NaN is "none is stored".
ROW = np.dtype(
    [
        ("line", "<i4"),  # of the file, from 0
        ("offset", "<i8"),  # of the line in the uncompressed file, bytes
        ("length", "<i4"),
        ("group", "<i4"),  # -1 where none is stored
        ("problem", "<i4"),
        ("sample", "<i4"),
        ("reward", "<f8"),
        ("score", "<f8"),
        ("advantage", "<f8"),
        ("tokens", "<i4"),
        ("turns", "<i4"),
        ("calls", "<i4"),
        ("failed_calls", "<i4"),
        ("outcome", "<i4"),  # index into OUTCOMES
        ("truncated", "<i4"),
    ]
)
PREVIEW_CHARS = 180
SEARCHED_HEAD, SEARCHED_TAIL = 16_000, 4_000  # characters of a longer rollout that are searched: its start and its end


class Shown(StrEnum):
    """How a rollout ended, in one word."""

    CORRECT = "correct"
    PARTIAL = "partial"
    INCORRECT = "incorrect"
    UNPARSED = "unparsed"
    VERIFIER_ERROR = "verifier_error"
    UNSCORED = "unscored"  # ended by a failure of ours, or graded by nobody


OUTCOMES = tuple(Shown)
_OUTCOME_INDEX = {outcome.value: index for index, outcome in enumerate(OUTCOMES)}


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One rollout, as the index keeps it. `values` has the columns of ROW without line, offset, length and problem."""

    problem: str  # printable
    prompt: str  # lower case, to search
    values: tuple[float, ...]
    preview: str  # printable, one line
    text: str  # lower case, to search


def index_row(row: Any) -> IndexRow:
    """
    Raises:
        EvaluationError: the row is not a stored rollout.
    """
    with boundary(EvaluationError, "not a stored rollout"):
        turns, verdicts, provenance = row["turns"], row["verdicts"], row["provenance"]
        verdict = next(iter(verdicts.values()), None)
        calls = [call for turn in turns for call in turn.get("calls", ())]
        values = (
            _whole(provenance.get("group"), -1),
            _whole(row["sample_index"], 0),
            _number(row["reward"]),
            _number(None if verdict is None else verdict["score"]),
            _number(provenance.get("advantage")),
            sum(_sampled(turn["completion"]) for turn in turns),
            len(turns),
            len(calls),
            sum(call["status"] != "ok" for call in calls),
            _OUTCOME_INDEX[_outcome(row["error"], verdict)],
            row["stop"] == "length",
        )
        texts = list(_texts(row, turns, verdicts))
        last = turns[-1]["message"]["content"] if turns else row["error"] or ""
        prompt = "\n".join(message["content"] for message in row["problem"]["prompt"])
        return IndexRow(
            printable(str(row["problem"]["id"])), prompt.lower(), values, _preview(last), _cut("\n".join(texts)).lower()
        )


def _texts(row: Mapping[str, Any], turns: list[Any], verdicts: Mapping[str, Any]) -> Iterator[str]:
    """What is searched, besides the prompt: all that the model, its tools and its verifiers said."""
    yield str(row["problem"]["id"])
    for turn in turns:
        yield turn["message"]["content"]
        yield from (reply["content"] for reply in turn["replies"])
        yield turn.get("inline") or ""
    for verdict in verdicts.values():
        yield verdict["extracted"] or ""
        yield verdict["reason"] or ""
    yield row["error"] or ""


def _cut(text: str) -> str:
    if len(text) <= SEARCHED_HEAD + SEARCHED_TAIL:
        return text
    return f"{text[:SEARCHED_HEAD]}\n{text[-SEARCHED_TAIL:]}"


def _preview(text: str) -> str:
    """The end of a message, where the answer is, on one line."""
    tail = text[-3 * PREVIEW_CHARS :]
    line = " ".join(printable(tail).split())
    is_whole = len(tail) == len(text) and len(line) <= PREVIEW_CHARS
    return line if is_whole else f"… {line[-PREVIEW_CHARS:]}"


def _outcome(error: Any, verdict: Any) -> str:
    if error is not None or verdict is None:
        return Shown.UNSCORED
    return str(verdict["outcome"])


def _sampled(completion: Mapping[str, Any]) -> int:
    reported = completion.get("reported_tokens")
    return len(completion["token_ids"]) if reported is None else _whole(reported, 0)


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else math.nan


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and abs(value) < 2**31 else default
