"""Evaluate the syntax tree of a lifted assert over plain values, where that is exact and bounded.

The tree is the data set's, the values are the submission's. Every operator is Python's own, applied to exact builtin types
whose depth and size were checked; whatever would depend on the other process (the order of a set, an object's identity), on the
interpreter's version (the sum of floats), or could be made slow, raises `NeedsChecksError` instead.
"""

from __future__ import annotations

import ast
import math
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rlvr.sandbox.jobs import Plain
from rlvr.verifiers.code_values import hashes_collide, is_small_and_plain, python_equal

MAX_BITS = 100_000
MAX_ITEMS = 1_000_000
MAX_NUMERAL_CHARS = 4_000

_NUMBERS = (bool, int, float, complex, Decimal, Fraction)
_REAL = (bool, int, float)
_SETS = (set, frozenset)


class NeedsChecksError(Exception):
    """The test's meaning cannot be computed here from plain values; it must run beside the submission. Internal."""


def is_supported(node: ast.expr, slots: Mapping[int, int]) -> bool:
    """Whether `evaluate` knows every part of the expression. Nodes in `slots` stand for values."""
    if id(node) in slots:
        return True
    match node:
        case ast.Constant(value=value):
            return value is None or type(value) in (bool, int, float, complex, str, bytes)
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return all(is_supported(part, slots) for part in parts)
        case ast.Dict(keys=keys, values=values):
            return all(key is not None and is_supported(key, slots) for key in keys) and all(
                is_supported(value, slots) for value in values
            )
        case ast.UnaryOp(op=op, operand=operand):
            return type(op) in _UNARY and is_supported(operand, slots)
        case ast.BinOp(left=left, op=op, right=right):
            return type(op) in _BINARY and is_supported(left, slots) and is_supported(right, slots)
        case ast.BoolOp(values=values):
            return all(is_supported(value, slots) for value in values)
        case ast.Compare():
            return _is_supported_comparison(node, slots)
        case ast.Subscript(value=value, slice=index):
            return is_supported(value, slots) and _is_supported_index(index, slots)
        case ast.Name(id=name):
            return name in TYPES
        case ast.Attribute(value=ast.Name(id="math"), attr=attribute):
            return attribute in _MATH_CONSTANTS
        case ast.Call():
            return _is_supported_call(node, slots)
    return False


def evaluate(node: ast.expr, slots: Mapping[int, int], values: Sequence[Plain]) -> Plain:
    """The value of a supported expression, `values[slots[id(call)]]` being what each call of the submission returned.

    Raises:
        NeedsChecksError: it cannot be computed exactly, or not in bounded time.
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: as the expression itself would.
    """
    if id(node) in slots:
        return values[slots[id(node)]]
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=parts):
            return tuple(evaluate(part, slots, values) for part in parts)
        case ast.List(elts=parts):
            return [evaluate(part, slots, values) for part in parts]
        case ast.Set(elts=parts):
            return {_safe(evaluate(part, slots, values)) for part in parts}
        case ast.Dict(keys=keys, values=inner):
            pairs = zip(keys, inner, strict=True)
            return {
                _safe(evaluate(key, slots, values)): evaluate(value, slots, values) for key, value in pairs if key is not None
            }
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not evaluate(operand, slots, values)
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_safe(evaluate(operand, slots, values)))
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_safe(evaluate(left, slots, values)), _safe(evaluate(right, slots, values)))
        case ast.BoolOp(op=op, values=parts):
            return _either(parts, slots, values, stops_at=isinstance(op, ast.Or))
        case ast.Compare():
            return _compare(node, slots, values)
        case ast.Subscript(value=value, slice=index):
            return _safe(evaluate(value, slots, values))[_index(index, slots, values)]
        case ast.Name(id=name):
            return TYPES[name]
        case ast.Attribute(attr=attribute):
            return _MATH_CONSTANTS[attribute]
        case ast.Call():
            return _call(node, slots, values)
    raise NeedsChecksError(f"{type(node).__name__} is not supported")


def _safe(value: Plain) -> Plain:
    if not is_small_and_plain(value):
        raise NeedsChecksError("an object that is not plain data, or one that is too large or too deep")
    return value


def _either(parts: Sequence[ast.expr], slots: Mapping[int, int], values: Sequence[Plain], *, stops_at: bool) -> Plain:
    found: Plain = None
    for part in parts:
        found = evaluate(part, slots, values)
        if bool(found) is stops_at:
            break
    return found


# -- comparisons


def _is_supported_comparison(node: ast.Compare, slots: Mapping[int, int]) -> bool:
    sides = [node.left, *node.comparators]
    if not all(is_supported(side, slots) for side in sides):
        return False
    pairs = zip(node.ops, sides, sides[1:], strict=False)
    return all(not isinstance(op, ast.Is | ast.IsNot) or _is_single(one) or _is_single(other) for op, one, other in pairs)


