"""The value of an expression at a point: exact where it is rational, else to 30 digits. Every operation is bounded."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from rlvr.errors import VerifierError, boundary
from rlvr.verifiers.algebra.expressions import Node
from rlvr.verifiers.algebra.tokens import UnreadableError

DIGITS = 30
MAX_BITS = 70_000  # of an exact rational
MAX_MAGNITUDE = 1e9  # binary digits of a power's size
MAX_COMBINATORIAL = 3_000

Value: TypeAlias = Any  # Fraction, or an mpmath number


class UndefinedError(ArithmeticError):
    """The expression has no finite value here."""


class TooLargeError(UnreadableError):
    """Evaluating it would take too long."""


_local = threading.local()


def context(digits: int = DIGITS) -> Any:
    """This thread's mpmath context. mpmath changes a context's precision while it works, so threads must not share one."""
    contexts = _local.__dict__.setdefault("contexts", {})
    if digits not in contexts:
        with boundary(VerifierError, "'math' needs mpmath; pip install 'rlvr[math]'"):
            from mpmath.ctx_mp import MPContext
        contexts[digits] = MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


def evaluate(node: Node, point: Mapping[str, Value], *, digits: int = DIGITS, log_base: int = 0) -> Value:
    r"""The value of `node` where its symbols are those of `point`. `log_base` is that of a bare \log; 0 means e.

    Raises:
        UndefinedError: a division by zero, infinity, or a symbol that `point` lacks.
        TooLargeError: it would take too long.
    """
    return _Evaluator(point, context(digits), log_base).value(node)


def to_real(value: Value) -> Any:
    """A comparable real number, or None for one with an imaginary part."""
    if isinstance(value, Fraction):
        return value
    if hasattr(value, "imag") and value.imag != 0:
        return None if abs(value.imag) > 1e-18 * max(1, abs(value.real)) else value.real
    return value.real


class _Evaluator:
    def __init__(self, point: Mapping[str, Value], mp: Any, log_base: int) -> None:
        self.point = point
        self.mp = mp
        self.log_base = log_base
        self._is_in_angle = False

    def value(self, node: Node) -> Value:
        kind = node.kind
        if kind == "number":
            return node.value
        if kind == "symbol":
            if node.name not in self.point:
                raise UndefinedError(f"{node.name} has no value")
            return self.point[node.name]
        if kind == "constant":
            return self._constant(node.name)
        if kind == "degrees":
            value = self.value(node.args[0])
            return self.inexact(value) * self.mp.pi / 180 if self._is_in_angle else value
        operation = _OPERATIONS.get(kind)
        if operation is not None:
            return operation(self, *(self.value(arg) for arg in node.args))
        return self._function(kind, node.args)

    def inexact(self, value: Value) -> Any:
        return self.mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def _constant(self, name: str) -> Any:
        if name == "infty":
            raise UndefinedError("infinity")
        return {"pi": self.mp.pi + 0, "e": self.mp.e + 0, "i": self.mp.mpc(0, 1)}[name]

    def _function(self, name: str, args: tuple[Node, ...]) -> Value:
        was_in_angle, self._is_in_angle = self._is_in_angle, name in _TRIGONOMETRIC
        values = [self.value(arg) for arg in args]
        self._is_in_angle = was_in_angle
        if name in ("gcd", "lcm"):
            if not all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
                raise UndefinedError(name)
            whole = [int(value) for value in values]
            return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))
        if name in ("max", "min"):
            reals = [to_real(value) for value in values]
            if None in reals:
                raise UndefinedError(name)
            return (max if name == "max" else min)(reals, key=self.inexact)
        if name == "lg" or (name == "log" and self.log_base):
            return self._finite(lambda: self.mp.ln(self.inexact(values[0])) / self.mp.ln(self.log_base or 10))
        x = self.inexact(values[0])
        if name in _TRIGONOMETRIC and abs(x) > 1e50:
            raise TooLargeError("an angle is too large")
        if name in ("sinh", "cosh", "tanh", "coth", "exp") and abs(x) > 1e6:
            raise TooLargeError("an exponent is too large")
        function = getattr(self.mp, _MPMATH_NAMES.get(name, name), None)
        if function is None:
            raise UnreadableError(f"{name} is not evaluated")
        return self._finite(lambda: function(x))

    def _finite(self, compute: Callable[[], Value]) -> Value:
        try:
            value = compute()
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            raise UndefinedError(str(error)) from error
        if not self.mp.isfinite(value):
            raise UndefinedError("infinity")
        return value

    def add(self, *terms: Value) -> Value:
        if all(isinstance(term, Fraction) for term in terms):
            return _bounded(sum(terms, Fraction(0)))
        return sum((self.inexact(term) for term in terms), self.mp.mpf(0))

    def multiply(self, *factors: Value) -> Value:
        product = factors[0]
        for factor in factors[1:]:
            if isinstance(product, Fraction) and isinstance(factor, Fraction):
                product = _bounded(product * factor)
            else:
                product = self.inexact(product) * self.inexact(factor)
        return product

    def divide(self, left: Value, right: Value) -> Value:
        if right == 0:
            raise UndefinedError("a division by zero")
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _bounded(left / right)
        return self._finite(lambda: self.inexact(left) / self.inexact(right))

    def negate(self, value: Value) -> Value:
        return -value

    def power(self, base: Value, exponent: Value) -> Value:
        if isinstance(exponent, Fraction) and isinstance(base, Fraction):
            if exponent.denominator == 1 and (exact := _exact_power(base, int(exponent))) is not None:
                return exact
            if 1 < exponent.denominator <= 1000 and abs(exponent) < 64:
                return self.power(self.root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
        if base == 0:
            real = to_real(exponent)
            if real is None or real <= 0:
                raise UndefinedError("a power of zero")
            return Fraction(0)
        x, y = self.inexact(base), self.inexact(exponent)
        if abs(y) > MAX_MAGNITUDE or abs(y * self.mp.ln(abs(x))) > MAX_MAGNITUDE:
            raise TooLargeError("a power is too large")
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            return self._finite(lambda: x ** int(exponent))
        return self._finite(lambda: self.mp.power(x, y))

    def root(self, radicand: Value, index: Value) -> Value:
        if not isinstance(index, Fraction) or index.denominator != 1 or not 0 < abs(index) <= 1000:
            return self.power(radicand, self.divide(Fraction(1), index))
        degree = int(index)
        if degree < 0:
            return self.divide(Fraction(1), self.root(radicand, Fraction(-degree)))
        if isinstance(radicand, Fraction):
            if (exact := _exact_root(radicand, degree)) is not None:
                return exact
            if radicand < 0 and degree % 2 == 1:
                return -self.mp.root(self.inexact(-radicand), degree)  # the real root, as schools have it
        value = self.inexact(radicand)
        real = to_real(value)
        if degree % 2 == 1 and real is not None and real < 0:
            return -self.mp.root(-real, degree)
        return self._finite(lambda: self.mp.root(value, degree))

    def absolute(self, value: Value) -> Value:
        return abs(value)

    def factorial(self, value: Value) -> Value:
        if isinstance(value, Fraction) and value.denominator == 1:
            if not 0 <= value <= MAX_COMBINATORIAL:
                raise TooLargeError("a factorial is too large") if value > 0 else UndefinedError("a factorial")
            return Fraction(math.factorial(int(value)))
        x = self.inexact(value)
        if abs(x) > MAX_COMBINATORIAL:
            raise TooLargeError("a factorial is too large")
        return self._finite(lambda: self.mp.gamma(x + 1))

    def binomial(self, top: Value, bottom: Value) -> Value:
        for value in (top, bottom):
            if abs(value) > MAX_COMBINATORIAL:
                raise TooLargeError("a binomial coefficient is too large")
        if all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in (top, bottom)):
            return Fraction(math.comb(int(top), int(bottom)))
        return self._finite(lambda: self.mp.binomial(self.inexact(top), self.inexact(bottom)))

    def floor(self, value: Value) -> Value:
        real = to_real(value)
        if real is None:
            raise UndefinedError("the floor of a complex number")
        if abs(real) > 10**100:
            raise TooLargeError("the floor of a large number")
        return Fraction(math.floor(real) if isinstance(real, Fraction) else int(self.mp.floor(real)))

    def ceil(self, value: Value) -> Value:
        return -self.floor(-value)


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _Evaluator.add,
    "multiply": _Evaluator.multiply,
    "divide": _Evaluator.divide,
    "negate": _Evaluator.negate,
    "power": _Evaluator.power,
    "root": _Evaluator.root,
    "abs": _Evaluator.absolute,
    "factorial": _Evaluator.factorial,
    "binomial": _Evaluator.binomial,
    "floor": _Evaluator.floor,
    "ceil": _Evaluator.ceil,
}
_TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_MPMATH_NAMES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "arcsinh": "asinh",
    "arccosh": "acosh", "arctanh": "atanh", "log": "ln",
}  # fmt: skip


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 2 * MAX_BITS:
        raise TooLargeError("a number is too large")
    return value


def _exact_power(base: Fraction, exponent: int) -> Fraction | None:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base in (0, 1, -1) or bits * abs(exponent) <= MAX_BITS:
        if base == 0 and exponent < 0:
            raise UndefinedError("a division by zero")
        return base ** (exponent if base not in (0, 1, -1) else (exponent % 2 or 2 * (exponent != 0)))
    return None


@lru_cache(maxsize=512)
def _exact_root(radicand: Fraction, degree: int) -> Fraction | None:
    if radicand < 0:
        if degree % 2 == 0:
            return None
        positive = _exact_root(-radicand, degree)
        return None if positive is None else -positive
    top, bottom = _integer_root(radicand.numerator, degree), _integer_root(radicand.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    if value.bit_length() > 900:
        return None
    root = round(value ** (1 / degree))
    return next((guess for guess in (root - 1, root, root + 1) if guess >= 0 and guess**degree == value), None)
