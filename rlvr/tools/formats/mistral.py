"""`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, and `[TOOL_CALLS]name[ARGS]{...}` of later models: Mistral."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.tools.base import ToolSpec
from rlvr.tools.parse import MAX_READ, Answer, Asked, Parsed, asked_of, read_json, schemas, tool_messages
from rlvr.types import Message

_TAG, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_MAX_NAME = 256


class Mistral:
    """A JSON list behind the tag, or the tag, a name and the arguments for each call.

    Its templates take a tool's message only after an assistant's message with calls, so malformed ones are answered as the user.
    """

    name = "mistral"
    marker = _TAG
    stop: tuple[str, ...] = ()

    def parse(self, text: str, specs: Sequence[ToolSpec]) -> Parsed:
        kept, tag, body = text.partition(_TAG)
        if not tag:
            return Parsed(text=text)
        asked = _list(body) if body.lstrip().startswith(("[{", "[ {", "[]", "[\n", "{")) else _named(body)
        return Parsed(tuple(asked), kept.rstrip())

    def describe(self, specs: Sequence[ToolSpec]) -> str:
        return (
            f"You have these tools:\n{schemas(specs)}\n"
            f'To call some, end your message with {_TAG} [{{"name": "...", "arguments": {{...}}}}].'
        )

    def reply(self, answers: Sequence[Answer], role: str) -> tuple[Message, ...]:
        if any(answer.is_malformed for answer in answers):
            return (Message("user", "\n".join(answer.text for answer in answers)),)
        return tool_messages(answers, role)

    def inline(self, answers: Sequence[Answer], text: str) -> str:
        return ""


def _list(body: str) -> list[Asked]:
    found = read_json(body)
    if found.problem:
        return [Asked(problem=f"not valid JSON: {found.problem}")]
    values = found.value if isinstance(found.value, list) else [found.value]
    return [asked_of(value) for value in values[:MAX_READ]] or [Asked(problem="the list of calls is empty")]


def _named(body: str) -> list[Asked]:
    asked: list[Asked] = []
    position = 0
    while position < len(body) and len(asked) < MAX_READ:
        arguments = body.find(_ARGS, position)
        if arguments < 0:
            asked.append(Asked(problem=f"behind {_TAG} must stand a list of calls, or a name, {_ARGS} and a JSON object"))
            break
        name, _, call_id = body[position:arguments][: 2 * _MAX_NAME].partition(_ID)
        found = read_json(body, arguments + len(_ARGS))
        if found.problem:
            asked.append(Asked(name.strip(), problem=f"not valid JSON: {found.problem}"))
            break
        asked.append(asked_of({"name": name.strip(), "arguments": found.value, "id": call_id.strip()}))
        rest = body[found.end :].lstrip()
        if not rest.startswith(_TAG):
            break
        position = body.index(_TAG, found.end) + len(_TAG)
    return asked
