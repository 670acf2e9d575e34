from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rlvr.types import Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

PLUGINS = Path(__file__).parent / "plugins" / "blaming.py"


def grade(name: str, answer: str, response: str, timeout_s: float = 5.0) -> tuple[Verdict, bool]:
    """The verdict, and whether a worker process was needed."""
    rollout = Rollout.from_response(Problem("p", (), answer), response)

    async def run() -> bool:
        async with Grader([WeightedVerifier(f"{PLUGINS}:{name}")], workers=1, timeout_s=timeout_s) as grader:
            await grader.grade(rollout)
            return grader._pool is not None

    needed_worker = asyncio.run(run())
    return rollout.verdicts[name], needed_worker


@pytest.mark.processes
def test_a_timeout_that_the_response_caused_is_incorrect_and_says_so() -> None:
    verdict, _ = grade("slow", "5", "slow", timeout_s=0.5)
    assert verdict.outcome is Outcome.INCORRECT
    assert verdict.details["blame"] == "answer"
    assert "longer than 0.5 s" in verdict.reason


@pytest.mark.processes
def test_a_timeout_that_the_gold_answer_causes_too_is_our_fault() -> None:
    verdict, _ = grade("slow", "slow", "5", timeout_s=0.5)
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert verdict.details["is_timeout"] is True


def test_what_a_verifier_finds_quickly_needs_no_worker() -> None:
    verdict, needed_worker = grade("quick", "5", "5")
    assert (verdict.outcome, verdict.reason, needed_worker) == (Outcome.CORRECT, "quick", False)


@pytest.mark.processes
def test_what_it_leaves_open_goes_to_a_worker() -> None:
    verdict, needed_worker = grade("quick", "5", "6")
    assert (verdict.outcome, verdict.reason, needed_worker) == (Outcome.INCORRECT, "worker", True)


def test_a_bug_in_the_quick_way_is_an_error_and_no_score() -> None:
    verdict, _ = grade("quick", "5", "broken")
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "a bug" in verdict.reason
