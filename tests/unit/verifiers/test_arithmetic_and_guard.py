from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.arithmetic import MAX_EXPRESSION_CHARS, ExpressionError, evaluate
from rlvr.verifiers.guard import hazard

Tree = tuple[str, Fraction | None, tuple[int, ...]]


def combine(parts: tuple[Tree, str, Tree]) -> Tree:
    (left, left_value, left_numbers), sign, (right, right_value, right_numbers) = parts
    value: Fraction | None = None
    if left_value is not None and right_value is not None and not (sign == "/" and right_value == 0):
        value = {
            "+": left_value + right_value,
            "-": left_value - right_value,
            "*": left_value * right_value,
            "/": left_value / (right_value or 1),
        }[sign]
    return f"({left} {sign} {right})", value, left_numbers + right_numbers


LEAVES = st.integers(0, 999).map(lambda number: (str(number), Fraction(number), (number,)))
TREES = st.recursive(LEAVES, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(combine), max_leaves=8)


@given(TREES)
def test_expressions_have_the_value_of_their_tree(tree: Tree) -> None:
    text, value, numbers = tree
    if value is None:
        with pytest.raises(ExpressionError, match="divides by zero"):
            evaluate(text)
    else:
        result = evaluate(text)
        assert (result.value, result.numbers) == (value, numbers)


def test_precedence_and_signs() -> None:
    assert evaluate("2 + 3 * 4 - 6 / 2").value == 11
    assert evaluate("8 - 3 - 2").value == 3
    assert evaluate("16 / 4 / 2").value == 2
    assert evaluate("-(3 - 5)").value == 2
    assert evaluate(r"$\left[2 \times 3\right] \div 4$").value == Fraction(3, 2)


@pytest.mark.parametrize(
    "text", ["", "1 +", "(1", "1)", "2**3", "2 3", "1.5", "x", "2(3)", "1//2", "()", "9" * 30, "1+" * MAX_EXPRESSION_CHARS + "1"]
)
def test_malformed_expressions_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


def test_the_deepest_expression_allowed_is_evaluated() -> None:
    depth = MAX_EXPRESSION_CHARS // 2 - 1
    assert evaluate("(" * depth + "7" + ")" * depth).value == 7


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9}}",
        "9**9**9",
        "10^{100000000}",
        "10**100000000",
        "(10^9)^{(10^9)}",
        "(10^{9})!",
        "100000000!",
        "5!!",
        "2^{2^{2^{2^{2^{2}}}}}",
        "(((" * 20 + ")))" * 20,
        "1+" * 400 + "1",
        "x^{9^{9^{9}}}",
        "\\left(9\\right)^{999999}",
    ],
)
def test_what_would_not_end_is_refused(text: str) -> None:
    assert hazard(text)


@pytest.mark.parametrize(
    "text",
    [
        "2^{10}",
        "2^{2^{3}}",
        "10^{6}",
        "x^{2^{n}}",
        "(a+b)^2",
        "20!",
        "2004!",
        "\\frac{1}{2^{99}}",
        "e^{i\\pi}",
        "1.5 \\times 10^{-3}",
        "n!",
        "(n+1)!",
        "x^{100}",
        "2^{100}",
        "3^{-2}",
        "\\binom{100}{50}",
        "(1+\\sqrt{2})^{10}",
    ],
)
def test_ordinary_mathematics_is_let_through(text: str) -> None:
    assert hazard(text) is None


@given(st.text("0123456789^*!(){}xn+-\\ ", max_size=200))
def test_no_text_makes_the_guard_fail(text: str) -> None:
    hazard(text)
