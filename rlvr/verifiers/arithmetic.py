"""Evaluate `+ - * /` and parentheses over whole numbers, exactly, without `eval`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPRESSION_CHARS = 500
MAX_NUMBER_DIGITS = 18

_TOKEN = re.compile(r"\s*(?:(\d+)|([-+*/()]))")
_SAME = str.maketrans({"×": "*", "·": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")", "{": "(", "}": ")"})
_LATEX = ((r"\times", "*"), (r"\cdot", "*"), (r"\div", "/"), (r"\left", ""), (r"\right", ""), (r"\(", ""), (r"\)", ""), ("$", ""))


class ExpressionError(ValueError):
    """The text is not an expression that can be evaluated; says where."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An expression's exact value and the numbers it uses, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Evaluated:
    """The value of an expression over whole numbers.

    >>> evaluate("(30 - 100) + 93").value
    Fraction(23, 1)

    Raises:
        ExpressionError: too long, malformed, or divides by zero.
    """
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {MAX_EXPRESSION_CHARS} are read")
    for command, sign in _LATEX:
        text = text.replace(command, sign)
    return _Parser(text.translate(_SAME)).parse()


class _Parser:
    """Recursive descent; the depth is bounded by the length of the text."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        self._at = 0
        self._numbers: list[int] = []
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ExpressionError(f"{text[position : position + 20]!r} is neither a whole number nor one of + - * / ( )")
            self._tokens.append(match[1] or match[2])
            position = match.end()

    def parse(self) -> Evaluated:
        value = self._sum()
        if self._at < len(self._tokens):
            raise ExpressionError(f"{self._tokens[self._at]!r} is out of place")
        return Evaluated(value, tuple(self._numbers))

    def _sum(self) -> Fraction:
        value = self._product()
        while self._next() in ("+", "-"):
            is_plus = self._take() == "+"
            term = self._product()
            value = value + term if is_plus else value - term
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while self._next() in ("*", "/"):
            is_times = self._take() == "*"
            factor = self._factor()
            if not is_times and factor == 0:
                raise ExpressionError("divides by zero")
            value = value * factor if is_times else value / factor
        return value

    def _factor(self) -> Fraction:
        token = self._take()
        if token == "-":
            return -self._factor()
        if token == "(":
            value = self._sum()
            if self._take() != ")":
                raise ExpressionError("a parenthesis is not closed")
            return value
        if not token.isdigit() or len(token) > MAX_NUMBER_DIGITS:
            raise ExpressionError(f"{token[:20] or 'the end'!r} stands where a number should")
        self._numbers.append(int(token))
        return Fraction(int(token))

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._at += 1
        return token
