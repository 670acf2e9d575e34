"""The plainest verifier that always runs in a worker process."""

from __future__ import annotations

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


@verifier("same_text", isolated=True)
def same_text(problem: Problem, rollout: Rollout) -> Verdict:
    """Correct when the response is the answer."""
    return Verdict.correct() if rollout.response == problem.answer else Verdict.incorrect()
