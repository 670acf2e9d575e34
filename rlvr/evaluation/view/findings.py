"""What the health rules of a run said, with the rollouts that show it as places on the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.evaluation.printable import printable
from rlvr.types import JSON

_EVIDENCE = re.compile(r"step (\d{1,9}): (.*) #(\d{1,9})", re.DOTALL)  # of rlvr.evaluation.health.signals.rollout_id


@dataclass(frozen=True, slots=True)
class Evidence:
    """A rollout that shows what a rule said; `problem` is printable."""

    step: int
    problem: str
    sample: int

    def to_json(self) -> dict[str, JSON]:
        return {"step": self.step, "problem": self.problem, "sample": self.sample}


@dataclass(frozen=True, slots=True)
class Said:
    """One finding; texts are printable."""

    step: int
    rule: str
    words: str
    has_ended_run: bool
    evidence: tuple[Evidence, ...]

    def to_json(self) -> dict[str, JSON]:
        return {
            "step": self.step,
            "rule": self.rule,
            "words": self.words,
            "has_ended_run": self.has_ended_run,
            "evidence": [one.to_json() for one in self.evidence],
        }


def findings_of(row: Mapping[str, Any]) -> list[Said]:
    """What a line of `metrics.jsonl` holds under `health`; parts that are of another shape are left out."""
    found, step = row.get("health"), row.get("step")
    if not isinstance(found, list) or not isinstance(step, int):
        return []
    return [_said(one, step) for one in found if isinstance(one, Mapping)]


def _said(one: Mapping[str, Any], step: int) -> Said:
    rollouts = one.get("rollouts")
    matches = [_EVIDENCE.fullmatch(str(text)) for text in rollouts] if isinstance(rollouts, list) else []
    evidence = tuple(Evidence(int(found[1]), printable(found[2]), int(found[3])) for found in matches if found is not None)
    return Said(
        step, printable(str(one.get("rule", ""))), printable(str(one.get("words", ""))), one.get("stops") is True, evidence
    )
