from __future__ import annotations

import asyncio
import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import CallError
from rlvr.tools.base import Scope
from rlvr.tools.calculator import MAX_CHARS, Calculator, evaluate, written

numbers = st.integers(0, 10**12)
expressions = st.recursive(
    numbers.map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*345", "4140"),
        ("2 + 3 * 4", "14"),
        ("-2**2", "-4"),
        ("2**3**2", "512"),
        ("2^-1", "0.5"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "1/3 (about 0.333333333333)"),
        ("-7/4", "-1.75"),
        ("7 // 2 - 7 % 2", "2"),
        ("10! / (3! * 7!)", "120"),
        ("sqrt(16/9)", "4/3 (about 1.33333333333)"),
        ("4**(1/2)", "2"),
        ("max(1, 234)", "234"),
        ("round(2.5) + round(-2.5)", "0"),
        ("round(2.345, 2)", "2.35"),
        ("comb(50, 25)", "126410606437752"),
        ("3 × 4 ÷ 2 − 1", "5"),
        ("1_000 * 1e3", "1000000"),
        ("123456789 * 987654321", "121932631112635269"),
    ],
)
def test_values_are_exact(expression: str, value: str) -> None:
    assert written(evaluate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "empty"),
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("2 3", "did not expect '3'"),
        ("1,234 + 1", "numbers are written without separators"),
        ("sqrt(2)", "not rational; it is about 1.41421356237"),
        ("sqrt(-1)", "negative"),
        ("(1+2", "expected '\\)', but the expression ends"),
        ("import os", "unknown name 'import'"),
        ("__import__('os')", "cannot read"),
        ("open(1)", "unknown name 'open'; functions: abs, "),
        ("9**9**9", "too large"),
        ("2**99999999", "too large"),
        ("99999!", "a factorial needs an integer"),
        ("1e999999", "cannot read|too large|did not expect"),
        ("(" * 60 + "1" + ")" * 60, "nested more than 50 deep"),
        ("1" * (MAX_CHARS + 1), "at most 2000 are read"),
        ("gcd(1.5, 2)", "needs integers"),
        ("round(1, 2, 3)", "takes 1 to 2 values"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_words(expression: str, reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        evaluate(expression)


@given(expressions)
def test_integers_agree_with_pythons_own_arithmetic(expression: str) -> None:
    try:
        wanted = eval(expression)  # noqa: S307 - of integers and signs that this test made
    except ZeroDivisionError:
        with pytest.raises(CallError, match="division by zero"):
            evaluate(expression)
    else:
        assert evaluate(expression) == wanted


@given(st.text(max_size=60))
def test_no_text_does_anything_but_give_a_value_or_a_reason(text: str) -> None:
    with contextlib.suppress(CallError):
        assert isinstance(evaluate(text), Fraction)


@pytest.mark.parametrize(
    "expression",
    [
        "+".join(["3**12000/7**7000"] * 100),
        "*".join(["1000!"] * 300),
        "lcm(" + ",".join(str(n) for n in range(2, 400)) + ")",
        "-" * 1990 + "1",
    ],
)
def test_the_cost_of_an_expression_is_bounded(expression: str) -> None:
    started = time.process_time()
    with contextlib.suppress(CallError):
        evaluate(expression)
    assert time.process_time() - started < 2.0


def test_large_values_are_written_whole() -> None:
    assert written(evaluate("10**5000 + 1")) == "1" + "0" * 4999 + "1"
    assert written(evaluate("-(10**5000)")) == "-1" + "0" * 5000


def test_the_tool_takes_one_expression() -> None:
    tool = Calculator()
    assert tool.spec.text_argument == "expression"
    assert asyncio.run(tool.call({"expression": "6*7"}, Scope())) == "42"
