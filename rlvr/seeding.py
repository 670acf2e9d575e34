"""All randomness in rlvr comes from here: a seed is a pure function of what it is for."""

from __future__ import annotations

import hashlib
import random
from typing import TypeAlias

Part: TypeAlias = str | bytes | int | float | tuple["Part", ...] | None
_COMMON = frozenset((str, int))


def seed(*parts: Part) -> int:
    """A 63-bit seed that depends on `parts` alone, equal on every machine and in every process.

    Raises:
        TypeError: a part whose text may differ between processes (a set, an object with its address).

    >>> seed("run", 0, "step", 3) == seed("run", 0, "step", 3)
    True
    >>> seed("a", "bc") == seed("ab", "c")
    False
    """
    pieces: list[bytes] = []
    for part in parts:
        if type(part) not in _COMMON:
            _check(part)
        text = repr(part).encode()
        pieces += (len(text).to_bytes(8, "little"), text)
    return int.from_bytes(hashlib.blake2b(b"".join(pieces), digest_size=8).digest(), "little") >> 1


def rng(*parts: Part) -> random.Random:
    """A generator of its own, seeded by `seed(*parts)`."""
    return random.Random(seed(*parts))


def _check(part: object) -> None:
    if isinstance(part, tuple):
        for inner in part:
            _check(inner)
    elif not isinstance(part, (str, bytes, int, float, type(None))):
        raise TypeError(f"seed part {part!r} is a {type(part).__name__}; use strings, numbers, None or tuples of them")
