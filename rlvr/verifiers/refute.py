"""Cheap proofs that two parsed answers differ, tried before the symbolic comparison, which may run for minutes.

Imported only inside worker processes.
"""

from __future__ import annotations

from typing import Any

from sympy import Eq, Expr, MatrixBase, MatrixExpr, Mul, Rational, Set, Symbol, Tuple
from sympy import FiniteSet as SympyFiniteSet

TOLERANCE = 1e-5  # wider than the comparison's own 6 decimals: a refutation must be certain
MAX_SYMBOLS = 12


def surely_differ(gold: Any, answer: Any) -> str | None:
    """Why two parsed answers cannot be equal, or None where that is not known."""
    if isinstance(gold, (MatrixBase, MatrixExpr)) != isinstance(answer, (MatrixBase, MatrixExpr)):
        return "a matrix and another thing"
    sizes = _size(gold), _size(answer)
    if None not in sizes and sizes[0] != sizes[1] and not _is_interval(gold) and not _is_interval(answer):
        return f"{sizes[1]} values, where the gold answer has {sizes[0]}"
    if _solves(gold, answer) is False or _solves(answer, gold) is False:
        return "the value does not solve the equation"
    if isinstance(gold, Expr) and isinstance(answer, Expr) and not _is_wordlike(gold) and not _is_wordlike(answer):
        return _differ_at_a_point(gold, answer)
    return None


def _differ_at_a_point(gold: Expr, answer: Expr) -> str | None:
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=lambda symbol: str(symbol))
    if len(symbols) > MAX_SYMBOLS:
        return None
    # Positive and irregular, so that roots and logarithms are real and nothing cancels by chance.
    point = {symbol: Rational(314159 + 27183 * position, 271828) for position, symbol in enumerate(symbols)}
    left, right = _value(gold, point), _value(answer, point)
    if left is None or right is None:
        return None
    if any(abs(left * factor - right) <= TOLERANCE * max(1.0, abs(left * factor), abs(right)) for factor in (1.0, 100.0, 0.01)):
        return None  # 9% stands for 9 and for 0.09, so a hundredth is not refuted here
    return "another value" if not symbols else "another value at a point"


def _value(expression: Expr, point: dict[Any, Any]) -> complex | None:
    try:
        value = complex(expression.evalf(15, subs=point, maxn=60))
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    return value if abs(value) < 1e300 else None


def _solves(equation: Any, value: Any) -> bool | None:
    """Whether "x = 5" satisfies an equation in x alone; None where the pair is not of that kind."""
    if not (isinstance(equation, Eq) and isinstance(value, Eq)) or isinstance(equation.lhs, Symbol):
        return None
    if not isinstance(value.lhs, Symbol) or value.rhs.free_symbols or equation.free_symbols != {value.lhs}:
        return None
    left, right = _value(equation.lhs, {value.lhs: value.rhs}), _value(equation.rhs, {value.lhs: value.rhs})
    if left is None or right is None:
        return None
    return abs(left - right) <= TOLERANCE * max(1.0, abs(left), abs(right))


def _size(item: Any) -> int | None:
    """How many values an answer lists; None where that is not plain."""
    if isinstance(item, (SympyFiniteSet, Tuple)):
        return len(item.args)
    return 1 if isinstance(item, Expr) else None


def _is_interval(item: Any) -> bool:
    return isinstance(item, Set) and not isinstance(item, SympyFiniteSet)


def _is_wordlike(expression: Expr) -> bool:
    """A single symbol, or a product of symbols: it may be a word that was read letter by letter."""
    return isinstance(expression, Symbol) or (
        isinstance(expression, Mul) and all(isinstance(factor, Symbol) or str(factor) == "E" for factor in expression.args)
    )
