from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.numeric import parse_number, same_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12 586 269 025.", 12586269025),
        ("1,234.5", Fraction(2469, 2)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\dfrac12", Fraction(1, 2)),
        ("2 1/3", Fraction(7, 3)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        ("1.5e3", 1500),
        ("1e-3", Fraction(1, 1000)),
        (r"2 \times 10^{5}", 200000),
        ("$5", 5),
        (r"\$1,000.00", 1000),
        ("72 clips", 72),
        ("½", Fraction(1, 2)),
        ("−3", -3),
        ("＋３", 3),
        (r"1\,000", 1000),
        ("1{,}000", 1000),
        (r"\text{5}", 5),
        (r"\(5\)", 5),
        ("**5**", 5),
        ("30^\\circ", 30),
        (".5", Fraction(1, 2)),
        ("5 km", 5),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction | int) -> None:
    number = parse_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,2",
        "12,34",
        "1,23",
        "5 or 6",
        "3=3",
        "0.(3)",
        "1/0",
        "5x",
        "3i",
        "2 pi",
        "10!",
        "8:30",
        "1e99999",
        "9" * 2000,
        "nan",
        "2^3",
        "--5",
    ],
)
def test_what_is_not_one_number_is_none(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("gold", "other", "is_same"),
    [
        ("50%", "50", True),
        ("0.5", "50%", True),
        ("50", "0.5", False),
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
        ("1/3", "0.333334", False),
        ("0.333333", "1/3", True),
        ("0.0000001", "0.0000002", False),
        ("20000", "20001", False),
        ("5 km", "5 m", False),
        ("5 km", "5 kilometers", True),
        ("$5", "5 dollars", True),
        ("5 apples", "5 pears", True),
        ("1000", "1000.05", False),
        ("3", "300", False),
        ("123456.74", "123456.7", False),
    ],
)
def test_equality_of_numbers(gold: str, other: str, is_same: bool) -> None:
    left, right = parse_number(gold), parse_number(other)
    assert left is not None
    assert right is not None
    assert same_number(left, right) is is_same


@given(st.fractions(max_denominator=10**9), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}", "${}/{}$", " {} / {} "]))
def test_every_fraction_is_read_back(value: Fraction, layout: str) -> None:
    number = parse_number(layout.format(value.numerator, value.denominator))
    assert number is not None
    assert number.value == value


@given(st.integers(-(10**30), 10**30), st.sampled_from([",", " ", "\u202f", "{,}", "\\,", ""]))
def test_every_integer_is_read_back_with_any_separator(value: int, separator: str) -> None:
    number = parse_number(f"{value:,}".replace(",", separator))
    assert number is not None
    assert number.value == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12))
def test_every_decimal_is_read_back(value: object) -> None:
    number = parse_number(str(value) if "E" not in str(value) else format(value, "f"))
    assert number is not None
    assert number.value == Fraction(str(value))
    assert same_number(number, number)


@given(st.text(max_size=60))
def test_no_text_makes_it_fail(text: str) -> None:
    parse_number(text)
