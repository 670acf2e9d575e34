from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.algebra.answers import read_answer
from rlvr.verifiers.algebra.decide import decide, readings
from rlvr.verifiers.algebra.expressions import read_expression
from rlvr.verifiers.algebra.kinds import Congruence, Matrix, Ratio, Region, Relation, Scalar, Sequence, Words
from rlvr.verifiers.algebra.points import constant_value
from rlvr.verifiers.algebra.tokens import UnreadableError, tokenize
from rlvr.verifiers.algebra.units import are_compatible, unit_name
from rlvr.verifiers.algebra.values import TooLargeError, UndefinedError, evaluate


def value(text: str, **point: Fraction) -> object:
    node, rest = read_expression(tokenize(text))
    assert not rest
    return evaluate(node, point)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1+2*3", 7), ("2^3^2", 512), ("-2^2", -4), ("(-2)^2", 4), ("2\\frac{1}{3}", Fraction(7, 3)),
        ("\\frac12", Fraction(1, 2)),
        ("\\frac1{72}", Fraction(1, 72)), ("6/2(3)", 9), ("\\sqrt{9}", 3), ("\\sqrt[3]{-8}", -2), ("4^{1/2}", 2), ("5!", 120),
        ("\\binom{5}{2}", 10), ("|-3|", 3), ("\\lfloor -2.5 \\rfloor", -3), ("\\lceil 2.5 \\rceil", 3),
        ("0.\\overline{12}", Fraction(4, 33)),
        ("1.5e3", 1500), ("\\gcd(12, 18)", 6), ("\\max(1, 7, 3)", 7), ("2 1/3", Fraction(7, 3)), ("10^{-2}", Fraction(1, 100)),
        ("\\sqrt{\\frac{4}{9}}", Fraction(2, 3)), ("3^2 4^2", 144),
    ],
)  # fmt: skip
def test_rational_expressions_are_exact(text: str, expected: object) -> None:
    assert value(text) == expected
    assert isinstance(value(text), Fraction)


@pytest.mark.parametrize("text", ["1/0", "\\frac{1}{2-2}", "\\ln 0", "\\infty", "0^{-1}", "\\tan(0)^{-1}", "(-1)!"])
def test_what_has_no_value_is_undefined(text: str) -> None:
    with pytest.raises(UndefinedError):
        value(text)


@pytest.mark.parametrize("text", ["(10^9)!", "\\binom{10^9}{5}", "10^{10^{10^{10}}}", "\\sin(10^{99})", "e^{10^{20}}", "5000!"])
def test_what_would_take_long_is_refused(text: str) -> None:
    with pytest.raises(TooLargeError):
        value(text)


@pytest.mark.parametrize(
    "text", ["", "+", "\\frac{1}", "(1", "1)", "\\foo", "2 3", "x_", "((((" * 20, "\\sqrt" * 300, "x " * 3_000]
)
def test_what_is_not_mathematics_is_unreadable_and_nothing_else(text: str) -> None:
    with pytest.raises(UnreadableError):
        read_answer(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x = 5", Scalar), ("1, 2", Sequence), ("(1, 2)", Sequence), ("\\{1\\}", Sequence), ("[0, 1)", Region), ("x < 3", Region),
        ("2x + y = 3", Relation), ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", Matrix), ("3 : 4", Ratio),
        ("n \\equiv 1 \\pmod 5", Congruence),
        ("\\text{even}", Words), ("\\mathbb{R}", Region), ("5 \\text{ km}", Scalar), ("50\\%", Scalar), ("\\pm 1", Sequence),
    ],
)  # fmt: skip
def test_an_answer_is_read_as_what_it_is(text: str, kind: type) -> None:
    assert isinstance(read_answer(text), kind)


def test_commas_may_group_digits_or_separate_values() -> None:
    assert len(readings("100,200")) == 2
    assert len(readings("1,2")) == 1


