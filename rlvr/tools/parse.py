"""What every format of tool calls has in common: how a call is read from a model's text, and never more than read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlvr.tools.base import ToolSpec
from rlvr.types import JSON, Message

MAX_READ = 1000  # calls of one message; whoever writes more has used up every limit
MAX_CALL_CHARS = 200_000
MAX_DEPTH = 24  # of nested arguments: what is stored must be writable as JSON, inside other JSON
_THINKING_ENDS = "</think>"


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as the model wrote it. `problem` says why it cannot be read, in words for the model.

    `positional` values belong to the tool's arguments in their order (calls in Python's style).
    """

    name: str = ""
    arguments: Mapping[str, JSON] = field(default_factory=dict)
    positional: tuple[JSON, ...] = ()
    problem: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """The calls of a message in order, and its text without them.

    `is_paused`: generation stopped inside the message, which goes on after the answer, or at once where there was no call.
    """

    asked: tuple[Asked, ...] = ()
    text: str = ""
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model is told about one of its calls."""

    text: str
    name: str = ""
    call_id: str = ""
    is_malformed: bool = False


class ToolFormat(Protocol):
    """One way to write calls, and to answer them."""

    @property
    def name(self) -> str: ...

    @property
    def marker(self) -> str:
        """What a chat template that knows this format contains; empty where no template does."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Where generation must stop, so that the answer can stand inside the message. Empty: a call ends the message."""
        ...

    def parse(self, text: str, specs: Sequence[ToolSpec]) -> Parsed:
        """The calls in what the model wrote. Never raises, whatever the text; its time is linear in the text."""
        ...

    def describe(self, specs: Sequence[ToolSpec]) -> str:
        """Tools and format, for the system message of a model whose template does not say it."""
        ...

    def reply(self, answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
        """The messages that answer, with `role` tool or, where the template has no such role, user.

        Formats with `stop` have none.
        """
        ...

    def inline(self, answers: Sequence[Answer], text: str) -> str:
        """The text that goes on after `text` inside the message; for formats with `stop`."""
        ...


def spoken(text: str) -> str:
    """`text` without its reasoning: a model that thinks about a call does not make it."""
    return text.rpartition(_THINKING_ENDS)[2]


@dataclass(frozen=True, slots=True)
class Read:
    """A JSON value at the beginning of a text, and where it ends; `problem` if there is none."""

    value: JSON = None
    end: int = 0
    problem: str = ""


def read_json(text: str, start: int = 0) -> Read:
    """The JSON value that begins at `start` (after white space) and has at most `MAX_CALL_CHARS`. Never raises."""
    # A window, so that a thousand broken calls in a long text cost no more than a thousand windows.
    window = text[start : start + MAX_CALL_CHARS]
    padding = len(window) - len(window.lstrip())
    try:
        value, end = _DECODER.raw_decode(window, padding)
    except json.JSONDecodeError as error:
        return Read(problem=f"{error.msg} at character {error.pos - padding}")
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, thousands of brackets
        return Read(problem="nested too deeply" if isinstance(error, RecursionError) else str(error))
    if not _is_plain(value, MAX_DEPTH):
        return Read(problem=f"numbers must be finite, and values nested at most {MAX_DEPTH} deep")
    return Read(value, start + end)


def asked_of(value: JSON) -> Asked:
    """The call in a JSON object `{"name", "arguments"}` (or `"parameters"`, as Llama writes it)."""
    if not isinstance(value, dict):
        return Asked(problem=f"a call is a JSON object, not {_kind(value)}")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return Asked(problem='the call has no "name"')
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI's form: JSON inside a string
        inner = read_json(arguments)
        arguments = inner.value if not inner.problem else None
    if arguments is None:
        arguments = {}
    call_id = value.get("id")
    if not isinstance(arguments, dict):
        return Asked(name, problem=f'"arguments" must be a JSON object, not {_kind(arguments)}')
    return Asked(name, arguments, id=call_id if isinstance(call_id, str) else "")


def signatures(specs: Sequence[ToolSpec]) -> str:
    """The tools as Python signatures with their descriptions, one a line."""
    lines = []
    for spec in specs:
        properties = spec.parameters.get("properties", {})
        parts = [
            f"{name}: {properties[name].get('type', 'any')}" + ("" if name in spec.required else " = ...") for name in spec.names
        ]
        about = " ".join(spec.description.split())
        lines.append(f"{spec.name}({', '.join(parts)})" + (f"  # {about}" if about else ""))
    return "\n".join(lines)


def schemas(specs: Sequence[ToolSpec]) -> str:
    """The tools as JSON Schemas, one a line."""
    return "\n".join(json.dumps(spec.to_json(), ensure_ascii=False) for spec in specs)


def tool_messages(answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
    """A message for each answer; in one of the user's, marked as what a tool said, where the template knows no tools."""
    if role == "tool":
        return tuple(Message("tool", answer.text, call_id=answer.call_id, name=answer.name) for answer in answers)
    texts = [f"<tool_response>\n{answer.text}\n</tool_response>" for answer in answers]
    return (Message(role, "\n".join(texts)),)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, dict | list):
        return True
    items = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_plain(item, depth - 1) for item in items)


def _kind(value: JSON) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}.get(
        type(value), "a number"
    )
