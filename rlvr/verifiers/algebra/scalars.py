"""One value: an expression, and the unit or percent sign behind it."""

from __future__ import annotations

from rlvr.verifiers.algebra.expressions import Node, read_expression
from rlvr.verifiers.algebra.kinds import Scalar
from rlvr.verifiers.algebra.tokens import Kind, Token, UnreadableError
from rlvr.verifiers.algebra.units import unit_name

_QUALIFIERS = frozenset(
    {"or", "more", "less", "fewer", "than", "not", "least", "most", "above", "below", "maybe", "if", "when", "but"}
)

_OPERATIONS = frozenset({"squared", "cubed", "factorial"})


def read_scalar(tokens: list[Token]) -> Scalar:
    node, rest = read_expression(tokens)
    is_percent = False
    while rest and rest[0].kind is Kind.MARK and rest[0].text == "%":
        is_percent, rest = True, rest[1:]
    unit = _unit(rest, node)
    if unit == "%":
        is_percent, unit = True, ""
    if node.kind == "degrees":
        node, unit = node.args[0], unit or "°"
    if node.kind == "negate" and node.args[0].kind == "degrees":
        node, unit = Node("negate", (node.args[0].args[0],)), unit or "°"
    decimals, digits = _decimals(node)
    return Scalar(node, "", unit, is_percent, decimals, digits)


def _decimals(node: Node) -> tuple[int | None, int]:
    """Digits after the point, and significant digits, of a decimal or of a decimal times a power of ten."""
    inner = node.args[0] if node.kind == "negate" else node
    shift = 0
    if inner.kind == "multiply" and len(inner.args) == 2 and inner.args[1].kind == "power" and inner.args[1].args[0].value == 10:
        exponent = inner.args[1].args[1]
        sign, exponent = (-1, exponent.args[0]) if exponent.kind == "negate" else (1, exponent)
        if exponent.kind != "number" or exponent.value.denominator != 1:
            return None, 0
        inner, shift = inner.args[0], sign * int(exponent.value)
    if inner.kind != "number" or "." not in inner.name or "e" in inner.name.lower():
        return None, 0
    return len(inner.name.partition(".")[2]) - shift, len(inner.name.replace(".", "").lstrip("0"))


def is_unit(rest: list[Token]) -> bool:
    return bool(rest) and all(
        token.kind in (Kind.TEXT, Kind.NUMBER) or (token.kind is Kind.MARK and token.text in "^{}/-*.()") or token.text == "circ"
        for token in rest
    ) and any(token.kind is Kind.TEXT for token in rest)  # fmt: skip


def _unit(rest: list[Token], node: Node) -> str:
    if not rest:
        return ""
    # °C: the circle was read with the number
    if node.kind == "degrees" and [token.text for token in rest] in (["C"], ["F"]):
        return f"°{rest[0].text}"
    if not is_unit(rest):
        raise UnreadableError(f"{rest[0].text!r} after a value")
    if any(word.lower() in _QUALIFIERS for token in rest if token.kind is Kind.TEXT for word in token.text.split()):
        raise UnreadableError("a bound or a denial, not a value")
    if len(rest) == 1 and rest[0].text.lower() in _OPERATIONS:
        raise UnreadableError(f"{rest[0].text!r} is done to a value")
    return unit_name("".join(f" {token.text}" if token.kind is Kind.TEXT else token.text for token in rest))


def whole_expression(tokens: list[Token]) -> Node:
    node, rest = read_expression(tokens)
    if rest and not is_unit(rest):
        raise UnreadableError(f"{rest[0].text!r} after an expression")
    return node


def try_expression(tokens: list[Token]) -> Node | None:
    try:
        return whole_expression(tokens)
    except UnreadableError:
        return None
