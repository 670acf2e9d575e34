"""What a program printed against what it should have printed."""

from __future__ import annotations

import time

import pytest

from rlvr.verifiers.code_checkers import Checker, difference

TOKENS, LINES, NUMBERS, EXACT = Checker("tokens"), Checker("lines"), Checker("numbers"), Checker("exact")


@pytest.mark.parametrize(
    ("output", "expected", "checker", "found"),
    [
        (b"1  2\n\n3 \n", b"1 2\n3", TOKENS, None),
        (b"1 2 3", b"1 2", TOKENS, "3 tokens, not 2"),
        (b"1", b"1 2", TOKENS, "1 tokens, not 2"),
        (b"", b"1", TOKENS, "0 tokens, not 1"),
        (b"case #1: yes", b"Case #1: YES", TOKENS, "token 1 is 'case', not 'Case'"),
        (b"case #1: yes", b"Case #1: YES", Checker("tokens", is_case_sensitive=False), None),
        (b"0.3000001", b"0.3", TOKENS, "token 1 is '0.3000001', not '0.3'"),
        (b"0.3000001", b"0.3", Checker("tokens", 1e-6), None),
        (b"1000001", b"1000000", Checker("tokens", 1e-6), None),  # relative beyond 1
        (b"1000002", b"1000000", Checker("tokens", 1e-6), "token 1 is '1000002', not '1000000'"),
        (b"nan", b"0.3", Checker("tokens", 1e-6), "token 1 is 'nan', not '0.3'"),
        (b"inf", b"1e308", Checker("tokens", 1e-6), "token 1 is 'inf', not '1e308'"),
        (b"1e999999999", b"1", Checker("tokens", 1e-6), "token 1 is '1e999999999', not '1'"),
        (b"1_0", b"10", Checker("tokens", 1e-6), "token 1 is '1_0', not '10'"),
        (b"0x10", b"16", Checker("tokens", 1e-6), "token 1 is '0x10', not '16'"),
        (b"a \nb\n\n\n", b"a\nb", LINES, None),
        (b"a b", b"a  b", LINES, "line 1 is 'a b', not 'a  b'"),
        (b" a", b"a", LINES, "line 1 is ' a', not 'a'"),
        (b"a\n\nb", b"a\nb", LINES, "line 2 is '', not 'b'"),
        (b"1.0 2\n", b"1 2.00", NUMBERS, None),
        (b" 1 2 ", b"1 2", NUMBERS, None),
        (b"1\n2", b"1 2", NUMBERS, "line 1 is '1', not '1 2'"),
        (b"1.00000000001", b"1", NUMBERS, "line 1 is '1.00000000001', not '1'"),
        (b"yes 1", b"yes 1.0", NUMBERS, None),
        (b"a\n", b"a", EXACT, "byte 2 (line 1) differs: '\\n', not ''"),
        (b"a\nb", b"a\nc", EXACT, "byte 3 (line 2) differs: 'b', not 'c'"),
        (b"a", b"a", EXACT, None),
        (b"\xff\xfe", b"a", TOKENS, "token 1 is '\\\\xff\\\\xfe', not 'a'"),
        (b"\x00", b"a", TOKENS, "token 1 is '\\x00', not 'a'"),
    ],
)
def test_an_output_is_right_or_its_first_difference_is_named(
    output: bytes, expected: bytes, checker: Checker, found: str | None
) -> None:
    assert difference(output, expected, checker) == found


@pytest.mark.parametrize("checker", [TOKENS, Checker("tokens", 1e-6, is_case_sensitive=False), LINES, NUMBERS, EXACT])
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"7 " * 3_000_000 + b"8", b"7 " * 3_000_000 + b"9"),
        (b"7\n" * 3_000_000 + b"8", b"7\n" * 3_000_000 + b"9"),
        (b"7" * 10_000_000, b"7" * 9_999_999 + b"8"),
        (b" " * 10_000_000, b"7"),
        (b"\n" * 10_000_000, b"7"),
    ],
    ids=["words", "lines", "one word", "blanks", "line ends"],
)
def test_ten_megabytes_take_linear_time_and_the_reason_stays_short(output: bytes, expected: bytes, checker: Checker) -> None:
    start = time.perf_counter()
    found = difference(output, expected, checker)
    assert time.perf_counter() - start < 20.0  # a quadratic rule would take hours
    assert found is not None
    assert len(found) < 300
