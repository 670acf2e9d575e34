"""A chunk of input lines, graded in a worker process as far as that takes bounded time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.errors import TaskError, VerifierError, boundary
from rlvr.types import JSON, Outcome
from rlvr.verifiers.base import Verifier
from rlvr.verifiers.call import call_in_bounded_time, too_long
from rlvr.verifiers.lines import read_rows, verdict_line


@dataclass(frozen=True, slots=True)
class GradedChunk:
    """What a chunk's lines got. `texts` are output lines, and between each two of them belongs the verdict of one row that
    was left open: `open_lines` are the numbers of their lines, so `len(texts) == len(open_lines) + 1`.

    `outcomes` counts the verdicts in `texts`; `cause` is of the first without a score; `fault` says what is wrong with the
    line after the last of them, if anything is.
    """

    texts: Sequence[str]
    open_lines: Sequence[int]
    outcomes: Mapping[str, int]
    cause: str = ""
    fault: str = ""

    def to_json(self) -> dict[str, JSON]:
        return {
            "texts": list(self.texts),
            "open_lines": list(self.open_lines),
            "outcomes": dict(self.outcomes),
            "cause": self.cause,
            "fault": self.fault,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GradedChunk:
        """The chunk in a worker's reply.

        Raises:
            VerifierError: the worker sent something else.
        """
        with boundary(VerifierError, "reading a graded chunk"):
            chunk = cls(data["texts"], data["open_lines"], data["outcomes"], data["cause"], data["fault"])
        if len(chunk.texts) != len(chunk.open_lines) + 1:
            raise VerifierError(f"a graded chunk has {len(chunk.texts)} texts around {len(chunk.open_lines)} open lines")
        return chunk


def grade_chunk(lines: Sequence[str], name: str, first: int, verifier: Verifier, settings: Mapping[str, JSON]) -> GradedChunk:
    """Grade the rows of `lines`, whose first has the number `first`. An isolated verifier is asked for what it finds quickly."""
    texts: list[str] = []
    held: list[str] = []
    open_lines: list[int] = []
    outcomes: Counter[str] = Counter()
    cause = fault = ""
    try:
        for row in read_rows(lines, name, first):
            verdict = too_long(row.rollout) or call_in_bounded_time(verifier, row.rollout, settings)
            if verdict is None:
                open_lines.append(row.number)
                texts.append("".join(held))
                held.clear()
                continue
            held.append(verdict_line(row.identity, verdict) + "\n")
            outcomes[verdict.outcome.value] += 1
            if verdict.outcome is Outcome.VERIFIER_ERROR:
                cause = cause or verdict.reason
    except TaskError as error:
        fault = str(error)
    return GradedChunk([*texts, "".join(held)], open_lines, outcomes, cause, fault)


def open_chunk(lines: Sequence[str], name: str, first: int) -> GradedChunk:
    """The chunk of which every row is left open."""
    open_lines: list[int] = []
    fault = ""
    try:
        for row in read_rows(lines, name, first):
            open_lines.append(row.number)
    except TaskError as error:
        fault = str(error)
    return GradedChunk([""] * (len(open_lines) + 1), open_lines, {}, fault=fault)
