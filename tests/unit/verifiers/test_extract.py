from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.extract import MATH_RULES, MAX_TAIL_CHARS, NUMBER_RULES, TEXT_RULES, boxes, find_answer, split_thinking

RULES = (*MATH_RULES, "whole")
PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<final_answer>",
        "</final_answer>",
        "\\boxed{",
        "\\boxed ",
        "{",
        "}",
        "\\}",
        "####",
        "the answer is ",
        "$",
        "\\(",
        "\\)",
        "1",
        "2.5",
        "1,000",
        " or ",
        " and ",
        ",",
        "\n",
        "x",
        " ",
        "\ud800",
        "\\",
    ]
)


@pytest.mark.parametrize(
    ("response", "answer", "rule"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
        ("\\boxed{\\boxed{3}}", "3", "boxed"),
        ("\\boxed{\\{1\\}}", "\\{1\\}", "boxed"),
        ("\\boxed 7", "7", "boxed"),
        ("\\fbox{7}", "7", "boxed"),
        ("\\boxed{1 and an open one \\boxed{2}", "2", "boxed"),
        ("<answer>\\boxed{5}</answer>", "5", "answer_tag"),
        ("<ANSWER>5</Answer>", "5", "answer_tag"),
        ("<final_answer>5</final_answer>", "5", "answer_tag"),
        ("put it in <answer> like <answer>5</answer>", "5", "answer_tag"),
        ("<answer>5</answer> \\boxed{6}", "5", "answer_tag"),
        ("#### 5\nthanks", "5", "hash"),
        ("#### Final answer\nThe answer is: **5**.", "5", "sentence"),
        ("The answer is 11.", "11", "sentence"),
        ("The answer is 1.5. Or so", "1.5", "sentence"),
        ("答案是：5。", "5", "sentence"),
        ("we get $x^2$", "x^2", "last_math"),
        ("3 apples and 5 pears", "5", "last_number"),
    ],
)
def test_the_final_answer_is_found(response: str, answer: str, rule: str) -> None:
    found = find_answer(response, auto=MATH_RULES)
    assert (found.text, found.rule) == (answer, rule)


def test_the_seed_answer_with_spaces_in_its_number_is_one_number() -> None:
    assert find_answer("The 50-th Fibonacci number is 12 586 269 025.").text == "12 586 269 025"


@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning"])
def test_each_family_of_thinking_tags_is_cut_off(tag: str) -> None:
    parts = split_thinking(f"<{tag}>a</{tag}>b")
    assert (parts.thinking, parts.answer, parts.is_open) == ("a", "b", False)
    assert split_thinking(f"prefilled</{tag}>b").thinking == "prefilled"
    assert split_thinking(f"<{tag}>a").is_open
    assert find_answer(f"<{tag}>\\boxed{{1}}</{tag}>none", "boxed").text is None


def test_thinking_that_begins_again_is_open() -> None:
    assert split_thinking("<think>a</think>b<think>c").is_open
    assert split_thinking("<think>a</think><think>c</think>d").answer == "d"


def test_several_different_answers_are_ambiguous_and_equal_ones_are_not() -> None:
    assert find_answer("<answer>3</answer><answer>4</answer>").is_ambiguous
    assert find_answer("\\boxed{3} or $\\boxed{4}$").text == "3, 4"
    assert find_answer("maybe 3 or 4").is_ambiguous
    assert not find_answer("<answer>3</answer><answer> 3 </answer>").is_ambiguous
    assert find_answer("\\boxed{3}. No, that was wrong since I forgot one: \\boxed{4}").text == "4"


def test_strict_mode_wants_closed_thinking_a_mark_and_one_tag() -> None:
    assert find_answer("so 5", strict=True).text is None
    assert find_answer("<think>x<answer>5</answer>", strict=True).text is None
    assert find_answer("<think>x<answer>5</answer>").text == "5"
    assert find_answer("<answer>5</answer><answer>5</answer>", strict=True).text is None
    assert find_answer("<think>x</think><answer>5</answer>", strict=True).text == "5"


def test_nothing_found_says_where_it_looked() -> None:
    assert find_answer("").reason == "nothing in the response"
    assert find_answer("<think>x</think> \n").reason == "nothing after the thinking"
    assert (
        find_answer("hello", auto=NUMBER_RULES).reason
        == "no final answer found by answer_tag, boxed, hash, sentence, last_number"
    )


def test_only_the_end_of_a_long_answer_is_searched() -> None:
    assert find_answer("\\boxed{1}" + " " * MAX_TAIL_CHARS).text is None
    assert find_answer("x" * 3_000_000 + "\\boxed{1}").text == "1"


@given(st.lists(PIECES, max_size=60).map("".join), st.sampled_from(["auto", *RULES]), st.booleans())
def test_any_soup_of_marks_gives_an_answer_from_the_text_or_a_reason(text: str, how: str, strict: bool) -> None:
    found = find_answer(text, how, strict=strict, auto=TEXT_RULES)  # type: ignore[arg-type]
    if found.text is None:
        assert found.reason
    elif not found.is_ambiguous:
        assert found.text in text
        assert found.rule is not None


@given(
    st.recursive(
        st.text("ab1 \\$", max_size=3), lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}")
    )
)
def test_a_box_around_balanced_text_is_found_whole(content: str) -> None:
    content = content.replace("\\", "")
    found = boxes(f"so {{}} \\boxed{{{content}}} }} {{")
    assert found[-1][3] == content


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "<answer>", "<answer>1</answer>", "\\boxed{1} or ", "answer is ", "1 or ", "{", "$", "1,", "1 000 "]
)
def test_a_megabyte_of_one_mark_is_read_to_its_end(piece: str) -> None:
    # Quadratic time would need hours here.
    find_answer(piece * (1_000_000 // len(piece)), auto=MATH_RULES)
