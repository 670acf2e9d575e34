from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.envs.tasks import load_task
from rlvr.errors import ConfigError
from rlvr.verifiers.instruction.base import Bound
from rlvr.verifiers.instruction.registry import MAX_CONSTRAINTS, constraints, read_constraints

needs_data = pytest.mark.skipif(not os.environ.get("RLVR_DATA"), reason="RLVR_DATA names no folder with data")
MARKS = ('"', "'", "*", "-", "\n", "(", "]", "<i>", "</i>", "Dr.", "?!", "a", "É", "😀", "1,", "{", " ")
# Their reference cannot be reproduced: a random letter, an unseeded detector, a tagger.
RANDOM_IN_REFERENCE = {"keywords:letter_frequency", "language:response_language", "words:start_verb"}


def single(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(constraint id, case) of the cases with one constraint that can be read."""
    readable = [row for row in rows if row["outcome"] != "verifier_error" and isinstance(row["answer"], dict)]
    listed = [(row["answer"].get("constraints", ()), row) for row in readable]
    return [(entries[0]["id"], row) for entries, row in listed if len(entries) == 1]


def test_there_are_25_constraints_of_ifeval_and_58_of_ifbench() -> None:
    assert Counter(constraint.source for constraint in constraints().values()) == {"ifeval": 25, "ifbench": 58}


def test_every_constraint_has_a_response_that_follows_it_and_one_that_does_not(golden: list[dict[str, Any]]) -> None:
    seen = {(id, row["outcome"]) for id, row in single(golden) if "settings" not in row}
    assert {(id, outcome) for id in constraints() for outcome in ("correct", "incorrect")} <= seen


def test_every_fixed_defect_is_described_and_shown_by_a_golden_case(golden: list[dict[str, Any]]) -> None:
    shown = set()
    for id, row in single(golden):
        if row.get("settings") == {"compat": "reference"}:
            ours = read_constraints(row["answer"])[0].follows(row["response"])
            assert ours != (row["outcome"] == "correct"), row
            shown.add(id)
    fixed = {id for id, constraint in constraints().items() if constraint.has_fix}
    # What the detector of the reference makes of capitals depends on the text: a test of its own.
    assert shown == fixed - {"change_case:english_capital"}
    assert {id for id, constraint in constraints().items() if constraint.fixed} == fixed | RANDOM_IN_REFERENCE


def test_capitals_do_not_make_english_another_language(bound: Mapping[str, Bound]) -> None:
    capitals = bound["change_case:english_capital"]
    text = "THE RIVER MOVED SLOWLY THROUGH THE QUIET VALLEY."
    assert capitals.follows(text)
    assert not capitals.follows(text, "reference")


def test_every_constraint_says_in_words_what_it_asks_for(bound: Mapping[str, Bound]) -> None:
    for constraint in bound.values():
        text = constraint.text
        assert "{" not in text.replace("{and braces}", ""), text
        for value in constraint.kwargs.values():
            for part in value if isinstance(value, list) else [value]:
                assert str(part).strip() in text, constraint.constraint.id


@pytest.mark.parametrize(
    ("id", "kwargs", "message"),
    [
        ("keywords:existance", {}, "did you mean 'keywords:existence'"),
        (None, {}, "no constraint None"),
        ("punctuation:no_comma", [], "kwargs is list"),
        ("punctuation:no_comma", {"n": 1}, "no argument 'n'; it takes none"),
        ("keywords:existence", {}, "needs the argument 'keywords'"),
        ("keywords:existence", {"keywords": None}, "needs the argument 'keywords'"),
        ("keywords:existence", {"keywords": []}, "list of 1 to"),
        ("keywords:existence", {"keywords": [" "]}, "not blank"),
        ("keywords:existence", {"keywords": [3]}, "not blank"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "at least 0"),
        ("length_constraints:number_words", {"num_words": float("inf"), "relation": "at least"}, "whole number|at most"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "whole number"),
        ("length_constraints:number_words", {"num_words": "9", "relation": "at least"}, "whole number"),
        ("length_constraints:number_words", {"num_words": 9, "relation": "most"}, "one of 'less than', 'at least'"),
        ("count:words_japanese", {"N": 0}, "at least 1"),
        ("count:word_count_range", {"min_words": 9, "max_words": 8}, "max_words = 8"),
        ("repeat:repeat_span", {"prompt_to_repeat": "abc", "n_start": 5, "n_end": 9}, "no text"),
        ("repeat:repeat_span", {"prompt_to_repeat": "a" * 100_001, "n_start": 5, "n_end": 9}, "at most 100000"),
    ],
)
def test_wrong_constraints_are_refused_by_name(id: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_constraints([{"id": id, "kwargs": kwargs}])


@pytest.mark.parametrize(
    "answer",
    [
        *(None, 3, "x", {}, [], {"constraints": "x"}, [{"kwargs": {}}], [["punctuation:no_comma"]]),
        [{"id": "punctuation:no_comma", "more": 1}],
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
        [{"id": "punctuation:no_comma"}] * (MAX_CONSTRAINTS + 1),
    ],
)
def test_gold_answers_of_another_form_are_refused(answer: Any) -> None:
    with pytest.raises(ConfigError):
        read_constraints(answer)


@given(text=st.text(max_size=300))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_text_gets_a_verdict_and_the_same_one_again(text: str, bound: Mapping[str, Bound]) -> None:
    for constraint in bound.values():
        verdicts = {constraint.follows(text) for _ in range(2)} | {constraint.follows(text, "fixed")}
        assert len(verdicts) == 1
        assert isinstance(constraint.follows(text, "reference"), bool)


@given(pieces=st.lists(st.sampled_from(MARKS), max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_marks_in_any_order_get_a_verdict(pieces: list[str], bound: Mapping[str, Bound]) -> None:
    for id, constraint in bound.items():
        if not id.startswith(("language", "change_case:english")):
            assert isinstance(constraint.follows("".join(pieces)), bool)


@pytest.mark.parametrize("compat", ["fixed", "reference"])
def test_a_blank_response_follows_nothing(compat: Any, bound: Mapping[str, Bound]) -> None:
    assert not any(constraint.follows(blank, compat) for constraint in bound.values() for blank in ("", " \n\t\u3000"))


def test_languages_are_found_alike_in_every_thread(bound: Mapping[str, Bound]) -> None:
    constraint = bound["language:response_language"]
    texts = ["Guten Tag", "ok", "El sol", "casa", "no problem", "haus and home", "1 + 1"] * 8
    alone = [constraint.follows(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(constraint.follows, texts)) == alone


@needs_data
@pytest.mark.parametrize("name", ["ifeval", "ifbench"])
def test_every_public_prompt_has_constraints_that_are_accepted(name: str) -> None:
    problems = load_task(name).problems("test")
    found = {bound.constraint.id for problem in problems for bound in read_constraints(problem.answer)}
    assert len(problems) > 100
    assert found <= set(constraints())
    assert json.dumps(problems[0].answer)
