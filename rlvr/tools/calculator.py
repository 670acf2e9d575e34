"""Exact arithmetic for a model: integers, fractions and decimals, in bounded time, and nothing that could run code.

Numbers are rationals throughout. What is not rational (most roots, logarithms) is refused rather than rounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rlvr.errors import CallError
from rlvr.tools.base import Scope, ToolSpec
from rlvr.types import JSON

MAX_CHARS = 2_000
MAX_BITS = 20_000  # of a numerator or denominator: 6,000 digits, for which a sum still takes less than a millisecond
MAX_NESTING = 50
MAX_FACTORIAL = 2_000
_SHOWN_DIGITS = 12  # of a fraction without an end
_MAX_DECIMALS = 30  # of a decimal that ends

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign>\*\*|//|[-+*/%^()!,×·÷−]))"
)
_SAME = {"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-"}

Value = Fraction


@dataclass(frozen=True, slots=True)
class _Function:
    fewest: int
    most: int
    compute: Callable[..., Value]


class Calculator:
    """The tool `calculator`: one expression in, its exact value out."""

    is_ordered = False

    @property
    def spec(self) -> ToolSpec:
        return _SPEC

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> str:
        """
        Raises:
            CallError: not an expression, too large, or without an exact value.
        """
        return written(evaluate(arguments["expression"]))


_SPEC = ToolSpec(
    "calculator",
    "Computes an arithmetic expression exactly: + - * / // % ** ! and parentheses, and the functions abs, ceil, comb, factorial, "
    "floor, gcd, lcm, max, min, perm, round, sqrt.",
    {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": 'for example "(3/4 + 2) * 12**5"'}},
        "required": ["expression"],
    },
)


def evaluate(expression: str) -> Fraction:
    """The exact value of `expression`.

    Raises:
        CallError: says what is wrong, in words for the model.
    """
    if len(expression) > MAX_CHARS:
        raise CallError(f"the expression has {len(expression)} characters; at most {MAX_CHARS} are read")
    parser = _Parser(_tokens(expression))
    value = parser.sum()
    if parser.token:
        hint = "; numbers are written without separators" if parser.token == "," else ""
        raise CallError(f"did not expect {parser.token!r}{hint}")
    return value


def written(value: Fraction) -> str:
    """An integer, a decimal that ends, or a fraction with its first decimals.

    >>> [written(Fraction(*pair)) for pair in ((6, 2), (-7, 4), (1, 3))]
    ['3', '-1.75', '1/3 (about 0.333333333333)']
    """
    if value.denominator == 1:
        return _digits(value.numerator)
    decimals = _decimals(value.denominator)
    if decimals is not None and decimals <= _MAX_DECIMALS:
        sign = "-" if value < 0 else ""
        whole, rest = divmod(abs(value.numerator) * 10**decimals // value.denominator, 10**decimals)
        return f"{sign}{_digits(whole)}.{rest:0{decimals}d}"
    return f"{_digits(value.numerator)}/{_digits(value.denominator)} (about {_about(value)})"


def _about(value: Fraction) -> str:
    try:
        return f"{float(value):.{_SHOWN_DIGITS}g}"
    except OverflowError:
        return f"{'-' if value < 0 else ''}10^{len(_digits(abs(int(value)))) - 1}"


def _digits(number: int) -> str:
    """Like str(), which refuses numbers of more than 4300 digits for its quadratic time; ours are bounded by MAX_BITS."""
    if number.bit_length() < 14_000:
        return str(number)
    if number < 0:
        return f"-{_digits(-number)}"
    half = int(number.bit_length() * 0.15)
    high, low = divmod(number, 10**half)
    return _digits(high) + _digits(low).zfill(half)


def _decimals(denominator: int) -> int | None:
    """How many decimals 1/denominator has; None if it has no end."""
    counts = []
    for prime in (2, 5):
        count = 0
        while denominator % prime == 0 and count <= _MAX_DECIMALS:
            denominator //= prime
            count += 1
        counts.append(count)
    return max(counts) if denominator == 1 else None


def _tokens(expression: str) -> list[str]:
    found: list[str] = []
    position = 0
    text = expression.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise CallError(f"cannot read {text[position : position + 20].strip()!r}")
        token = match["number"] or match["name"] or match["sign"]
        found.append(_SAME.get(token, token))
        position = match.end()
    if not found:
        raise CallError("the expression is empty")
    return found


class _Parser:
    """Recursive descent; every operation checks the size of its result before it computes it."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._index = 0
        self._depth = 0

    @property
    def token(self) -> str:
        """The next token; empty at the end."""
        return self._tokens[self._index] if self._index < len(self._tokens) else ""

    def sum(self) -> Value:
        value = self._product()
        while self.token in ("+", "-"):
            sign = self._take()
            right = self._product()
            value = _checked(value + right if sign == "+" else value - right)
        return value

    def _product(self) -> Value:
        value = self._signed()
        while self.token in ("*", "/", "//", "%"):
            sign = self._take()
            value = _multiplicative(sign, value, self._signed())
        return value

    def _signed(self) -> Value:
        is_negative = False
        while self.token in ("+", "-"):
            is_negative ^= self._take() == "-"
        value = self._power()
        return -value if is_negative else value

    def _power(self) -> Value:
        base = self._postfix()
        if self.token != "**":
            return base
        self._take()
        self._enter()
        exponent = self._signed()
        self._depth -= 1
        return _raised(base, exponent)

    def _postfix(self) -> Value:
        value = self._atom()
        while self.token == "!":
            self._take()
            value = _factorial(value)
        return value

    def _atom(self) -> Value:
        token = self._take()
        if token == "(":
            self._enter()
            value = self.sum()
            self._expect(")")
            self._depth -= 1
            return value
        if token[:1].isdigit() or token[:1] == ".":
            return _number(token)
        if token in _FUNCTIONS:
            return self._called(token)
        if token[:1].isalpha() or token[:1] == "_":
            raise CallError(f"unknown name {token!r}; functions: {', '.join(_FUNCTIONS)}")
        raise CallError(f"expected a number, but got {token!r}" if token else "the expression ends too early")

    def _called(self, name: str) -> Value:
        self._expect("(")
        self._enter()
        values = [self.sum()]
        while self.token == ",":
            self._take()
            values.append(self.sum())
        self._expect(")")
        self._depth -= 1
        function = _FUNCTIONS[name]
        if not function.fewest <= len(values) <= function.most:
            raise CallError(f"{name} takes {_count_of(function)}, got {len(values)}")
        return _checked(function.compute(*values))

    def _take(self) -> str:
        token = self.token
        self._index += 1
        return token

    def _expect(self, token: str) -> None:
        got = self._take()
        if got != token:
            raise CallError(f"expected {token!r}, but " + (f"got {got!r}" if got else "the expression ends"))

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise CallError(f"nested more than {MAX_NESTING} deep")


