"""Whether two answers are equal, by their kinds. True and False are certain; None leaves it to the symbolic library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from rlvr.verifiers.algebra.expressions import Node, number
from rlvr.verifiers.algebra.kinds import (
    REALS,
    Answer,
    Congruence,
    Field,
    Matrix,
    Ratio,
    Region,
    Relation,
    Scalar,
    Sequence,
    Span,
    Words,
)
from rlvr.verifiers.algebra.points import constant_value, same_expression, same_zeros, zeros_differ
from rlvr.verifiers.algebra.units import are_compatible, scale_of
from rlvr.verifiers.algebra.values import Value, to_real

MIN_ROUNDED_DIGITS = 5  # a decimal with so many significant digits stands for the number that it rounds
MAX_MATCHING = 60  # of values without order, compared each with each


def equal(gold: Answer, answer: Answer) -> bool | None:
    """Symmetric. None: the two kinds, or the expressions in them, are not decided here."""
    for kind, compare in _BY_KIND:
        if isinstance(gold, kind) or isinstance(answer, kind):
            if not isinstance(gold, kind):
                return compare(answer, gold)
            return compare(gold, answer)
    return None


def same_scalar(gold: Scalar, answer: Scalar) -> bool | None:
    if _names_differ(gold, answer):
        return False
    factor = are_compatible(gold.unit, answer.unit)
    if factor is None:
        return False
    left = gold.node
    if factor != 1:
        left = _times(factor, left)
    same = same_expression(left, answer.node)
    if same is False and {gold.unit, answer.unit} in ({"°", ""}, {"°", "rad"}):
        same = _same_angle(gold, answer)
    scale, other_scale = scale_of(gold.unit), scale_of(answer.unit)
    if same is False and scale != other_scale:  # "5 million" and 5,000,000
        same = same_expression(_times(scale, gold.node), _times(other_scale, answer.node))
    if same or same is None:
        return same
    if gold.is_percent != answer.is_percent:
        percent, plain = (gold, answer) if gold.is_percent else (answer, gold)
        return same_expression(percent.node, _times(100, plain.node))
    return _rounds(gold, answer) or _rounds(answer, gold)


def _times(factor: Fraction | int, node: Node) -> Node:
    return Node("multiply", (number(factor), node))


def _same_angle(gold: Scalar, answer: Scalar) -> bool | None:
    """60° and pi/3; but 60° and the number 1.047 are not the same."""
    degrees, other = (gold, answer) if gold.unit == "°" else (answer, gold)
    if "constant" not in set(other.node.kinds()):
        return False
    turned = Node("divide", (Node("multiply", (degrees.node, Node("constant", name="pi"))), number(180)))
    return same_expression(turned, other.node)


def _names_differ(gold: Scalar, answer: Scalar) -> bool:
    """x = 5 and y = 5 are different answers; y = 2x and f(x) = 2x are not."""
    one, other = gold.name, answer.name
    return (
        len(one) > 0
        and len(other) > 0
        and one != other
        and len(one.partition("_")[0]) == len(other.partition("_")[0]) == 1
        and not any(gold.node.symbols())
        and not any(answer.node.symbols())
    )


def _rounds(written: Scalar, exact: Scalar) -> bool:
    if written.decimals is None or written.digits < MIN_ROUNDED_DIGITS or exact.decimals is not None:
        return False
    value, true = constant_value(written.node), constant_value(exact.node)
    if value is None or true is None or (real := to_real(true)) is None:
        return False
    return bool(abs(_float(value) - _float(real)) <= 0.5000001 * 10.0**-written.decimals)


def _float(value: Value) -> float:
    return float(value)


def _same_sequence(gold: Sequence, other: Answer) -> bool | None:
    if isinstance(other, Region):
        return _same_region(other, gold)
    if isinstance(other, Matrix):
        return _same_matrix(other, gold)
    if not isinstance(other, Sequence):
        has_relation = any(isinstance(item, (Relation, Words)) for item in gold.items)
        if has_relation or isinstance(other, (Words, Field)):
            return None
        if isinstance(other, Relation):
            return False
        return _set_of_one(gold, other)
    if gold.kind == "list" and other.kind == "list":
        one, two = _merged(gold), _merged(other)
        if one is not None or two is not None:
            return _same_region(one, two) if one is not None and two is not None else False
    if "list" in (gold.kind, other.kind):
        return _same_list(gold, other)
    if "set" in (gold.kind, other.kind):
        return _same_unordered(gold.items, other.items) if gold.kind == other.kind else False
    if gold.kind.startswith("pair") and other.kind.startswith("pair") and gold.kind != other.kind:
        return False  # [a, b] contains its ends, (a, b) does not
    return _same_ordered(gold.items, other.items)


def _set_of_one(gold: Sequence, other: Answer) -> bool | None:
    """`{6}` and `6, 6` are 6."""
    if not _names(gold) and (len(gold.items) == 1 or gold.kind == "list"):
        return _all(equal(item, other) for item in gold.items)
    return False


def _same_list(gold: Sequence, other: Sequence) -> bool | None:
    """A list without brackets against a list, a set or a tuple."""
    if gold.kind != "list":
        gold, other = other, gold
    if other.kind == "list":
        if _names(gold) != _names(other) and min(len(_names(gold)), len(_names(other))) == 0:
            return _same_ordered(gold.items, other.items)
        return _same_unordered(gold.items, other.items)
    if other.kind == "set":
        return _same_unordered(gold.items, other.items)
    return _same_ordered(gold.items, other.items)


def _names(sequence: Sequence) -> frozenset[str]:
    """The names that tell the values apart: none, if all have the same."""
    names = frozenset(item.name for item in sequence.items if isinstance(item, Scalar) and item.name)
    return names if len(names) > 1 else frozenset()


def _same_ordered(gold: tuple[Answer, ...], other: tuple[Answer, ...]) -> bool | None:
    if len(gold) != len(other):
        return False
    return _all(equal(left, right) for left, right in zip(gold, other, strict=True))


def _same_unordered(gold: tuple[Answer, ...], other: tuple[Answer, ...]) -> bool | None:
    gold, other = _distinct(gold), _distinct(other)
    if len(gold) != len(other):
        return False
    if len(gold) > MAX_MATCHING:
        return _same_ordered(gold, other)
    left = list(other)
    is_open = False
    for item in gold:
        verdicts = [equal(item, candidate) for candidate in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            is_open = True
        else:
            return False
    return None if is_open else True


def _distinct(items: tuple[Answer, ...]) -> tuple[Answer, ...]:
    return tuple(dict.fromkeys(items))


def _all(verdicts: object) -> bool | None:
    found = list(verdicts)  # type: ignore[call-overload]
    if False in found:
        return False
    return None if None in found else True


def _merged(sequence: Sequence) -> Region | None:
    """`x < 1 or x > 3`, `x > 1 and x < 3`: one region."""
    if not all(isinstance(item, Region) for item in sequence.items):
        return None
    regions = [item for item in sequence.items if isinstance(item, Region)]
    if len({region.name for region in regions}) > 1 or any(region.points for region in regions):
        return None
    without = tuple(node for region in regions for node in region.without)
    spans = tuple(span for region in regions for span in region.spans)
    if all(region.without for region in regions):
        return Region(REALS.spans, without, name=regions[0].name)
    bounded = [region for region in regions if not region.without]
    if sequence.joint != "or" and len(bounded) == 2 and all(len(region.spans) == 1 for region in bounded):
        meeting = _intersection(bounded[0].spans[0], bounded[1].spans[0])
        if meeting is not None:
            return Region((meeting,), without, name=regions[0].name)
    if without:
        return Region(tuple(span for region in bounded for span in region.spans), without, name=regions[0].name)
    return Region(spans, name=regions[0].name)


def _intersection(one: Span, other: Span) -> Span | None:
    """Where one is bounded below and the other above; None otherwise, or if they do not meet."""
    if one.low is None and other.high is None:
        one, other = other, one
    if one.low is None or one.high is not None or other.low is not None or other.high is None:
        return None
    low, high = constant_value(one.low), constant_value(other.high)
    if low is None or high is None or not _float(low) < _float(high):
        return None
    return Span(one.low, other.high, one.has_low, other.has_high)


def _same_region(gold: Region, other: Answer) -> bool | None:
    if isinstance(other, Sequence):
        if other.kind.startswith("pair"):
            return _same_region(gold, span_of(other))
        merged = _merged(other) if other.kind == "list" else None
        return _same_region(gold, merged) if merged is not None else False
    if not isinstance(other, Region):
        return None if isinstance(other, (Words, Relation)) else False
    if "abs" in (gold.name, other.name) and gold.name != other.name:
        expanded = _same_region(_both_signs(gold), _both_signs(other))
        if expanded or "" not in (gold.name, other.name):
            return expanded
        gold, other = replace(gold, name=""), replace(other, name="")
    one, two = _pieces(gold), _pieces(other)
    if one is None or two is None or len(one) != len(two):
        return False if one is not None and two is not None else _same_spans(gold, other)
    return _all(_same_piece(left, right) for left, right in zip(one, two, strict=True))


def _same_spans(gold: Region, other: Region) -> bool | None:
    """Intervals with letters in their ends have no order; compared as written."""
    if len(gold.spans) != len(other.spans):
        return False
    if gold.without or other.without or gold.points or other.points:
        return None
    return _all(
        _all(
            (
                _same_end(left.low, right.low),
                _same_end(left.high, right.high),
                left.has_low == right.has_low,
                left.has_high == right.has_high,
            )
        )
        for left, right in zip(gold.spans, other.spans, strict=True)
    )


def _same_end(one: Node | None, other: Node | None) -> bool | None:
    if one is None or other is None:
        return one is other
    return same_scalar(_decimal(one), _decimal(other))


def _decimal(node: Node) -> Scalar:
    inner = node.args[0] if node.kind == "negate" else node
    if inner.kind != "number" or "." not in inner.name:
        return Scalar(node)
    return Scalar(node, decimals=len(inner.name.partition(".")[2]), digits=len(inner.name.replace(".", "").lstrip("0")))


def span_of(pair: Sequence) -> Region:
    """`(a, b)` or `[a, b]`, so far two values in brackets, as an interval."""
    is_closed = pair.kind == "pair["
    low, high = (item.node if isinstance(item, Scalar) else number(0) for item in pair.items)
    return Region((Span(_finite(low), _finite(high), is_closed, is_closed),))


def _finite(node: Node) -> Node | None:
    inner = node.args[0] if node.kind == "negate" else node
    return None if inner.kind == "constant" and inner.name == "infty" else node


def _both_signs(region: Region) -> Region:
    """|x| in a region, as a region of x."""
    if region.name != "abs" or region.without:
        return region
    spans: list[Span] = []
    for span in region.spans:
        if span.low is None:
            spans.append(Span(_minus(span.high), span.high, span.has_high, span.has_high))
        else:
            spans += [Span(_minus(span.high), _minus(span.low), span.has_high, span.has_low), span]
    return Region(tuple(spans), name="x")


def _minus(node: Node | None) -> Node | None:
    return None if node is None else Node("negate", (node,))


Piece = tuple[float, Span]


def _pieces(region: Region) -> list[Span] | None:
    """The region as disjoint intervals in order, with removed points as gaps; None if an end has no value."""
    spans: list[tuple[float, float, Span]] = []
    for span in (*region.spans, *(Span(point, point, True, True) for point in region.points)):
        low = -float("inf") if span.low is None else _real(span.low)
        high = float("inf") if span.high is None else _real(span.high)
        if low is None or high is None or low > high:
            return None
        if low < high or (low == high and span.has_low and span.has_high):
            spans.append((low, high, span))
    for point in region.without:
        at = _real(point)
        if at is None:
            return None
        spans = [part for span in spans for part in _without_point(span, at, point)]
    return _joined(sorted(spans, key=lambda item: (item[0], not item[2].has_low)))


def _joined(spans: list[tuple[float, float, Span]]) -> list[Span]:
    joined: list[tuple[float, float, Span]] = []
    for low, high, span in spans:
        if joined:
            before_low, before_high, before = joined[-1]
            if low < before_high or (low == before_high and (span.has_low or before.has_high)):
                ends = (
                    (high, span.high, span.has_high)
                    if high > before_high
                    else (before_high, before.high, before.has_high or (high == before_high and span.has_high))
                )
                joined[-1] = (before_low, ends[0], Span(before.low, ends[1], before.has_low, ends[2]))
                continue
        joined.append((low, high, span))
    return [span for *_, span in joined]


def _without_point(item: tuple[float, float, Span], at: float, point: Node) -> list[tuple[float, float, Span]]:
    low, high, span = item
    if at < low or at > high:
        return [item]
    if at == low == high:
        return []
    if at == low:
        return [(low, high, replace(span, has_low=False))]
    if at == high:
        return [(low, high, replace(span, has_high=False))]
    return [(low, at, Span(span.low, point, span.has_low, False)), (at, high, Span(point, span.high, False, span.has_high))]


def _real(node: Node) -> float | None:
    value = constant_value(node)
    real = None if value is None else to_real(value)
    return None if real is None else _float(real)


def _same_piece(one: Span, other: Span) -> bool | None:
    if (one.low is not None and one.has_low != other.has_low) or (one.high is not None and one.has_high != other.has_high):
        return False
    return _all((_same_end(one.low, other.low), _same_end(one.high, other.high)))


def _same_relation(gold: Relation, other: Answer) -> bool | None:
    if isinstance(other, Scalar) and other.name and gold.sign == "=":
        symbol = Node("symbol", name=other.name.partition("(")[0] if "(" not in other.name else "y")
        return _same_equation((gold.left, gold.right), (symbol, other.node))
    if not isinstance(other, Relation):
        return False if isinstance(other, (Scalar, Congruence, Matrix, Ratio)) else None
    if "=" in (gold.sign, other.sign) or "!=" in (gold.sign, other.sign):
        if gold.sign != other.sign:
            return False
        return _same_equation((gold.left, gold.right), (other.left, other.right))
    turns = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    factor = same_zeros(gold.left, gold.right, other.left, other.right)
    if not factor:
        return None
    return (gold.sign == other.sign) == (factor > 0) and (factor > 0 or turns[gold.sign] == other.sign)


def _same_equation(one: tuple[Node, Node], other: tuple[Node, Node]) -> bool | None:
    if same_zeros(*one, *other) != 0:
        return True
    return False if zeros_differ(*one, *other) or zeros_differ(*other, *one) else None


def _same_congruence(gold: Congruence, other: Answer) -> bool | None:
    if not isinstance(other, Congruence):
        return same_scalar(Scalar(gold.residue), other) if isinstance(other, Scalar) else False
    modulus = constant_value(gold.modulus)
    if same_expression(gold.modulus, other.modulus) is not True or not isinstance(modulus, Fraction) or modulus == 0:
        return False
    one, two = constant_value(gold.residue), constant_value(other.residue)
    if not isinstance(one, Fraction) or not isinstance(two, Fraction):
        return same_expression(gold.residue, other.residue)
    return (one - two) % modulus == 0


def _same_matrix(gold: Matrix, other: Answer) -> bool | None:
    if isinstance(other, Sequence):
        entries = gold.rows[0] if len(gold.rows) == 1 else tuple(cell for row in gold.rows for cell in row)
        is_vector = len(gold.rows) == 1 or all(len(row) == 1 for row in gold.rows)
        return _same_ordered(entries, other.items) if is_vector and other.kind != "set" else False
    if not isinstance(other, Matrix):
        return False if isinstance(other, Scalar) else None
    if [len(row) for row in gold.rows] != [len(row) for row in other.rows]:
        return False
    return _all(_same_ordered(one, two) for one, two in zip(gold.rows, other.rows, strict=True))


def _same_ratio(gold: Ratio, other: Answer) -> bool | None:
    if isinstance(other, Scalar) and len(gold.parts) == 2:
        first, second = gold.parts
        if isinstance(first, Scalar) and isinstance(second, Scalar):
            return same_scalar(Scalar(Node("divide", (first.node, second.node))), other)
    if not isinstance(other, Ratio) or len(other.parts) != len(gold.parts):
        return False
    one = [part.node for part in gold.parts if isinstance(part, Scalar)]
    two = [part.node for part in other.parts if isinstance(part, Scalar)]
    # a : b = c : d where a d = b c
    return _all(
        same_expression(Node("multiply", (left, two[0])), Node("multiply", (one[0], right)))
        for left, right in zip(one[1:], two[1:], strict=True)
    )


def _same_words(gold: Words, other: Answer) -> bool:
    return isinstance(other, Words) and _plain(gold.text) == _plain(other.text)


def _plain(text: str) -> str:
    return " ".join("".join(char if char.isalnum() else " " for char in text.casefold()).split())


def _same_field(gold: Field, other: Answer) -> bool | None:
    return gold == other if isinstance(other, Field) else None


def _scalars(gold: Scalar, other: Answer) -> bool | None:
    return same_scalar(gold, other) if isinstance(other, Scalar) else None


# The kind that decides comes first: a list against a number is a matter of lists.
_BY_KIND: tuple[tuple[type, Callable[..., bool | None]], ...] = (
    (Words, _same_words),
    (Field, _same_field),
    (Matrix, _same_matrix),
    (Region, _same_region),
    (Sequence, _same_sequence),
    (Relation, _same_relation),
    (Congruence, _same_congruence),
    (Ratio, _same_ratio),
    (Scalar, _scalars),
)
