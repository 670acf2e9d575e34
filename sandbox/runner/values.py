"""Plain data on the wire: JSON with tags for what JSON cannot say. No pickle, and no object of a submission's own class.

A subclass of a plain type loses its methods and becomes the plain value that it holds; any other object becomes opaque,
or, in a checked run, a reference that the other side can only hand back.
"""

import collections
import decimal
import fractions
import math
import sys

MAX_DEPTH = 100
LARGEST_JSON_INT = 10**300  # longer ones travel in hexadecimal, which is read in linear time


class Opaque:
    """A value that could not be passed. It equals nothing but itself."""

    __slots__ = ("kind",)

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return f"<opaque {self.kind}>"


def encode(value, references=None, depth=0):
    """A JSON-ready form of `value`; objects go into `references` (a list) where one is given.

    Raises ValueError where it nests deeper than MAX_DEPTH.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -LARGEST_JSON_INT < value < LARGEST_JSON_INT else {"~": "int", "v": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"~": "float", "v": repr(value)}
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if kind is list:
        return [encode(item, references, depth + 1) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value) and "~" not in value:
            return {key: encode(item, references, depth + 1) for key, item in value.items()}
        pairs = [[encode(key, references, depth + 1), encode(item, references, depth + 1)] for key, item in value.items()]
        return {"~": "dict", "v": pairs}
    tag = _SEQUENCES.get(kind)
    if tag is not None:
        return {"~": tag, "v": [encode(item, references, depth + 1) for item in value]}
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    return _encode_other(value, kind, references, depth)


# The builtin types themselves (`int`, not one of its values): tests pass them, as in f([1, "a"], int).
_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, type(None))
}
_SEQUENCES = {tuple: "tuple", set: "set", frozenset: "frozenset", collections.deque: "deque"}
_SCALARS = {
    bytes: lambda value: {"~": "bytes", "v": value.hex()},
    bytearray: lambda value: {"~": "bytearray", "v": value.hex()},
    complex: lambda value: {"~": "complex", "v": [encode(value.real), encode(value.imag)]},
    range: lambda value: {"~": "range", "v": [value.start, value.stop, value.step]},
    decimal.Decimal: lambda value: {"~": "Decimal", "v": str(value)},
    fractions.Fraction: lambda value: {"~": "Fraction", "v": [encode(value.numerator), encode(value.denominator)]},
}
# How to take the plain value out of a subclass without calling anything that the subclass defines.
_PLAIN_OF = (
    (int, int.__int__),
    (float, float.__float__),
    (str, lambda value: "".join(str.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (bytes, lambda value: bytes(bytes.__iter__(value))),
    (bytearray, lambda value: bytearray(bytearray.__iter__(value))),
    (collections.deque, lambda value: collections.deque(collections.deque.__iter__(value))),
)


def _encode_other(value, kind, references, depth):
    if kind is type and _TYPES.get(value.__name__) is value:
        return {"~": "type", "v": value.__name__}
    for base, plain in _PLAIN_OF:
        if issubclass(kind, base):
            return encode(plain(value), references, depth)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if kind is numpy.ndarray:
            return {"~": "ndarray", "v": encode(value.tolist(), references, depth + 1)}
        if issubclass(kind, numpy.generic):
            return encode(value.item(), references, depth + 1) if kind.__module__ == "numpy" else _opaque(kind)
    if references is None:
        return _opaque(kind)
    references.append(value)
    return {"~": "ref", "id": len(references) - 1, "c": _name(kind)}


def _opaque(kind):
    return {"~": "opaque", "c": _name(kind)}


def _name(kind):
    return str(type.__getattribute__(kind, "__name__"))[:80]


def decode(data, reference=None, depth=0):
    """The value behind a JSON form. `reference(id, class name)` makes what stands for an object of the other side.

    Raises ValueError (or KeyError, TypeError) for what `encode` never writes.
    """
    kind = type(data)
    if data is None or kind is bool or kind is int or kind is float or kind is str:
        return data
    if depth > MAX_DEPTH + 4:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if kind is list:
        return [decode(item, reference, depth + 1) for item in data]
    tag = data.get("~")
    if tag is None:
        return {key: decode(item, reference, depth + 1) for key, item in data.items()}
    if tag == "ref" and reference is not None:
        return reference(int(data["id"]), str(data.get("c"))[:80])
    if tag in ("ref", "opaque"):
        return Opaque(str(data.get("c"))[:80])
    body = data["v"]
    if tag == "dict":
        return {decode(key, reference, depth + 1): decode(item, reference, depth + 1) for key, item in body}
    maker = _MAKERS.get(tag)
    if maker is not None:
        return maker([decode(item, reference, depth + 1) for item in body])
    reader = _READERS.get(tag)
    if reader is None:
        raise ValueError(f"unknown tag {tag!r}")
    return reader(body)


def _array(body):
    items = decode(body)
    try:
        import numpy
    except ImportError:
        return items
    return numpy.array(items)


_MAKERS = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
_READERS = {
    "int": lambda body: int(body, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda body: complex(decode(body[0]), decode(body[1])),
    "range": lambda body: range(int(body[0]), int(body[1]), int(body[2])),
    "Decimal": lambda body: decimal.Decimal(str(body)),
    "Fraction": lambda body: fractions.Fraction(decode(body[0]), decode(body[1])),
    "ndarray": _array,
    "type": _TYPES.__getitem__,
}
