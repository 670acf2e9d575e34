"""Compare what a submission returned with what a test wants. The value is hostile data, the expectation is ours.

A comparison is led by the expectation, level by level, with exact types: its time is bounded by the expectation's size, and an
object that is not plain data equals nothing. Two rules: `python_equal` is Python's own `==`, for tests that were written
as asserts; `json_equal` is for tests that were written as JSON.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

from rlvr.sandbox.jobs import Plain
from rlvr.types import JSON

MAX_DEPTH = 64
MAX_NODES = 500_000
MAX_EQUAL_HASHES = 64
MAX_SHOWN_CHARS = 120
_SHOWN_ITEMS = 6
_SHOWN_DEPTH = 3
_SHOWN_BITS = 256

_NUMBERS = (bool, int, float, complex, Decimal, Fraction)
_SEQUENCES = (list, tuple, deque)
_SETS = (set, frozenset)
_TEXTS = (str, bytes, bytearray)
# `type` is there for the builtin types themselves, which tests pass as arguments; a class of the submission does not come here.
_PLAIN = frozenset({type(None), type, range, dict, *_NUMBERS, *_SEQUENCES, *_SETS, *_TEXTS})


def is_plain(value: Plain) -> bool:
    """Whether the value itself (not what it holds) is plain data."""
    return type(value) in _PLAIN


def python_equal(value: Plain, expected: Plain, depth: int = 0) -> bool:
    """Python's `value == expected` over plain data: `True == 1`, `1 == 1.0`, `(1,) != [1]`; NaN equals nothing.

    >>> python_equal([1.0, {"a": True}], [1, {"a": 1}]), python_equal((1,), [1]), python_equal(math.nan, math.nan)
    (True, False, False)
    """
    kind, wanted = type(value), type(expected)
    if kind not in _PLAIN or wanted not in _PLAIN or depth > MAX_DEPTH:
        return False
    if wanted in _NUMBERS:
        # A signalling NaN raises where it is compared.
        return kind in _NUMBERS and not _is_odd_decimal(value) and not _is_odd_decimal(expected) and bool(value == expected)
    if wanted in _SEQUENCES:
        return kind is wanted and len(value) == len(expected) and _all_equal(value, expected, depth)
    if wanted in _SETS:
        return kind in _SETS and len(value) == len(expected) and all(item in value for item in expected)
    if wanted is dict:
        return (
            kind is dict
            and len(value) == len(expected)
            and all(key in value and python_equal(value[key], inner, depth + 1) for key, inner in expected.items())
        )
    if wanted in (bytes, bytearray):
        return kind in (bytes, bytearray) and value == expected
    return kind is wanted and value == expected


def json_equal(value: Plain, expected: JSON, tolerance: float = 0.0, depth: int = 0) -> bool:
    """Whether a value says what the JSON says. Strict about types, but a tuple is a list and `2.0` is `2`; a bool is no number.

    `tolerance`: where one of two numbers is a float, |a - b| <= tolerance * max(1, |b|) is enough. 0, the default, is what
    LiveCodeBench's `testing_util` asks of function calls (its `==` also takes True for 1; this does not).

    >>> json_equal((1, 2.0), [1, 2]), json_equal(True, 1), json_equal(0.1 + 0.2, 0.3), json_equal(0.1 + 0.2, 0.3, 1e-9)
    (True, False, False, True)
    """
    kind, wanted = type(value), type(expected)
    if depth > MAX_DEPTH:
        return False
    if expected is None or wanted in (bool, str):
        return kind is wanted and value == expected
    if wanted in (int, float):
        return kind in (int, float) and (value == expected or _is_near(value, expected, tolerance))
    if wanted is list:
        return (
            kind in (list, tuple)
            and len(value) == len(expected)
            and all(json_equal(one, other, tolerance, depth + 1) for one, other in zip(value, expected, strict=True))
        )
    if wanted is dict:
        return (
            kind is dict
            and len(value) == len(expected)
            and all(key in value and json_equal(value[key], inner, tolerance, depth + 1) for key, inner in expected.items())
        )
    return False


def is_small_and_plain(value: Plain) -> bool:
    """Whether everything in a value is plain data, within `MAX_DEPTH` and `MAX_NODES`: Python's own operators are then safe."""
    level: list[Plain] = [value]
    nodes = 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES or any(type(one) not in _PLAIN or _is_odd_decimal(one) for one in level):
            return False
        level = [inner for one in level for inner in _items(one)]
        if not level:
            return True
    return False


