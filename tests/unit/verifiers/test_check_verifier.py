from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from rlvr.testing import check_verifier
from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.base import Verifier
from rlvr.verifiers.numeric import parse_number

CASES: list[dict[str, JSON]] = [
    {"answer": "5", "response": "5", "outcome": "correct", "why": "equal", "prompt": "What is 2 + 3?"}
]


def honest(problem: Problem, rollout: Rollout, *, offset: int = 0) -> Verdict:
    value = parse_number(rollout.response)
    if value is not None and value.value == int(problem.answer) + offset:
        return Verdict.correct(rollout.response)
    return Verdict.incorrect(reason="another number")


def check(function: object, cases: object = CASES) -> str:
    with pytest.raises(AssertionError) as raised:
        check_verifier(Verifier("broken", function, isolated=False), cases)  # type: ignore[arg-type]
    return str(raised.value)


def test_an_honest_verifier_passes() -> None:
    check_verifier(honest, CASES)


def test_a_verifier_that_compares_text_as_it_stands_may_say_so() -> None:
    def literal(problem: Problem, rollout: Rollout) -> Verdict:
        is_same = rollout.response == problem.answer
        return Verdict.correct(rollout.response) if is_same else Verdict.incorrect(reason="another text")

    assert "equivalent (4 of 4)" in check(literal)
    check_verifier(literal, CASES, max_false_negatives=1.0)


def test_cases_come_from_a_file_and_carry_settings(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({**CASES[0], "response": "6", "settings": {"offset": 1}}) + "\n\n")
    check_verifier(honest, path)


def test_a_wrong_verdict_names_the_case_and_why() -> None:
    text = check(honest, [{**CASES[0], "outcome": "incorrect", "why": "five is right out"}])
    assert "case 1: wanted incorrect; got correct" in text
    assert "five is right out" in text


def test_a_verifier_that_accepts_nothing_or_the_prompt_is_caught() -> None:
    text = check(lambda problem, rollout: Verdict.correct(rollout.response[:10]))
    assert "an empty response is correct" in text
    assert "an echo of the prompt is correct" in text


def test_a_verifier_that_raises_on_hostile_text_is_caught() -> None:
    def encode(problem: Problem, rollout: Rollout) -> Verdict:
        rollout.response.encode()
        return honest(problem, rollout)

    assert "UnicodeEncodeError" in check(encode)


def test_a_verifier_that_changes_its_mind_is_caught() -> None:
    count = itertools.count()
    text = check(
        lambda problem, rollout: Verdict.incorrect(str(next(count)), "counted") if rollout.response != "5" else Verdict.correct()
    )
    assert "two verdicts on" in text


@pytest.mark.parametrize(
    ("verdict", "complaint"),
    [
        (Verdict(Outcome.CORRECT, 0.5), "correct with score 0.5"),
        (Verdict(Outcome.INCORRECT, 0.5, reason="half"), "incorrect with score 0.5"),
        (Verdict.partial(1.0, reason="all"), "partial with score 1.0"),
        (Verdict.incorrect(), "incorrect without a reason"),
        (Verdict.incorrect(reason="x", thing=object()), "details are not JSON"),
        (Verdict.incorrect(reason="x", thing="x" * 20_000), "details of"),
    ],
)
def test_verdicts_that_contradict_themselves_are_caught(verdict: Verdict, complaint: str) -> None:
    assert complaint in check(lambda problem, rollout: verdict)


def test_malformed_cases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"case 1: missing \['why'\], unknown \['wy'\]"):
        check_verifier(honest, [{"answer": "5", "response": "5", "outcome": "correct", "wy": "typo"}])
    with pytest.raises(ValueError, match="no golden cases"):
        check_verifier(honest, [])
