"""`lookup(city="Rome")`, several, one a line: Python-style calls, read from the syntax tree and never run.

Arguments are literals alone. The calls stand between `<function_calls>` tags (OLMo's convention) or are the whole message, there
also as one list (Llama's "pythonic" convention).
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.tools.base import ToolSpec
from rlvr.tools.parse import MAX_DEPTH, MAX_READ, Answer, Asked, Parsed, signatures, spoken, tool_messages
from rlvr.types import JSON, Message

_OPEN, _CLOSE = "<function_calls>", "</function_calls>"
_MAX_CHARS = 50_000
_NAMED_LITERALS = {"true": True, "false": False, "null": None}  # JSON's spelling, which models mix in


class PythonCalls:
    """Calls in Python's syntax; positional arguments take the tool's arguments in order."""

    name = "python"
    marker = _OPEN
    stop: tuple[str, ...] = ()

    def parse(self, text: str, specs: Sequence[ToolSpec]) -> Parsed:
        said = spoken(text)
        before, tag, rest = said.partition(_OPEN)
        kept = text[: len(text) - len(said)]
        if tag:
            body, closed, _ = rest.partition(_CLOSE)
            if not closed:
                return Parsed((Asked(problem=f"the calls are not closed by {_CLOSE}"),), kept + before.rstrip())
            return Parsed(_calls(body) or (Asked(problem="there is no call between the tags"),), kept + before.rstrip())
        # Without tags only a message that is nothing but calls of known tools: prose may well parse as Python.
        if "(" not in said or not said.lstrip("[ \n").startswith(tuple(f"{spec.name}(" for spec in specs)):
            return Parsed(text=text)
        calls = _calls(said)
        return Parsed(calls, kept) if not any(call.problem for call in calls) else Parsed(text=text)

    def describe(self, specs: Sequence[ToolSpec]) -> str:
        return (
            f"You have these functions:\n{signatures(specs)}\n"
            f"To call some, end your message with the calls, one a line, arguments as literals:\n"
            f'{_OPEN}\nname(argument="value")\n{_CLOSE}'
        )

    def reply(self, answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
        """One message with all outputs, in the order of the calls."""
        joined = "\n".join(answer.text for answer in answers)
        return tool_messages([Answer(joined, answers[0].name, answers[0].call_id)], role)

    def inline(self, answers: Sequence[Answer], text: str) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class _UnreadableError(ValueError):
    reason: str


def _calls(body: str) -> tuple[Asked, ...]:
    lines = [line.strip() for line in body.strip().splitlines() if line.strip()]
    whole = _statements("\n".join(lines) if len(lines) == 1 else body.strip())
    if whole is not None:
        return _asked(whole)
    # One broken line must not take the others with it.
    found: list[Asked] = []
    for line in lines[:MAX_READ]:
        statements = _statements(line)
        found += (
            _asked(statements) if statements is not None else [Asked(problem=f"{line[:80]!r} is not a call in Python's syntax")]
        )
    return tuple(found)


def _statements(source: str) -> list[ast.stmt] | None:
    if len(source) > _MAX_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "\d" in a string
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _asked(statements: Sequence[ast.stmt]) -> tuple[Asked, ...]:
    expressions: list[ast.expr | None] = []
    for statement in statements:
        value = statement.value if isinstance(statement, ast.Expr) else None
        expressions += value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    return tuple(_call(expression) for expression in expressions[:MAX_READ])


def _call(node: ast.expr | None) -> Asked:
    if not isinstance(node, ast.Call):
        return Asked(problem="only calls may stand here, such as name(argument=1)")
    name = _dotted(node.func)
    if not name:
        return Asked(problem="what is called must be a name")
    try:
        positional = tuple(_literal(argument, MAX_DEPTH) for argument in node.args)
        arguments: dict[str, JSON] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _UnreadableError("** is not allowed")
            arguments[keyword.arg] = _literal(keyword.value, MAX_DEPTH)
    except _UnreadableError as error:
        return Asked(name, problem=error.reason)
    return Asked(name, arguments, positional)


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _literal(node: ast.expr, depth: int) -> JSON:
    if depth == 0:
        raise _UnreadableError("an argument is nested too deeply")
    match node:
        case ast.Constant(value=str() | int() | None as value):
            return value
        case ast.Constant(value=float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return -number if isinstance(node.op, ast.USub) else number
        case ast.List() | ast.Tuple():
            return [_literal(item, depth - 1) for item in node.elts]
        case ast.Dict():
            return {_key(key): _literal(value, depth - 1) for key, value in zip(node.keys, node.values, strict=True)}
        case ast.Name(id=name) if name in _NAMED_LITERALS:
            return _NAMED_LITERALS[name]
    raise _UnreadableError("arguments must be literals: numbers, strings, lists, dictionaries, True, False, None")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise _UnreadableError("the keys of a dictionary must be strings")
