"""`{"name": ..., "parameters": {...}}` as the whole message: Llama 3.1 and later."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.tools.base import ToolSpec
from rlvr.tools.parse import MAX_READ, Answer, Asked, Parsed, asked_of, read_json, schemas, spoken, tool_messages
from rlvr.types import Message

_TAG = "<|python_tag|>"
_ENDS = ("<|eom_id|>", "<|eot_id|>")
_PYTHON_TOOLS = ("python", "code_interpreter", "ipython")


class Llama:
    """JSON objects, separated by white space or semicolons, with or without `<|python_tag|>` before them.

    Behind that tag may also stand Python code, for the tool `python`.
    """

    name = "llama"
    marker = "ipython"
    stop: tuple[str, ...] = ()

    def parse(self, text: str, specs: Sequence[ToolSpec]) -> Parsed:
        said = spoken(text)
        before, tag, body = said.partition(_TAG)
        if not tag:
            before, body = "", said
        body = _without_end(body.strip())
        kept = text[: len(text) - len(said)] + before
        if not body.startswith("{"):
            return Parsed(_code(body, specs), kept) if tag else Parsed(text=text)
        asked = _objects(body)
        # An answer in JSON is no call: a call is told by its name, or by the tag.
        if not tag and asked and not asked[0].name and '"name"' not in body[:200]:
            return Parsed(text=text)
        return Parsed(asked, kept)

    def describe(self, specs: Sequence[ToolSpec]) -> str:
        return (
            f"You have these tools:\n{schemas(specs)}\n"
            'To call one, answer with nothing but a JSON object {"name": tool, "parameters": {argument: value, ...}}.'
        )

    def reply(self, answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
        return tool_messages(answers, role)

    def inline(self, answers: Sequence[Answer], text: str) -> str:
        return ""


def _objects(body: str) -> tuple[Asked, ...]:
    asked: list[Asked] = []
    position = 0
    while position < len(body) and len(asked) < MAX_READ:
        found = read_json(body, position)
        if found.problem:
            asked.append(Asked(problem=f"not valid JSON: {found.problem}"))
            break
        asked.append(asked_of(found.value))
        position = found.end
        while position < len(body) and (body[position].isspace() or body[position] in ";,"):
            position += 1
    return tuple(asked)


def _code(body: str, specs: Sequence[ToolSpec]) -> tuple[Asked, ...]:
    for spec in specs:
        if spec.name in _PYTHON_TOOLS and spec.text_argument is not None:
            return (Asked(spec.name, {spec.text_argument: body}),)
    return (Asked(problem=f"behind {_TAG} must stand a JSON object with the name of a tool and its parameters"),)


def _without_end(text: str) -> str:
    for end in _ENDS:
        text = text.removesuffix(end).rstrip()
    return text
