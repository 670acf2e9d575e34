"""Compare expressions by their values at a few irregular points. Unequal at one point is unequal; equal at all is equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache

from rlvr.verifiers.algebra.expressions import Node
from rlvr.verifiers.algebra.tokens import UnreadableError
from rlvr.verifiers.algebra.values import UndefinedError, Value, context, evaluate, to_real

MAX_SYMBOLS = 14
MANY_DIGITS = 90
MAX_SECANT_STEPS = 40

_INTEGER_SYMBOLS = frozenset({"n", "k", "m", "N"})
_LOG_BASES = (0, 10)  # of a bare \log: authors and answers differ in which they mean


def same_expression(one: Node, other: Node) -> bool | None:
    """None where neither has a value at any point, or one of them is too large."""
    if one == other:
        return True
    if (infinite := (_infinity(one), _infinity(other))) != (0, 0):
        return infinite[0] == infinite[1]
    kinds = {*one.kinds(), *other.kinds()}
    try:
        verdicts = [_same(one, other, base) for base in (_LOG_BASES if "log" in kinds else _LOG_BASES[:1])]
    except UnreadableError:
        return None
    return True if True in verdicts else verdicts[0]


def same_zeros(left: Node, right: Node, other_left: Node, other_right: Node) -> int:
    """1 or -1 where `left - right` is the other difference times a positive or negative constant, else 0."""
    one, other = _difference(left, right), _difference(other_left, other_right)
    names = sorted({*one.symbols(), *other.symbols()})
    ratio: Value = None
    try:
        for point in _points(names):
            top, bottom = evaluate(one, point), evaluate(other, point)
            if bottom == 0 or top == 0:
                return 0
            here = (
                top / bottom
                if isinstance(top, Fraction) and isinstance(bottom, Fraction)
                else context().mpmathify(_inexact(top)) / _inexact(bottom)
            )
            if ratio is not None and not _near(ratio, here):
                return 0
            ratio = here
    except (UndefinedError, UnreadableError):
        return 0
    real = to_real(ratio) if ratio is not None else None
    return 0 if real is None else (1 if real > 0 else -1)


def zeros_differ(left: Node, right: Node, other_left: Node, other_right: Node) -> bool:
    """Whether a point was found that solves the first equation and not the second. False proves nothing."""
    one, other = _difference(left, right), _difference(other_left, other_right)
    names = sorted({*one.symbols(), *other.symbols()})
    if not names or len(names) > MAX_SYMBOLS:
        return False
    for name in dict.fromkeys(one.symbols()):
        try:
            zero = _zero(one, name, dict(_points(names)[1]))
            value = None if zero is None else evaluate(other, zero)
        except (UndefinedError, UnreadableError):
            continue
        if value is not None and abs(_inexact(value)) > 1e-6:
            return True
    return False


def _zero(node: Node, name: str, point: dict[str, Value]) -> dict[str, Value] | None:
    """A zero of `node` near `point`, moving one letter by the secant method; None if that does not end at one."""
    mp = context()
    before, here = mp.mpf("0.7"), mp.mpf("1.3")
    value_before = _inexact(evaluate(node, {**point, name: before}))
    for _ in range(MAX_SECANT_STEPS):
        value = _inexact(evaluate(node, {**point, name: here}))
        if abs(value) < mp.mpf(10) ** -20:
            return {**point, name: here}
        if value == value_before or abs(here) > 1e12:
            return None
        before, here, value_before = here, here - value * (here - before) / (value - value_before), value
    return None


@lru_cache(maxsize=4096)
def constant_value(node: Node) -> Value | None:
    """The value of an expression without letters; None if it has none."""
    try:
        return evaluate(node, {})
    except (UndefinedError, UnreadableError):
        return None


def _difference(left: Node, right: Node) -> Node:
    return Node("add", (left, Node("negate", (right,))))


def _infinity(node: Node) -> int:
    if node.kind == "constant" and node.name == "infty":
        return 1
    if node.kind == "negate":
        return -_infinity(node.args[0])
    return 0


def _same(one: Node, other: Node, log_base: int) -> bool | None:
    names = sorted({*one.symbols(), *other.symbols()})
    if len(names) > MAX_SYMBOLS:
        return None
    if not names:
        return _same_constant(one, other, log_base)
    *positive, negative = _points(names)
    verdicts = [_same_at(one, other, point, log_base) for point in positive]
    if False in verdicts:
        return _same_at_integers(one, other, names, log_base)
    if True not in verdicts:
        return None
    # sqrt(x^2) is x only where x is positive. Complex values below zero are a matter of branches and say nothing.
    left, right = _value(one, negative, log_base), _value(other, negative, log_base)
    if left is None or right is None or to_real(left) is None or to_real(right) is None:
        return True
    return _near(left, right)


def _same_constant(one: Node, other: Node, log_base: int) -> bool | None:
    """Values that agree are compared once more with many digits: sqrt(10^20 + 1) is nearly 10^10."""
    same = _same_at(one, other, {}, log_base)
    if not same:
        return same
    left, right = (evaluate(node, {}, digits=MANY_DIGITS, log_base=log_base) for node in (one, other))
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = _inexact(left, MANY_DIGITS), _inexact(right, MANY_DIGITS)
    if abs(left) > context(MANY_DIGITS).mpf(10) ** 70:
        return None  # 9^(9^9) and 9^(9^9) + 1 agree in all digits that are computed
    return bool(abs(left - right) <= context(MANY_DIGITS).mpf(10) ** -80 * max(1, abs(left)))


def _same_at_integers(one: Node, other: Node, names: list[str], log_base: int) -> bool:
    """(-1)^n and cos(n pi) agree where n is whole, which is what n means."""
    whole = _INTEGER_SYMBOLS.intersection(names)
    if not whole or not ({"power", "cos", "sin", "factorial", "floor", "ceil", "binomial"} & {*one.kinds(), *other.kinds()}):
        return False
    fixed = _points(names)[0]
    for size in (3, 4, 6, 7):
        point = {name: Fraction(size + 2 * position) if name in whole else fixed[name] for position, name in enumerate(names)}
        if _same_at(one, other, point, log_base) is not True:
            return False
    return True


def _same_at(one: Node, other: Node, point: Mapping[str, Value], log_base: int) -> bool | None:
    left, right = _value(one, point, log_base), _value(other, point, log_base)
    if left is None or right is None:
        return None if left is right else False
    if _near(left, right):
        return True
    if left == 0 or right == 0:
        # Zero, or nothing but tiny? With more digits a true zero shrinks.
        try:
            left, right = (evaluate(node, point, digits=MANY_DIGITS, log_base=log_base) for node in (one, other))
        except UndefinedError:
            return False
        return bool(abs(_inexact(left, MANY_DIGITS) - _inexact(right, MANY_DIGITS)) < context(MANY_DIGITS).mpf(10) ** -60)
    return False


def _value(node: Node, point: Mapping[str, Value], log_base: int) -> Value | None:
    try:
        return evaluate(node, point, log_base=log_base)
    except UndefinedError:
        return None


def _near(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    one, other = _inexact(left), _inexact(right)
    return bool(abs(one - other) <= context().mpf(10) ** -18 * max(abs(one), abs(other)))


def _inexact(value: Value, digits: int = 0) -> Value:
    if not isinstance(value, Fraction):
        return value
    mp = context(digits) if digits else context()
    return mp.mpf(value.numerator) / value.denominator


def _points(names: Iterable[str]) -> tuple[dict[str, Fraction], ...]:
    """Three points: large and small positive values, and negative ones. Irregular, so that nothing agrees by chance."""
    ordered = list(names)
    return (
        {name: Fraction(314_159 + 41_983 * position, 100_003) for position, name in enumerate(ordered)},
        {name: Fraction(27_183 + 5_471 * position, 99_991 + 12_007 * position) for position, name in enumerate(ordered)},
        {name: -Fraction(141_421 + 33_391 * position, 99_989) for position, name in enumerate(ordered)},
    )
