"""The pairs of gold answer and answer in tests/golden/math_pairs.jsonl: how many the math verifier decides right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.types import Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.algebra.decide import decide
from rlvr.verifiers.math import grade_quickly, math

PAIRS = [json.loads(line) for line in (Path(__file__).parents[2] / "golden" / "math_pairs.jsonl").read_text().splitlines()]


def grade(gold: str, answer: str) -> Verdict:
    problem = Problem("pair", (), gold)
    return math(problem, Rollout.from_response(problem, f"\\boxed{{{answer}}}"))


def test_of_our_pairs_97_percent_are_right_and_no_wrong_answer_passes() -> None:
    pytest.importorskip("math_verify")
    verdicts = [(pair, grade(pair["gold"], pair["answer"])) for pair in PAIRS]
    wrong = [(pair, verdict.reason) for pair, verdict in verdicts if (verdict.score == 1.0) != pair["equal"]]
    passed = [(pair, reason) for pair, reason in wrong if not pair["equal"]]
    failed = [(pair, verdict.reason) for pair, verdict in verdicts if verdict.outcome is Outcome.VERIFIER_ERROR]
    assert not passed
    assert not failed
    assert len(wrong) <= 0.03 * len(PAIRS), wrong


def test_nearly_all_pairs_are_decided_without_the_symbolic_library() -> None:
    opened = 0
    for pair in PAIRS:
        problem = Problem("pair", (), pair["gold"])
        opened += grade_quickly(problem, Rollout.from_response(problem, f"\\boxed{{{pair['answer']}}}")) is None
    assert opened <= 0.02 * len(PAIRS)


def test_equality_has_no_direction() -> None:
    for pair in PAIRS:
        if pair["class"] in ("choice", "base"):
            continue  # a gold letter asks for a letter
        forth, back = decide(pair["gold"], pair["answer"]), decide(pair["answer"], pair["gold"])
        if forth.gold_error is None and back.gold_error is None:
            assert forth.is_equal == back.is_equal, pair


def test_every_gold_answer_equals_itself_in_other_clothes() -> None:
    for gold in dict.fromkeys(pair["gold"] for pair in PAIRS):
        bare = gold.strip("$")
        for clothed in (f"${bare}$", f"\\[{bare}\\]", f" {bare} ", f"{bare}.", bare.replace("\\frac", "\\dfrac")):
            assert grade(gold, clothed).score == 1.0, (gold, clothed)
