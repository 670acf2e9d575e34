from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.evaluation.contamination import overlaps
from rlvr.evaluation.samples import Kind, Metric, Sample
from rlvr.types import Message, Problem

PASS_1 = Metric(Kind.PASS, 1)
KNOWN = "A train leaves at noon and drives for three hours at eighty miles an hour, how far does it get"
FRESH = "Seven bakers each sell a dozen rolls on market day; what is left of ninety rolls in the evening then"


@pytest.fixture
def training(tmp_path: Path) -> str:
    path = tmp_path / "seen.jsonl"
    others = [f"How many apples are {i} baskets of {i + 3} apples with {i * 2} apples rotten in every one" for i in range(30)]
    path.write_text("".join(json.dumps({"prompt": text, "answer": "1"}) + "\n" for text in [KNOWN + "?", *others]))
    return str(path)


def problem(id: str, text: str) -> Problem:
    return Problem(id, (Message("user", text),), "1")


def sample(index: int, is_correct: bool) -> Sample:
    return Sample(0, index, True, is_correct, "1", 3)


def test_the_score_is_said_with_and_without_the_problems_that_leak(training: str) -> None:
    found = overlaps([problem("known", KNOWN + ", please?"), problem("fresh", FRESH)], training)
    assert found.leaked == {"known"}
    scores = found.scores({"known": [sample(0, True)], "fresh": [sample(0, False)]}, PASS_1)
    assert scores.without is not None
    assert scores.among is not None
    assert (scores.without.mean, scores.among.mean) == (0.0, 1.0)
    assert "1 of 2 problems overlap" in scores.sentence
    assert "pass@1 0.0% without them, pass@1 100.0% on them" in scores.sentence
    assert json.loads(json.dumps(scores.to_json()))["leaked"] == ["known"]


def test_no_overlap_is_not_sold_as_proof(training: str) -> None:
    scores = overlaps([problem("fresh", FRESH)], training).scores({"fresh": [sample(0, True)]}, PASS_1)
    assert scores.among is None
    assert "reworded ones would not be found" in scores.sentence


def test_a_split_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="has no split 'dev'"):
        overlaps([problem("fresh", FRESH)], "chains:dev")
