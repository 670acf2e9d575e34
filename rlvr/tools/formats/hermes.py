"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen and most models of ChatML's family."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.tools.base import ToolSpec
from rlvr.tools.parse import MAX_READ, Answer, Asked, Parsed, asked_of, read_json, schemas, spoken, tool_messages
from rlvr.types import Message

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    """A JSON object for each call, between tags; several may follow each other."""

    name = "hermes"
    marker = _OPEN
    stop: tuple[str, ...] = ()

    def parse(self, text: str, specs: Sequence[ToolSpec]) -> Parsed:
        said = spoken(text)
        first = said.find(_OPEN)
        if first < 0:
            return Parsed(text=text)
        asked: list[Asked] = []
        position = first
        while position >= 0 and len(asked) < MAX_READ:
            one, end = _read(said, position + len(_OPEN))
            asked.append(one)
            position = said.find(_OPEN, end)
        kept = text[: len(text) - len(said)] + said[:first].rstrip()
        return Parsed(tuple(asked), kept)

    def describe(self, specs: Sequence[ToolSpec]) -> str:
        return (
            f"You may call tools. These are their signatures:\n<tools>\n{schemas(specs)}\n</tools>\n"
            f"To call one, write a JSON object with its name and arguments, and end your message:\n"
            f'{_OPEN}\n{{"name": "...", "arguments": {{...}}}}\n{_CLOSE}'
        )

    def reply(self, answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
        return tool_messages(answers, role)

    def inline(self, answers: Sequence[Answer], text: str) -> str:
        return ""


def _read(text: str, start: int) -> tuple[Asked, int]:
    """The call whose object begins at `start`, and where to look for the next one."""
    found = read_json(text, start)
    if not found.problem:
        rest = text[found.end : found.end + 64].lstrip()
        if rest.startswith(_CLOSE):
            return asked_of(found.value), text.index(_CLOSE, found.end) + len(_CLOSE)
        return Asked(problem=f"after the JSON object {_CLOSE} must follow"), found.end
    # Goes on behind the broken object, which may hold opening tags of its own.
    close = text.find(_CLOSE, start)
    if close < 0:
        return Asked(problem=f"the call is not closed by {_CLOSE}, or not valid JSON: {found.problem}"), len(text)
    return Asked(problem=f"not valid JSON: {found.problem}"), close + len(_CLOSE)
