from __future__ import annotations

from typing import Any

import pytest

from rlvr.types import Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.instruction.registry import read_constraints
from rlvr.verifiers.instruction.verifier import follows, ifbench, ifeval, loose_variants

COMMA = {"id": "punctuation:no_comma", "kwargs": {}}
TITLE = {"id": "detectable_format:title", "kwargs": {}}
END = {"id": "startend:end_checker", "kwargs": {"end_phrase": "The end."}}


def grade(response: str, *constraints: dict[str, Any], **settings: Any) -> Verdict:
    return ifeval(*_rollout(response, list(constraints)), **settings)


def _rollout(response: str, answer: Any) -> tuple[Problem, Rollout]:
    problem = Problem("p", (), answer)
    return problem, Rollout.from_response(problem, response)


def test_loose_drops_first_line_last_line_both_and_asterisks() -> None:
    assert loose_variants("a\n*b*\nc") == ["*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert loose_variants("plain") == []


@pytest.mark.parametrize(
    ("response", "constraint", "is_strict", "is_loose"),
    [
        ("No comma.", COMMA, True, True),
        ("Sure, here:\nNo comma.", COMMA, False, True),
        ("Fine.\nYours, A.", COMMA, False, True),
        ("Sure, a:\nFine.\nYours, A.", COMMA, False, True),
        ("a\nb, c\nd", COMMA, False, False),
        ("Story. **The end.**", END, False, True),
        ("a, b", COMMA, False, False),
    ],
)
def test_strict_and_loose(response: str, constraint: dict[str, Any], is_strict: bool, is_loose: bool) -> None:
    (bound,) = read_constraints([constraint])
    assert (follows(bound, response, "strict"), follows(bound, response, "loose")) == (is_strict, is_loose)


def test_each_constraint_is_loose_by_a_variant_of_its_own() -> None:
    response = "Sure, here:\n<<T>> The end.\nBye."
    assert grade(response, COMMA, END, mode="loose").outcome is Outcome.CORRECT
    assert grade(response, COMMA, END).outcome is Outcome.INCORRECT


def test_prompt_level_is_all_or_nothing_and_instruction_level_a_share() -> None:
    verdict = grade("One. The end.", COMMA, TITLE, END)
    assert (verdict.outcome, verdict.score, verdict.extracted) == (Outcome.INCORRECT, 0.0, "2/3")
    assert verdict.reason == "not followed: detectable_format:title"
    share = grade("One. The end.", COMMA, TITLE, END, level="instruction")
    assert (share.outcome, share.score) == (Outcome.PARTIAL, pytest.approx(2 / 3))
    assert share.details["constraints"] == [
        {"id": "punctuation:no_comma", "followed": True},
        {"id": "detectable_format:title", "followed": False},
        {"id": "startend:end_checker", "followed": True},
    ]


def test_a_share_of_none_is_incorrect_and_of_all_correct() -> None:
    assert grade("a, b", COMMA, TITLE, level="instruction").outcome is Outcome.INCORRECT
    assert grade("<<a>>", COMMA, TITLE, level="instruction").outcome is Outcome.CORRECT


def test_thinking_is_left_out_unless_asked_for() -> None:
    response = "<think>one, two</think>Done."
    assert grade(response, COMMA).outcome is Outcome.CORRECT
    assert grade(response, COMMA, with_thinking=True).outcome is Outcome.INCORRECT
    assert grade("<think>only this</think>", COMMA).outcome is Outcome.UNPARSED


def test_a_wrong_gold_answer_is_our_fault_and_no_reward() -> None:
    verdict = grade("anything", {"id": "keywords:existence", "kwargs": {"keyword": "x"}})
    assert (verdict.outcome, verdict.score) == (Outcome.VERIFIER_ERROR, None)
    assert "keywords:existence" in verdict.reason
    assert "keyword" in verdict.reason


def test_both_verifiers_know_all_constraints() -> None:
    answer = [COMMA, {"id": "format:no_whitespace", "kwargs": {}}]
    assert ifeval(*_rollout("Fine.", answer)) == ifbench(*_rollout("Fine.", answer))
