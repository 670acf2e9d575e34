"""Training problems that give an evaluation away, and those that say the same twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.envs import leakage
from rlvr.envs.leakage import clean, words
from rlvr.errors import ConfigError
from rlvr.types import JSON, Message, Problem


def problem(id: str, text: str, answer: JSON = "1") -> Problem:
    return Problem(id, (Message("user", text),), answer)


def text_of(*numbers: int) -> str:
    return " ".join(f"w{chr(97 + number // 26 % 26)}{chr(97 + number % 26)}" for number in numbers)


def test_eight_words_in_a_row_are_found_and_seven_are_not() -> None:
    held_out = {"exam": [problem("e", text_of(*range(20)))]}
    eight = problem("eight", text_of(100, *range(5, 13), 101))
    seven = problem("seven", text_of(100, *range(5, 12), 101))
    [overlap] = clean([eight, seven], held_out).overlaps
    assert (overlap.problem, overlap.source, overlap.held_out) == ("eight", "exam", "e")
    assert overlap.covered == 8 / 20
    assert overlap.passage == text_of(*range(5, 13))
    assert not overlap.is_leak


def test_more_than_half_of_the_held_out_words_are_a_leak() -> None:
    held_out = {"exam": [problem("e", text_of(*range(20)))]}
    half, more = problem("half", text_of(*range(10))), problem("more", text_of(*range(11)))
    found = clean([half, more], held_out)
    assert [(overlap.problem, overlap.is_leak) for overlap in found.overlaps] == [("more", True), ("half", False)]
    assert found.removed == {"more"}


def test_two_training_problems_do_not_leak_together_what_neither_does_alone() -> None:
    held_out = {"exam": [problem("e", text_of(*range(24)))]}
    found = clean([problem("a", text_of(*range(9))), problem("b", text_of(*range(12, 21)))], held_out)
    assert [overlap.is_leak for overlap in found.overlaps] == [False, False]


def test_case_punctuation_and_line_breaks_hide_nothing() -> None:
    plain = "how many apples does Tom have after he buys 3.5 dozen"
    held_out = {"exam": [problem("e", plain)]}
    found = clean([problem("t", "HOW many apples,\n\ndoes 'Tom' have -- after he buys 3.5 dozen?!".replace("--", ""))], held_out)
    assert found.overlaps[0].covered == 1.0


def test_short_problems_leak_only_as_a_whole() -> None:
    held_out = {"exam": [problem("e", "2 + 3 * 4")]}
    found = clean([problem("same", "2 + 3 * 4 ?"), problem("other", "2 * 3 + 4")], held_out)
    assert [overlap.problem for overlap in found.leaks] == ["same"]


def test_the_wording_of_a_task_is_no_leak() -> None:
    wording = "solve the following puzzle and put your answer into a box at the end"
    training = [problem(f"t{index}", f"{wording} {text_of(*range(20 * index, 20 * index + 10))}") for index in range(30)]
    apart = problem("e1", f"{wording} {text_of(*range(640, 650))}")
    taken = problem("e2", f"{wording} {text_of(*range(40, 50))}")
    found = clean(training, {"exam": [apart, taken]})
    assert [(overlap.problem, overlap.held_out) for overlap in found.overlaps] == [("t2", "e2")]
    assert found.overlaps[0].covered == 1.0
    assert found.duplicates == ()


def test_puzzles_of_one_generator_are_compared_by_what_differs() -> None:
    def puzzle(id: str, numbers: tuple[int, ...]) -> Problem:
        *given, target = numbers
        return problem(id, f"Use each of the numbers {given} once, with plus and minus, to write down a sum that is {target}.")

    generator = random.Random(0)
    drawn = sorted({tuple(generator.sample(range(1, 60), 4)) for _ in range(300)})
    training, held_out = drawn[:250], [*drawn[250:], drawn[7]]
    found = clean(
        [puzzle(f"t{index}", numbers) for index, numbers in enumerate(training)],
        {"exam": [puzzle(f"e{index}", numbers) for index, numbers in enumerate(held_out)]},
    )
    assert [one.problem for one in found.overlaps] == ["t7"]
    assert found.duplicates == ()


def test_all_sources_are_searched_and_counted() -> None:
    training = [problem("t", text_of(*range(12)))]
    found = clean(training, {"a:test": [problem("x", text_of(*range(12)))], "b:test": [problem("x", text_of(*range(2, 12)))]})
    assert {overlap.source for overlap in found.leaks} == {"a:test", "b:test"}
    assert (found.problems, found.held_out) == (1, {"a:test": 1, "b:test": 1})


def test_near_duplicates_are_found_and_those_with_another_answer_kept() -> None:
    base = text_of(*range(60))
    problems = [
        problem("first", base),
        problem("again", base.upper() + "."),
        problem("other answer", base, "2"),
        problem("end differs", text_of(*range(58), 200, 201)),
        problem("middle differs", text_of(*range(30), 200, *range(31, 60))),
    ]
    found = clean(problems, {})
    assert [(one.problem, one.earlier, one.similarity == 1.0) for one in found.duplicates] == [
        ("again", "first", True),
        ("other answer", "first", True),
        ("end differs", "first", False),
    ]
    assert found.removed == {"again", "end differs"}


def test_equal_numbers_with_other_operators_are_other_problems() -> None:
    assert clean([problem("a", "2 + 3 * 4 - 1"), problem("b", "2 * 3 + 4 - 1")], {}).duplicates == ()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_looking_up_only_the_rarest_grams_misses_no_duplicate(seed: int) -> None:
    generator = random.Random(seed)
    texts: list[list[int]] = []
    for _ in range(9):  # what ten share would count as wording
        text = list(generator.choice(texts)) if texts and generator.random() < 0.7 else list(generator.sample(range(90), 30))
        for _ in range(generator.choice([0, 0, 1, 2])):
            text[generator.choice([0, 1, 28, 29])] = generator.randrange(90, 600)
        texts.append(text)
    problems = [problem(str(index), text_of(*text)) for index, text in enumerate(texts)]
    sets = [{tuple(words(one)[start : start + 8]) for start in range(23)} for one in problems]
    expected = {
        str(i) for i in range(9) if any(len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= leakage.SIMILAR for j in range(i))
    }
    assert {one.problem for one in clean(problems, {}).duplicates} == expected


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no problems"):
        clean([], {})
    with pytest.raises(ConfigError, match="n = 0"):
        clean([problem("a", "x")], {}, n=0)