@given(
    st.text(alphabet="0123456789xyn+-*/^(){}[]\\, =<>|!.%$_ifracsqrtpm&", max_size=60),
    st.sampled_from(["3", "x+1", "(1,2)", "x<3"]),
)
def test_no_text_breaks_it_or_takes_long(text: str, gold: str) -> None:
    start = time.process_time()
    decision = decide(gold, text)
    assert decision.gold_error is None
    assert time.process_time() - start < 2.0


@given(st.fractions(max_denominator=1_000, min_value=-1_000, max_value=1_000))
def test_every_fraction_in_every_notation_is_itself(fraction: Fraction) -> None:
    top, bottom = fraction.numerator, fraction.denominator
    for text in (
        f"{top}/{bottom}",
        f"\\frac{{{top}}}{{{bottom}}}",
        f"\\frac{{{2 * top}}}{{{2 * bottom}}}",
        f"({top})/({bottom})",
    ):
        assert decide(str(fraction), text).is_equal is True
    assert decide(str(fraction), f"{top + 1}/{bottom}").is_equal is False


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True))
def test_order_counts_in_tuples_and_not_in_sets(values: list[int]) -> None:
    forth, back = ", ".join(map(str, values)), ", ".join(map(str, reversed(values)))
    assert decide(f"\\{{{forth}\\}}", f"\\{{{back}\\}}").is_equal is True
    assert decide(f"({forth})", f"({back})").is_equal is False


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "is_equal"),
    [
        ("interval", "(1,2)", "1 < x < 2", True), ("interval", "(1,2)", "[1,2]", False), ("tuple", "(1,2)", "1, 2", True),
        ("tuple", "(1,2)", "\\{1,2\\}", False), ("set", "1, 2", "2, 1", True), ("set", "\\{1,2\\}", "(1,2)", False),
        ("number", "5", "x+5", False), ("number", "0.5", "\\frac{1}{2}", True), ("unit", "5 km", "5", False),
        ("unit", "5 km", "5000 m", True),
        ("equation", "y = 2x", "2x", False), ("equation", "y = 2x", "2x - y = 0", True), ("expression", "y = 2x", "2x", True),
        ("percent", "50\\%", "0.5", True), ("text", "Isosceles", "an isosceles", True), ("text", "even", "odd", False),
        ("choice", "B", "(B) 12", True), ("choice", "B", "12", None),
        ("matrix", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1, 2)", True),
    ],
)  # fmt: skip
def test_the_type_of_the_gold_answer_decides_what_equals_it(kind: str, gold: str, answer: str, is_equal: bool | None) -> None:
    assert decide(gold, answer, kind).is_equal is is_equal  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "gold"), [("number", "x+1"), ("interval", "5"), ("matrix", "5"), ("unit", "5"), ("choice", "12"), ("text", " ")]
)
def test_a_gold_answer_of_another_type_is_our_fault(kind: str, gold: str) -> None:
    assert decide(gold, "5", kind).gold_error is not None  # type: ignore[arg-type]


def test_tolerance_is_a_choice() -> None:
    assert decide("3.14", "\\pi").is_equal is False
    assert decide("3.14", "\\pi", tolerance=0.01).is_equal is True
    assert decide("(1, 3.14)", "(1, \\pi)", tolerance=0.01).is_equal is True
    assert decide("3.14", "4", tolerance=0.01).is_equal is False


def test_units_convert_where_they_measure_the_same() -> None:
    assert are_compatible("km", "m") == 1000
    assert are_compatible("km", "kg") is None
    assert are_compatible("km/h", "m/s") == Fraction(5, 18)
    assert are_compatible("apple", "km") == 1
    assert unit_name(" square feet") == "ft^2"


def test_values_that_agree_in_thirty_digits_are_told_apart() -> None:
    node, _ = read_expression(tokenize("\\sqrt{10^{60}+1}-10^{30}"))
    assert constant_value(node) is not None
    assert decide("\\sqrt{10^{20}+1}", "10^{10}").is_equal is False
    assert decide("\\sqrt{10^{60}+1}", "10^{30}").is_equal is not True