def _number(token: str) -> Value:
    text = token.replace("_", "")
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_BITS // 4:
        raise CallError("the number is too large")
    return _checked(Fraction(text))


def _multiplicative(sign: str, left: Value, right: Value) -> Value:
    if sign == "*":
        _check_bits(_bits(left) + _bits(right))
        return left * right
    if right == 0:
        raise CallError("division by zero")
    _check_bits(_bits(left) + _bits(right))
    if sign == "/":
        return left / right
    return Fraction(left // right) if sign == "//" else left % right


def _raised(base: Value, exponent: Value) -> Value:
    if exponent.denominator != 1:
        if exponent == Fraction(1, 2):
            return _sqrt(base)
        raise CallError("an exponent must be an integer, or 1/2 of a square")
    power = exponent.numerator
    if base == 0 and power < 0:
        raise CallError("division by zero")
    if base not in (0, 1, -1):
        _check_bits(_bits(base) * abs(power))
    return Fraction(base**power) if base not in (0, 1, -1) else _trivial_power(base, power)


def _trivial_power(base: Value, power: int) -> Value:
    if base == -1:
        return Fraction(1 if power % 2 == 0 else -1)
    return Fraction(1) if power == 0 else base


def _sqrt(value: Value) -> Value:
    if value < 0:
        raise CallError("the square root of a negative number")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root != value:
        raise CallError(f"the square root of {written(value)[:40]} is not rational; it is about {_about_root(value)}")
    return root


def _about_root(value: Value) -> str:
    scaled = math.isqrt(value.numerator * 10**24 // value.denominator)
    return _about(Fraction(scaled, 10**12))


def _factorial(value: Value) -> Value:
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise CallError(f"a factorial needs an integer from 0 to {MAX_FACTORIAL}")
    return _checked(Fraction(math.factorial(value.numerator)))


def _chosen(n: Value, k: Value) -> Value:
    _check_counts("comb", n, k)
    return Fraction(math.comb(n.numerator, k.numerator))


def _arranged(n: Value, k: Value) -> Value:
    _check_counts("perm", n, k)
    return Fraction(math.perm(n.numerator, k.numerator))


def _check_counts(name: str, n: Value, k: Value) -> None:
    if any(one.denominator != 1 or not 0 <= one <= MAX_FACTORIAL for one in (n, k)):
        raise CallError(f"{name} needs integers from 0 to {MAX_FACTORIAL}")


def _integers(name: str, values: Sequence[Value]) -> list[int]:
    if any(value.denominator != 1 for value in values):
        raise CallError(f"{name} needs integers")
    return [value.numerator for value in values]


def _lcm(*values: Value) -> Value:
    numbers = _integers("lcm", values)
    _check_bits(sum(number.bit_length() for number in numbers))
    return Fraction(math.lcm(*numbers))


def _rounded(value: Value, digits: Value = Fraction(0)) -> Value:
    """Halves away from zero, as people round, not to even."""
    if digits.denominator != 1 or abs(digits) > 1000:
        raise CallError("round takes an integer number of digits, at most 1000")
    scale = Fraction(10) ** digits.numerator
    return Fraction(math.floor(abs(value) * scale + Fraction(1, 2))) / scale * (-1 if value < 0 else 1)


_MANY = 100
_FUNCTIONS = {
    "abs": _Function(1, 1, abs),
    "ceil": _Function(1, 1, lambda value: Fraction(math.ceil(value))),
    "comb": _Function(2, 2, _chosen),
    "factorial": _Function(1, 1, _factorial),
    "floor": _Function(1, 1, lambda value: Fraction(math.floor(value))),
    "gcd": _Function(1, _MANY, lambda *values: Fraction(math.gcd(*_integers("gcd", values)))),
    "lcm": _Function(1, _MANY, _lcm),
    "max": _Function(1, _MANY, lambda *values: max(values)),
    "min": _Function(1, _MANY, lambda *values: min(values)),
    "perm": _Function(2, 2, _arranged),
    "round": _Function(1, 2, _rounded),
    "sqrt": _Function(1, 1, _sqrt),
}


def _count_of(function: _Function) -> str:
    if function.most == _MANY:
        return f"{function.fewest} or more values"
    return f"{function.fewest} value(s)" if function.fewest == function.most else f"{function.fewest} to {function.most} values"


def _bits(value: Value) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise CallError(f"the result is too large: more than {MAX_BITS * 3 // 10:,} digits")


def _checked(value: Value) -> Value:
    _check_bits(_bits(value))
    return value