def hashes_collide(items: Iterable[Plain]) -> bool:
    """Whether a set of `items` would take quadratic time to build: many different ones with one hash.

    Raises:
        TypeError: an item has no hash.
    """
    different: dict[int, list[Plain]] = {}
    for item in items:
        same = different.setdefault(hash(item), [])
        if not any(item == one for one in same):
            same.append(item)
            if len(same) > MAX_EQUAL_HASHES:
                return True
    return False


def show(value: Plain, limit: int = MAX_SHOWN_CHARS) -> str:
    """A value in at most about `limit` characters, in bounded time, without calling anything of its own."""
    text = _shown(value, 0, limit)
    return text if len(text) <= limit else f"{text[: limit - 2]} …"


def _shown(value: Plain, depth: int, limit: int) -> str:
    kind = type(value)
    if value is None or kind in (bool, float, complex):
        return repr(value)
    if kind is int:
        return repr(value) if value.bit_length() <= _SHOWN_BITS else f"an integer of {value.bit_length()} bits"
    if kind in _TEXTS:
        return repr(value[:limit])
    if kind is Decimal or kind is Fraction:
        return f"{kind.__name__}({_short_number(value)})"
    if kind is type:
        return str(value.__name__)
    if kind is range:
        return f"range({', '.join(_shown(part, depth, limit) for part in (value.start, value.stop, value.step))})"
    if kind not in _PLAIN:
        name = getattr(value, "kind", None) or kind.__name__
        return f"an object of class {str(name)[:60]}"
    if depth >= _SHOWN_DEPTH:
        return "…"
    return _shown_items(value, depth, limit)


def _shown_items(value: Plain, depth: int, limit: int) -> str:
    kind = type(value)
    more = ", …" if len(value) > _SHOWN_ITEMS else ""
    if kind is dict:
        pairs = [pair for pair, _ in zip(value.items(), range(_SHOWN_ITEMS), strict=False)]
        inner = ", ".join(f"{_shown(key, depth + 1, limit)}: {_shown(one, depth + 1, limit)}" for key, one in pairs)
        return f"{{{inner}{more}}}"
    parts = [_shown(item, depth + 1, limit) for item, _ in zip(value, range(_SHOWN_ITEMS), strict=False)]
    if kind in _SETS:
        parts = sorted(parts)  # the order of a set says nothing, and would differ from run to run
        return "set()" if not parts else "{" + ", ".join(parts) + more + "}"
    inner = ", ".join(parts) + more
    if kind is tuple:
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return f"[{inner}]" if kind is list else f"deque([{inner}])"


def _short_number(value: Decimal | Fraction) -> str:
    if isinstance(value, Decimal):
        return str(value) if len(value.as_tuple().digits) <= 50 else "a long decimal number"
    return str(value) if max(value.numerator.bit_length(), value.denominator.bit_length()) <= _SHOWN_BITS else "a long fraction"


def _items(value: Plain) -> Iterable[Plain]:
    kind = type(value)
    if kind is dict:
        return [*value.keys(), *value.values()]
    return value if kind in _SEQUENCES or kind in _SETS else ()


def _all_equal(value: Sequence[Plain], expected: Sequence[Plain], depth: int) -> bool:
    return all(python_equal(one, other, depth + 1) for one, other in zip(value, expected, strict=True))


def _is_odd_decimal(value: Plain) -> bool:
    """NaN, or so large an exponent that turning it into an integer would not end."""
    return type(value) is Decimal and (not value.is_finite() or abs(value.adjusted()) > 10_000)


def _is_near(value: int | float, expected: int | float, tolerance: float) -> bool:
    if tolerance <= 0 or (type(value) is int and type(expected) is int):
        return False
    try:
        one, other = float(value), float(expected)
    except OverflowError:
        return False
    return math.isfinite(one) and math.isfinite(other) and abs(one - other) <= tolerance * max(1.0, abs(other))
