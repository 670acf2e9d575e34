"""Plain data between this process and a submission: what goes in is trusted, what comes out is hostile.

The wire form is the one of `sandbox/runner/values.py`. Decoding builds nothing but builtin values, in bounded depth, and
refuses containers whose keys were made to collide (such a set takes quadratic time to build).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from rlvr.sandbox.jobs import Plain
from rlvr.types import JSON

MAX_DEPTH = 104
MAX_COLLISIONS = 64
MAX_FRACTION_BITS = 65_536
LARGEST_JSON_INT = 10**300
TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, type(None))
}
_TYPE_NAMES = {id(kind): name for name, kind in TYPES.items()}


class NotPlainError(ValueError):
    """The value cannot travel as plain data, or the bytes are no value."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """An object of the submission that is not plain data. It equals nothing, not even itself."""

    kind: str

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def encode(value: Plain, depth: int = 0) -> JSON:
    """The JSON form of a value of our own.

    Raises:
        NotPlainError: it, or something in it, is not plain data, or it nests too deep.
    """
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -LARGEST_JSON_INT < value < LARGEST_JSON_INT else {"~": "int", "v": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"~": "float", "v": repr(value)}
    if depth > MAX_DEPTH - 4:
        raise NotPlainError(f"a value nests more than {MAX_DEPTH - 4} deep")
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value) and "~" not in value:
            return {key: encode(item, depth + 1) for key, item in value.items()}
        return {"~": "dict", "v": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]}
    if kind in (tuple, set, frozenset, deque):
        return {"~": kind.__name__, "v": [encode(item, depth + 1) for item in value]}
    if kind in (bytes, bytearray):
        return {"~": kind.__name__, "v": value.hex()}
    if kind is complex:
        return {"~": "complex", "v": [encode(value.real), encode(value.imag)]}
    if kind is range:
        return {"~": "range", "v": [value.start, value.stop, value.step]}
    if kind is Decimal:
        return {"~": "Decimal", "v": str(value)}
    if kind is Fraction:
        return {"~": "Fraction", "v": [encode(value.numerator), encode(value.denominator)]}
    if (name := _TYPE_NAMES.get(id(value))) is not None:
        return {"~": "type", "v": name}
    raise NotPlainError(f"a value of type {kind.__name__} cannot be passed to a submission; only plain data can")


def decode(data: JSON) -> Plain:
    """The value behind a JSON form that a submission wrote.

    Raises:
        NotPlainError: it is not a value that `encode` could have written, or it was made to be slow.
    """
    try:
        return _decode(data, 0)
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError, RecursionError) as error:
        raise NotPlainError(f"not a value: {error}") from error


def _decode(data: JSON, depth: int) -> Plain:
    kind = type(data)
    if data is None or kind in (bool, int, float, str):
        return data
    if depth > MAX_DEPTH:
        raise NotPlainError(f"nested more than {MAX_DEPTH} deep")
    if kind is list:
        return [_decode(item, depth + 1) for item in data]
    tag = data.get("~")
    if tag is None:
        return {key: _decode(item, depth + 1) for key, item in data.items()}
    if tag in ("opaque", "ref", "ndarray"):
        name = data.get("c")
        return Opaque(name[:80].encode("utf-8", "replace").decode() if type(name) is str else tag)
    body = data["v"]
    if tag == "dict":
        pairs = [(_decode(key, depth + 1), _decode(item, depth + 1)) for key, item in body]
        _refuse_collisions(key for key, _ in pairs)
        return dict(pairs)
    if tag in _SEQUENCES:
        items = [_decode(item, depth + 1) for item in body]
        if tag in ("set", "frozenset"):
            _refuse_collisions(items)
        return _SEQUENCES[tag](items)
    if tag == "int":
        return int(body, 16)
    if tag == "float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[body]
    if tag in ("bytes", "bytearray"):
        return bytes.fromhex(body) if tag == "bytes" else bytearray.fromhex(body)
    if tag == "complex":
        return complex(*_parts(body, 2, (int, float)))
    if tag == "range":
        return range(*_parts(body, 3, (int,)))
    return _decode_exact(tag, body)


def _decode_exact(tag: str, body: Any) -> Plain:
    if tag == "Fraction":
        # Of whole numbers only: Fraction("1e999999999") would compute that power. Reducing long ones takes quadratic time.
        numbers = _parts(body, 2, (int,))
        if max(number.bit_length() for number in numbers) > MAX_FRACTION_BITS:
            raise NotPlainError("a fraction is too long")
        return Fraction(*numbers)
    if tag == "Decimal":
        try:
            return Decimal(body if type(body) is str and len(body) <= 10_000 else "")
        except InvalidOperation as error:
            raise NotPlainError("not a decimal number") from error
    if tag == "type":
        return TYPES[body]
    raise NotPlainError(f"unknown tag {str(tag)[:40]!r}")


def _parts(body: JSON, count: int, kinds: tuple[type, ...]) -> list[Any]:
    parts = [_decode(part, MAX_DEPTH) for part in body]
    if len(parts) != count or not all(type(part) in kinds for part in parts):
        raise NotPlainError("not the parts of a number")
    return parts


_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}


def _refuse_collisions(keys: Iterable[Plain]) -> None:
    hashes = Counter(map(hash, keys))
    if hashes and max(hashes.values()) > MAX_COLLISIONS:
        raise NotPlainError(f"more than {MAX_COLLISIONS} different keys with one hash")
