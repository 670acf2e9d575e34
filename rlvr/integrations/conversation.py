"""Rollouts from what other trainers hold: texts, chat messages, rows of a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.errors import ConfigError
from rlvr.types import JSON, Completion, FinishReason, Message, Problem, Rollout, Stop, Turn

MAX_PREFIX_CHARS = 64  # what a tokenizer may put before the prompt: its begin-of-text token, a space
_SPECIAL_TOKEN = re.compile(r"<[|｜][^<>|｜]{1,40}[|｜]>$")
_END_TOKENS = ("</s>", "<eos>", "<pad>", "<end_of_turn>", "<turn|>", "[EOS]", "[PAD]")


def conversation_rollout(
    completion: str | Sequence[Mapping[str, Any]],
    answer: JSON,
    *,
    prompt: str | Sequence[Mapping[str, Any]] = "",
    metadata: Mapping[str, JSON] | None = None,
    identity: str = "",
    tokens: int = 0,
) -> Rollout:
    """A rollout of a completion that is text or chat messages; each assistant message is a turn, what follows are its replies.

    `tokens` is how many tokens the completion has, where that is known; they are counted for the last turn.

    Raises:
        ConfigError: a message is not `{"role", "content"}`.
    """
    problem = Problem(identity, _messages(prompt, "user"), plain(answer), metadata or {})
    turns: list[Turn] = []
    for message in _messages(completion, "assistant"):
        if message.role == "assistant":
            turns.append(Turn((), Completion((), (), FinishReason.STOP), message))
        elif turns:
            last = turns.pop()
            turns.append(Turn((), last.completion, last.message, (*last.replies, message)))
    if turns and tokens:
        last = turns.pop()
        turns.append(Turn((), Completion((0,) * tokens, (0.0,) * tokens, FinishReason.STOP), last.message, last.replies))
    return Rollout(problem, 0, turns, Stop.STOP)


def response_of(query: str, prompt: str) -> str:
    """The response in `query`, the decoded tokens of prompt and response: without the prompt and the special tokens at the end.

    The prompt may stand behind a begin-of-text token, or have lost its beginning where it was too long.

    Raises:
        ConfigError: `query` does not begin with `prompt`.
    """
    start = query.find(prompt, 0, len(prompt) + MAX_PREFIX_CHARS)
    end = start + len(prompt) if start >= 0 else _overlap(prompt, query)
    if not end and prompt:
        raise ConfigError(f"a query does not begin with its prompt: the query is {query[:80]!r}, the prompt {prompt[:80]!r}")
    return without_end_tokens(query[end:])


def without_end_tokens(text: str) -> str:
    """`text` without the special tokens, such as `<|im_end|>` or `</s>`, that a decoder left at its end."""
    while True:
        text = text.rstrip()
        special = _SPECIAL_TOKEN.search(text, max(0, len(text) - 48))
        ending = special[0] if special else next((token for token in _END_TOKENS if text.endswith(token)), "")
        if not ending:
            return text
        text = text[: -len(ending)]


def plain(value: Any) -> JSON:
    """Data-set values as JSON: numpy numbers and arrays become Python's own; what has no JSON form stays as it is."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if not isinstance(value, (str, int, float, bool, type(None))) and hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def is_json(value: Any) -> bool:
    """Whether `value` has a JSON form; images, dates and bytes have none."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_json(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))


def json_fields(row: Mapping[str, Any]) -> dict[str, JSON]:
    """The fields of a row that have a JSON form; the others mean nothing to a verifier."""
    fields = {str(key): plain(value) for key, value in row.items()}
    return {key: value for key, value in fields.items() if is_json(value)}


def _messages(conversation: str | Sequence[Mapping[str, Any]], role: str) -> tuple[Message, ...]:
    if isinstance(conversation, str):
        return (Message(role, conversation),) if conversation or role == "assistant" else ()
    for message in conversation:
        if not isinstance(message, Mapping) or "role" not in message:
            raise ConfigError(
                f"a conversation is text or a list of {{'role', 'content'}}, but one message is {str(message)[:80]!r}"
            )
    return tuple(Message(str(message["role"]), _content(message)) for message in conversation)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):  # parts: text beside images and the like
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    reasoning = message.get("reasoning_content") or message.get("thinking") or ""
    # Trainers that parse the reasoning out of the text leave it here; verifiers look for it in the text.
    return f"<think>{reasoning}</think>{content}" if isinstance(reasoning, str) and reasoning else content


def _overlap(prompt: str, query: str) -> int:
    """The length of the longest end of `prompt` that `query` begins with."""
    start = query[:16]
    position = prompt.find(start) if start else -1
    while position >= 0:
        if query.startswith(prompt[position:]):
            return len(prompt) - position
        position = prompt.find(start, position + 1)
    return 0
