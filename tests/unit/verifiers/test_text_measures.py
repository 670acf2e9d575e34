from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.types import Completion, FinishReason, Message, Outcome, Problem, Rollout, Turn, Verdict
from rlvr.verifiers.call import call_verifier
from rlvr.verifiers.format import code_blocks, format
from rlvr.verifiers.json_text import canonical, find_json, nesting, parse_json
from rlvr.verifiers.protocol import rollout_from_json, rollout_to_json
from rlvr.verifiers.regex import regex
from rlvr.verifiers.repetition import length, repetition
from rlvr.verifiers.text import answer_words, json_equal, word_f1

PROBLEM = Problem("p", (), None)


def sampled(tokens: list[int], text: str = "text") -> Rollout:
    completion = Completion(tuple(tokens), (0.0,) * len(tokens), FinishReason.STOP)
    return Rollout(PROBLEM, 0, [Turn((), completion, Message("assistant", text))])


def open_r1_penalty(text: str, n: int, max_penalty: float) -> float:
    """Transcribed from the published description: max_penalty * (1 - |unique n-grams| / |n-grams|), 0 below n words."""
    words = text.lower().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return max_penalty * (1 - len(set(grams)) / len(grams)) if grams else 0.0


@given(st.lists(st.sampled_from(["a", "b", "C"]), min_size=1, max_size=40).map(" ".join), st.integers(1, 5))
def test_the_penalty_is_open_r1s(text: str, n: int) -> None:
    verdict = repetition(PROBLEM, Rollout.from_response(PROBLEM, text), n=n, max_penalty=-2.0)
    assert verdict.details["penalty"] == pytest.approx(open_r1_penalty(text, n, -2.0))
    assert verdict.score == pytest.approx(1 + verdict.details["penalty"] / 2)


def test_tokens_are_the_policys_own_and_are_not_guessed_in_a_worker() -> None:
    rollout = sampled([5, 6, 7, 5, 6, 7])
    assert repetition(PROBLEM, rollout, unit="tokens").score == 0.75
    assert length(PROBLEM, rollout, unit="tokens", maximum=4, soft=4).score == 0.5
    there = rollout_from_json(rollout_to_json(rollout))
    assert repetition(PROBLEM, there, unit="tokens").outcome is Outcome.VERIFIER_ERROR
    assert length(PROBLEM, there, unit="tokens", maximum=4, soft=4).score == 0.5


@given(st.integers(1, 300))
def test_length_is_one_plus_dapos_soft_overlong_punishment(n: int) -> None:
    limit, cache = 200, 50
    # DAPO, equation 13.
    punishment = 0.0 if n <= limit - cache else (limit - cache - n) / cache if n <= limit else -1.0
    score = length(PROBLEM, sampled([1] * n), unit="tokens", maximum=limit - cache, soft=cache).score
    assert score == pytest.approx(1 + punishment)


@given(st.lists(st.sampled_from("abcde"), min_size=1), st.lists(st.sampled_from("abcde"), min_size=1))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(answer: list[str], gold: list[str]) -> None:
    common = sum((Counter(answer) & Counter(gold)).values())
    precision, recall = common / len(answer), common / len(gold)
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    assert float(word_f1(answer, gold)) == pytest.approx(expected)


def test_numbers_are_words_by_value() -> None:
    assert answer_words("The 1,200 cats") == answer_words("1200 cats.")
    assert answer_words("-7") != answer_words("7")
    assert answer_words("1.5") != answer_words("15")


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSONS, JSONS)
def test_json_equality_is_equality(value: object, other: object) -> None:
    def graded(answer: object, gold: object) -> Verdict:
        problem = Problem("p", (), gold)
        return json_equal(problem, Rollout.from_response(problem, f"```json\n{json.dumps(answer)}\n```"))

    is_text_of_json = isinstance(value, str) and value.lstrip()[:1] in ("{", "[")
    if not is_text_of_json:
        assert graded(value, value).outcome is Outcome.CORRECT
        assert (graded(other, value).outcome is Outcome.CORRECT) == (canonical(other) == canonical(value))


def test_json_is_refused_before_a_parser_can_be_hurt() -> None:
    for text in ("[" * 100_000, '{"a":' * 40_000, '"' + "\\" * 150_000, "1" * 150_000, "[1," * 60_000):
        assert parse_json(text).text is None
        assert nesting(text) >= 0
        assert find_json(text).text is None
    assert nesting('["[[[", {"a": "]"}]') == 2


def test_a_pattern_that_kills_backtracking_engines_is_linear() -> None:
    problem = Problem("p", (), "(a+)+(b+)+(c|cc)*$x")
    verdict = regex(problem, Rollout.from_response(problem, "a" * 1_000_000 + "b"))
    assert verdict.outcome is Outcome.INCORRECT


def test_a_pattern_that_re2_cannot_read_is_our_fault() -> None:
    verdict = call_verifier(regex, Rollout.from_response(PROBLEM, "a"), {"pattern": "(?<=a)b"})
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "look-around" in verdict.reason


def test_code_blocks_are_lines_of_their_own() -> None:
    text = "```python\na\n```\ntext ```inline``` text\n```\nb\n```\n```js\nopen"
    assert [(block.language, block.content) for block in code_blocks(text)] == [("python", "a\n"), ("", "b\n")]


TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@given(st.lists(st.sampled_from([*TAGS, "<THINK>", "</answer >", "<reasoning>", "a b", " ", "\n"]), max_size=9))
def test_strict_format_is_exactly_the_four_tags_in_order_with_words_in_both(parts: list[str]) -> None:
    response = "".join(parts)
    is_right = format(PROBLEM, Rollout.from_response(PROBLEM, response)).outcome is Outcome.CORRECT
    compact = [part for part in parts if part.strip()]
    merged = [part for i, part in enumerate(compact) if part != "a b" or i == 0 or compact[i - 1] != "a b"]
    assert is_right == (merged == ["<think>", "a b", "</think>", "<answer>", "a b", "</answer>"])
