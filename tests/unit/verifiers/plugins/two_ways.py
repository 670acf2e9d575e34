"""A verifier with a quick way that now and then leaves the verdict open, or misbehaves."""

from __future__ import annotations

import os

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


def _quick(problem: Problem, rollout: Rollout) -> Verdict | None:
    if rollout.response == "exit":
        os._exit(7)
    if rollout.response.startswith("open"):
        return None
    return Verdict.correct(reason="quick") if rollout.response == problem.answer else Verdict.incorrect(reason="quick")


@verifier("two_ways", quick=_quick)
def two_ways(problem: Problem, rollout: Rollout) -> Verdict:
    """Asked where `_quick` gave no verdict."""
    while rollout.response == "open for ever":
        pass
    return Verdict.incorrect(reason="worker")
