"""Compare what a program printed with what it should have printed, in time linear in both.

- tokens: words separated by white space, with a tolerance where both are decimal numbers: |a - b| <= tolerance * max(1, |b|).
- lines: line by line, white space at the ends of lines and at the end of the text aside.
- numbers: as `lines`, but a line of numbers equals one with the same values ("1.0" and "1"). This is LiveCodeBench's rule.
- exact: byte by byte.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

CheckerKind: TypeAlias = Literal["tokens", "lines", "numbers", "exact"]

MAX_NUMBER_CHARS = 400
MAX_SHOWN_CHARS = 60

_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Checker:
    """How outputs are compared. Tolerance and case belong to `tokens`."""

    kind: CheckerKind = "tokens"
    float_tolerance: float | None = None
    is_case_sensitive: bool = True


def difference(output: bytes, expected: bytes, checker: Checker) -> str | None:
    """Where the output first differs from what was expected, in words; None where it is right.

    >>> difference(b"Case #1: 0.30000001 \\n", b"case #1: 0.3", Checker("tokens", 1e-6, False))
    >>> difference(b"1 2", b"1 3", Checker())
    "token 2 is '2', not '3'"
    """
    if output == expected:
        return None
    return _RULES[checker.kind](output, expected, checker)


def _exact(output: bytes, expected: bytes, checker: Checker) -> str | None:
    at = _first_difference(output, expected)
    line = expected.count(b"\n", 0, at) + 1
    return f"byte {at + 1} (line {line}) differs: {_show(output[at : at + 40])}, not {_show(expected[at : at + 40])}"


def _tokens(output: bytes, expected: bytes, checker: Checker) -> str | None:
    got, wanted = output.split(), expected.split()
    if not checker.is_case_sensitive:
        got, wanted = [token.lower() for token in got], [token.lower() for token in wanted]
    if got == wanted:
        return None
    for number, (one, other) in enumerate(zip(got, wanted, strict=False), 1):
        if one != other and not _is_near(one, other, checker.float_tolerance):
            return f"token {number} is {_show(one)}, not {_show(other)}"
    if len(got) != len(wanted):
        return f"{len(got)} tokens, not {len(wanted)}"
    return None


def _lines(output: bytes, expected: bytes, checker: Checker) -> str | None:
    return _by_line(output, expected, has_numbers=False)


def _numbers(output: bytes, expected: bytes, checker: Checker) -> str | None:
    return _by_line(output, expected, has_numbers=True)


def _by_line(output: bytes, expected: bytes, *, has_numbers: bool) -> str | None:
    got, wanted = (_stripped(text, at_both_ends=has_numbers) for text in (output, expected))
    for number, (one, other) in enumerate(zip(got, wanted, strict=False), 1):
        if one != other and not (has_numbers and _same_numbers(one, other)):
            return f"line {number} is {_show(one)}, not {_show(other)}"
    if len(got) != len(wanted):
        return f"{len(got)} lines, not {len(wanted)}"
    return None


def _stripped(text: bytes, *, at_both_ends: bool) -> list[bytes]:
    if at_both_ends:
        return [line.strip() for line in text.strip().split(b"\n")]
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _is_near(one: bytes, other: bytes, tolerance: float | None) -> bool:
    if tolerance is None or not (_is_number(one) and _is_number(other)):
        return False
    value, expected = float(one), float(other)
    if not (math.isfinite(value) and math.isfinite(expected)):
        return False
    return abs(value - expected) <= tolerance * max(1.0, abs(expected))


def _same_numbers(one: bytes, other: bytes) -> bool:
    got, wanted = one.split(), other.split()
    return len(got) == len(wanted) and all(
        a == b or (_is_number(a) and _is_number(b) and Decimal(a.decode()) == Decimal(b.decode()))
        for a, b in zip(got, wanted, strict=True)
    )


def _is_number(token: bytes) -> bool:
    return len(token) <= MAX_NUMBER_CHARS and _NUMBER.fullmatch(token) is not None


def _first_difference(one: bytes, other: bytes) -> int:
    """The index of the first byte that differs; the shorter one's length where it is the beginning of the other."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # halving: every step compares half as much as the one before
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _show(token: bytes) -> str:
    text = token[:MAX_SHOWN_CHARS].decode("utf-8", "backslashreplace")
    return f"{text!r}{'…' if len(token) > MAX_SHOWN_CHARS else ''}"


_RULES = {"tokens": _tokens, "lines": _lines, "numbers": _numbers, "exact": _exact}
