"""Verifiers that take long for some texts, and say with which responses to find out whose fault that was."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


def _gold(problem: Problem) -> Sequence[str]:
    return (str(problem.answer),)


@verifier("slow", probe=_gold)
def slow(problem: Problem, rollout: Rollout) -> Verdict:
    """Never ends where the gold answer or the response says "slow"."""
    while "slow" in str(problem.answer) or "slow" in rollout.response:
        pass
    return Verdict.correct() if rollout.response == problem.answer else Verdict.incorrect()


def _quick(problem: Problem, rollout: Rollout) -> Verdict | None:
    if rollout.response == "broken":
        raise ValueError("a bug")
    return Verdict.correct(reason="quick") if rollout.response == problem.answer else None


@verifier("quick", quick=_quick)
def quick(problem: Problem, rollout: Rollout) -> Verdict:
    """Left open by `_quick`: another text than the gold answer."""
    return Verdict.incorrect(reason="worker")