def _is_single(node: ast.expr) -> bool:
    """None, True and False are the only values whose identity means something."""
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))


def _compare(node: ast.Compare, slots: Mapping[int, int], values: Sequence[Plain]) -> bool:
    left = evaluate(node.left, slots, values)
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = evaluate(comparator, slots, values)
        if not _COMPARISONS[type(op)](left, right):
            return False
        left = right
    return True


def _contains(container: Plain, item: Plain) -> bool:
    if type(_safe(container)) in (list, tuple, deque):
        return any(python_equal(one, item) for one in container)
    return bool(operator.contains(container, _safe(item)))


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Plain, Plain], bool]:
    return lambda left, right: bool(compare(_safe(left), _safe(right)))


_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Plain, Plain], bool]] = {
    ast.Eq: python_equal,
    ast.NotEq: lambda left, right: not python_equal(left, right),
    ast.Is: lambda left, right: left is right,
    ast.IsNot: lambda left, right: left is not right,
    ast.In: lambda left, right: _contains(right, left),
    ast.NotIn: lambda left, right: not _contains(right, left),
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
}


# -- arithmetic


def _bits(value: Plain) -> int:
    """How large a number is written out; floats are small."""
    if type(value) in (int, bool):
        return int(value.bit_length())
    if type(value) is Fraction:
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    return 64


def _arithmetic(compute: Callable[[Any, Any], Any]) -> Callable[[Plain, Plain], Plain]:
    def checked(left: Plain, right: Plain) -> Plain:
        _check_operands(left, right)
        if _bits(left) + _bits(right) > MAX_BITS:
            raise NeedsChecksError("arithmetic with numbers that are too long")
        return compute(left, right)

    return checked


def _check_operands(*operands: Plain) -> None:
    """Numbers, or what no operator takes. What some take (a text before %) is not for here."""
    others = [one for one in operands if type(one) not in _NUMBERS]
    if any(isinstance(one, (str, bytes, bytearray, deque)) for one in others):
        raise NeedsChecksError("arithmetic with something that is not a number")
    if others:
        raise TypeError(f"unsupported operand: {type(others[0]).__name__}")


def _check_real(*operands: Plain) -> None:
    """Real numbers of builtin types, or what no function of numbers takes."""
    if any(type(one) in _NUMBERS and type(one) not in _REAL for one in operands):
        raise NeedsChecksError("a number that is neither an integer nor a float")
    if any(type(one) not in _REAL for one in operands):
        raise TypeError("must be a real number")


def _add(left: Plain, right: Plain) -> Plain:
    if type(left) is type(right) and type(left) in (list, tuple, str, bytes):
        if len(left) + len(right) > MAX_ITEMS:
            raise NeedsChecksError("a sequence that is too long")
        return left + right
    return _plus(left, right)


def _subtract(left: Plain, right: Plain) -> Plain:
    return left - right if type(left) in _SETS and type(right) in _SETS else _minus(left, right)


def _multiply(left: Plain, right: Plain) -> Plain:
    for sequence, count in ((left, right), (right, left)):
        if type(sequence) in (list, tuple, str, bytes) and type(count) in (int, bool):
            if len(sequence) * max(count, 0) > MAX_ITEMS:
                raise NeedsChecksError("a sequence that is too long")
            return sequence * count
    return _times(left, right)


def _power(base: Plain, exponent: Plain) -> Plain:
    _check_real(base, exponent)
    if type(base) is not float and type(exponent) is not float and _bits(base) * abs(exponent) > MAX_BITS:
        raise NeedsChecksError("a power that is too long")
    return base**exponent


_plus, _minus, _times = (_arithmetic(compute) for compute in (operator.add, operator.sub, operator.mul))

_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
_BINARY: Mapping[type[ast.operator], Callable[[Plain, Plain], Plain]] = {
    ast.Add: _add,
    ast.Sub: _subtract,
    ast.Mult: _multiply,
    ast.Div: _arithmetic(operator.truediv),
    ast.FloorDiv: _arithmetic(operator.floordiv),
    ast.Mod: _arithmetic(operator.mod),
    ast.Pow: _power,
}


# -- subscripts


def _is_supported_index(index: ast.expr, slots: Mapping[int, int]) -> bool:
    if isinstance(index, ast.Slice):
        return all(part is None or is_supported(part, {}) for part in (index.lower, index.upper, index.step))
    return is_supported(index, slots)


def _index(index: ast.expr, slots: Mapping[int, int], values: Sequence[Plain]) -> Any:
    if isinstance(index, ast.Slice):
        parts = (index.lower, index.upper, index.step)
        return slice(*(None if part is None else evaluate(part, {}, ()) for part in parts))
    return _safe(evaluate(index, slots, values))


# -- functions


