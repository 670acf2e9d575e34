"""The kinds of answers: values, lists, sets and tuples, intervals, equations, congruences, matrices, ratios, words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rlvr.verifiers.algebra.expressions import Node


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value. `name` is what it was assigned to ("x" of "x = 5"), `unit` and `is_percent` what followed it."""

    node: Node
    name: str = ""
    unit: str = ""
    is_percent: bool = False
    decimals: int | None = None
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Sequence:
    """Several values. `kind`: list (as written, without brackets), set, tuple, or pair: `(a, b)`, which may be an interval."""

    kind: str
    items: tuple[Answer, ...]
    joint: str = ","  # what stood between the items of a list


@dataclass(frozen=True, slots=True)
class Span:
    """An interval of real numbers; None is an infinite end."""

    low: Node | None
    high: Node | None
    has_low: bool
    has_high: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals, minus some points."""

    spans: tuple[Span, ...]
    without: tuple[Node, ...] = ()
    points: tuple[Node, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality that is no assignment and no interval: `left` sign `right`."""

    left: Node
    sign: str
    right: Node


@dataclass(frozen=True, slots=True)
class Congruence:
    """`residue` modulo `modulus`."""

    residue: Node
    modulus: Node


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Words:
    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """A set with a name, such as the integers."""

    name: str


Answer: TypeAlias = Scalar | Sequence | Region | Relation | Congruence | Matrix | Ratio | Words | Field

REALS = Region((Span(None, None, False, False),))
