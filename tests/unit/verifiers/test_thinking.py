from __future__ import annotations

import pytest

from rlvr.types import Completion, FinishReason, Message, Outcome, Problem, Rollout, Stop, Turn, Verdict
from rlvr.verifiers.thinking import thinking


def judged(response: str, tokens: int, **metadata: object) -> Verdict:
    problem = Problem("p", (), 1, metadata)
    turn = Turn((), Completion((1,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", response))
    return thinking.function(problem, Rollout(problem, 0, [turn], Stop.STOP))


@pytest.mark.parametrize(
    ("tokens", "outcome"), [(9, Outcome.CORRECT), (10, Outcome.CORRECT), (11, Outcome.INCORRECT), (500, Outcome.INCORRECT)]
)
def test_a_budget_counts_the_policys_own_tokens(tokens: int, outcome: Outcome) -> None:
    found = judged("<think>2+2</think>4", tokens, thinking="budget", target_tokens=10)
    assert found.outcome is outcome
    assert found.details["mode"] == "budget"


@pytest.mark.parametrize("budget", [None, "10", 0, float("nan"), True])
def test_a_budget_that_is_no_number_is_our_fault(budget: object) -> None:
    assert judged("<think>2+2</think>4", 3, thinking="budget", target_tokens=budget).outcome is Outcome.VERIFIER_ERROR


def test_only_a_budget_looks_at_the_number_of_tokens() -> None:
    assert judged("<think>2+2</think>4", 9_999, thinking="on", target_tokens=1).outcome is Outcome.CORRECT


@pytest.mark.parametrize("response", ["<think>" * 20_000, "</think>" * 20_000, "<answer>" * 20_000, " " * 200_000])
def test_hostile_texts_are_read_in_linear_time(response: str) -> None:
    for mode in ("on", "off", "budget"):
        judged(response, 5, thinking=mode, target_tokens=10)