def _is_supported_call(node: ast.Call, slots: Mapping[int, int]) -> bool:
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return False
    if isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        has_types = len(node.args) == 2 and not node.keywords and _types(node.args[1]) is not None
        return has_types and is_supported(node.args[0], slots)
    words = {word.arg for word in node.keywords}
    match node.func:
        case ast.Name(id=name) if name in FUNCTIONS:
            if not words <= _KEYWORDS.get(name, frozenset()):
                return False
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _MATH:
            if not words <= _KEYWORDS.get(f"math.{name}", frozenset()):
                return False
        case _:
            return False
    return all(is_supported(part, slots) for part in (*node.args, *(word.value for word in node.keywords)))


def _call(node: ast.Call, slots: Mapping[int, int], values: Sequence[Plain]) -> Plain:
    if isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return isinstance(evaluate(node.args[0], slots, values), _types(node.args[1]) or ())
    args = [_safe(evaluate(argument, slots, values)) for argument in node.args]
    kwargs = {word.arg or "": _safe(evaluate(word.value, slots, values)) for word in node.keywords}
    if isinstance(node.func, ast.Attribute):
        _check_real(*args)
        return _MATH[node.func.attr](*args, **kwargs)
    if not isinstance(node.func, ast.Name):
        raise NeedsChecksError("an unknown function")
    return FUNCTIONS[node.func.id](*args, **kwargs)


def _types(node: ast.expr) -> tuple[type, ...] | None:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    found = [TYPES.get(name.id) if isinstance(name, ast.Name) else None for name in names]
    return tuple(kind for kind in found if kind is not None) if None not in found else None


def _in_order(function: Callable[..., Any]) -> Callable[..., Plain]:
    """For functions whose result depends on the order of a set, which is another one in another process."""

    def checked(*args: Plain, **kwargs: Plain) -> Plain:
        if any(type(argument) in _SETS and len(argument) > 1 for argument in args):
            raise NeedsChecksError("the order of a set")
        return function(*args, **kwargs)

    return checked


def _unordered(function: Callable[..., Any]) -> Callable[..., Plain]:
    def checked(*args: Plain, **kwargs: Plain) -> Plain:
        if any(type(one) in _SETS for argument in args if type(argument) in (list, tuple, *_SETS) for one in argument):
            raise NeedsChecksError("sets have no total order")
        return function(*args, **kwargs)

    return checked


def _make_set(kind: type) -> Callable[..., Plain]:
    def checked(*args: Plain) -> Plain:
        is_slow = any(len(items) > MAX_ITEMS or hashes_collide(items) for items in args if not isinstance(items, int | float))
        if is_slow:
            raise NeedsChecksError("a set that would take too long to build")
        return kind(*args)

    return checked


def _sum(*args: Plain) -> Plain:
    if not all(type(one) in (bool, int, Fraction) for one in args[0]):
        raise NeedsChecksError("the sum of floats depends on the version of Python")
    return sum(*args)


def _round(number: Plain, digits: Plain = None) -> Plain:
    _check_real(number)
    if not (digits is None or (type(digits) is int and abs(digits) <= 1_000)):
        raise NeedsChecksError("rounding to an odd number of digits")
    return round(number) if digits is None else round(number, digits)


def _number(kind: type) -> Callable[..., Plain]:
    def checked(*args: Plain) -> Plain:
        if any(isinstance(argument, (str, bytes)) and len(argument) > MAX_NUMERAL_CHARS for argument in args):
            raise NeedsChecksError("a number that is too long to read")
        return kind(*args)

    return checked


def _range(*bounds: Plain) -> Plain:
    found = range(*bounds)
    if abs(found.stop - found.start) // abs(found.step) > MAX_ITEMS:
        raise NeedsChecksError("a range that is too long")
    return found


FUNCTIONS: Mapping[str, Callable[..., Plain]] = {
    "abs": abs,
    "all": _in_order(all),
    "any": _in_order(any),
    "bool": bool,
    "float": _number(float),
    "frozenset": _make_set(frozenset),
    "int": _number(int),
    "isinstance": isinstance,
    "len": len,
    "list": _in_order(list),
    "max": _unordered(max),
    "min": _unordered(min),
    "range": _range,
    "round": _round,
    "set": _make_set(set),
    "sorted": _unordered(sorted),
    "sum": _sum,
    "tuple": _in_order(tuple),
}
TYPES: Mapping[str, type] = {
    kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, range, set, str, tuple)
}
MODULES = frozenset({"math"})

_MATH: Mapping[str, Callable[..., Plain]] = {
    name: getattr(math, name) for name in ("ceil", "fabs", "floor", "isclose", "isinf", "isnan", "sqrt", "trunc")
}
_MATH_CONSTANTS: Mapping[str, float] = {name: getattr(math, name) for name in ("e", "inf", "nan", "pi", "tau")}
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "sorted": frozenset({"reverse"}),
    "math.isclose": frozenset({"rel_tol", "abs_tol"}),
}
