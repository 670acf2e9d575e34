"""Messages to tokens and back, so that the trainer sees exactly the tokens that the engine saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from rlvr.errors import ConfigError, boundary
from rlvr.types import JSON, Completion, Message, Turn

Tools = Sequence[Mapping[str, JSON]]  # JSON Schemas of functions


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    chat_template: Any
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def apply_chat_template(self, conversation: Any, **settings: Any) -> Any: ...


class Renderer:
    """Turns conversations into prompt tokens.

    `template` is `chat` (the tokenizer's own), `plain` (message texts, an empty line between them and a line break
    at the end: what a base model expects), the path of a Jinja file, or `auto`: chat where the tokenizer has a
    template, else plain. `notice` says so when `auto` had to choose plain. `end_ids` are the tokens that end the model's
    turn, of which some models have several; the tokenizer's own is always one.

    Raises:
        ConfigError: `chat` with a tokenizer that has no template, or a template file that cannot be read.
    """

    def __init__(self, tokenizer: Tokenizer, template: str = "auto", *, end_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._end_ids = frozenset(token for token in (*end_ids, tokenizer.eos_token_id) if token is not None)
        self._ends = tuple(filter(None, (self._decode([token]) for token in sorted(self._end_ids))))
        self._specials = _special_tokens(tokenizer)
        self._jinja: str | None = None
        self.notice: str | None = None
        has_template = bool(tokenizer.chat_template)
        if template == "auto":
            template = "chat" if has_template else "plain"
            if not has_template:
                self.notice = "this model has no chat template (a base model): prompts are rendered as plain text"
        if template == "chat" and not has_template:
            raise ConfigError("template = 'chat', but the tokenizer has no chat template; use 'plain' or give a Jinja file")
        if template not in ("chat", "plain"):
            try:
                self._jinja = Path(template).read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"template = {template!r} is neither 'auto', 'chat', 'plain' nor a readable file") from error
        self.name = template
        self._prompt_ids = lru_cache(maxsize=64)(self._encoded)  # a group's rollouts ask for the same prompt, one after another

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def chat_template(self) -> str | None:
        """The Jinja text that renders; None for plain text."""
        if self.name == "plain":
            return None
        return self._jinja if self._jinja is not None else str(self._tokenizer.chat_template)

    def prompt_ids(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[int, ...]:
        """The tokens that ask the model to answer `messages[-1]`, with one BOS where the tokenizer uses one.

        Raises:
            ConfigError: the chat template refuses the conversation.
        """
        return self._prompt_ids(self._text(messages, tools))

    def _encoded(self, text: str) -> tuple[int, ...]:
        if self.name != "plain":  # a template writes its own BOS; the tokenizer must not add a second one
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))
        tokens = tuple(self._tokenizer.encode(text, add_special_tokens=True))
        # Some tokenizers close every text with an end-of-sequence token: nothing would be left to answer.
        return tokens[:-1] if tokens and tokens[-1] in self._end_ids else tokens

    def parse(self, completion: Completion) -> Message:
        """The assistant's message: the sampled tokens as text, without the end-of-sequence token."""
        tokens = completion.token_ids
        if tokens and tokens[-1] in self._end_ids:
            tokens = tokens[:-1]
        return Message("assistant", self._decode(tokens))

    def extend(
        self,
        messages: Sequence[Message],
        turn: Turn,
        replies: Sequence[Message],
        *,
        tools: Tools = (),
        answer: Message | None = None,
    ) -> tuple[int, ...]:
        """The next prompt, after `turn` answered `messages` and the environment said `replies`.

        Sampled tokens are kept as they are and only the replies are tokenised, unless the template rewrites what came before (as
        those do that drop old reasoning): then the whole conversation is rendered afresh, and `Rollout.segments` begins a new
        segment there. White space that a template adds to the answer or removes from it does not count as rewriting, nor does its
        own way to write the calls in it. `answer` is the whole message where `turn` only wrote its end.

        Raises:
            ConfigError: the chat template refuses the conversation.
        """
        answer = answer or turn.message
        tail = self._tail(messages, answer, replies, tools)
        if tail is None:
            return self.prompt_ids([*messages, answer, *replies], tools)
        tokens = turn.completion.token_ids
        if tokens and tokens[-1] in self._end_ids:
            tail = self._without_end(tail)
        return (*turn.prompt_ids, *tokens, *self._tokenizer.encode(tail, add_special_tokens=False))

    def append(self, turn: Turn, text: str) -> tuple[int, ...]:
        """The next prompt where the environment answers inside the message of `turn`: all of its tokens, then those of `text`."""
        appended = self._tokenizer.encode(text, add_special_tokens=False) if text else ()
        return (*turn.prompt_ids, *turn.completion.token_ids, *appended)

    def harmless(self, text: str) -> str:
        """`text` with special tokens broken by a space: what a tool says must not end a turn or begin one."""
        for special in self._specials:
            if special in text:
                text = text.replace(special, f"{special[0]} {special[1:]}")
        return text

    def can_show(self, role: str) -> bool:
        """Whether a message of `role` (system: the first; another: after an answer) reaches the prompt."""
        probe = "rlvr-probe-7361"
        user, answer = Message("user", "Hello."), Message("assistant", "Hello.")
        messages = [Message(role, probe), user] if role == "system" else [user, answer, Message(role, probe)]
        try:
            return probe in self._text(messages)
        except ConfigError:
            return False

    def shows_tools(self, tools: Tools) -> bool:
        """Whether the template itself tells the model about tools."""
        names = [str(tool.get("function", {}).get("name")) for tool in tools]
        if self.name == "plain" or not names:
            return False
        try:
            text = self._text([Message("user", "Hello.")], tools)
        except ConfigError:
            return False
        return all(name in text for name in names)

    def _tail(self, messages: Sequence[Message], answer: Message, replies: Sequence[Message], tools: Tools) -> str | None:
        """The text that follows the answer; None if the template changed anything before it."""
        whole = [*messages, answer, *replies]
        try:
            before, after = self._render(messages, tools), self._render(whole, tools)
        except ConfigError:
            if not _has_calls(whole):
                raise  # `prompt_ids` would say the same
        else:
            end = _end_of(answer.content, after, _end_of_prefix(before, after))
            if end is not None:
                return after[end:]
        return self._tail_of_calls(messages, answer, replies, tools) if _has_calls(whole) else None

    def _tail_of_calls(
        self, messages: Sequence[Message], answer: Message, replies: Sequence[Message], tools: Tools
    ) -> str | None:
        """The same, with the calls given to the template apart, which writes them in a form of its own."""
        before = self._render(messages, tools, is_apart=True)
        closed = self._render([*messages, answer], tools, is_apart=True, asks=False)
        after = self._render([*messages, answer, *replies], tools, is_apart=True)
        end = _end_of(answer.before_calls if answer.calls else answer.content, closed, _end_of_prefix(before, closed))
        if end is None or not after.startswith(closed):
            return None
        ending = max((closed.rfind(text, end) for text in self._ends), default=-1)
        return closed[ending:] + after[len(closed) :] if ending >= 0 else after[len(closed) :]

    def _without_end(self, tail: str) -> str:
        """`tail` without the end-of-turn token that the model has sampled itself, whichever of them it was."""
        stripped = tail.lstrip()
        ending = next((text for text in self._ends if stripped.startswith(text)), None)
        return tail if ending is None else stripped[len(ending) :]

    def _text(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        try:
            return self._render(messages, tools)
        except ConfigError:
            if not _has_calls(messages):
                raise
        return self._render(messages, tools, is_apart=True)

    def _render(self, messages: Sequence[Message], tools: Tools = (), *, is_apart: bool = False, asks: bool = True) -> str:
        """`is_apart`: calls are given apart from the text; `asks`: the text ends where the model is to answer."""
        if self.name == "plain":
            return _plain(messages)
        conversation = [_for_template(message, is_apart=is_apart) for message in messages]
        with boundary(ConfigError, f"the chat template refused a conversation of roles {[m.role for m in messages]}"):
            text = self._tokenizer.apply_chat_template(
                conversation,
                chat_template=self._jinja,
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=asks,
                tokenize=False,
            )
        return str(text)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)


def _special_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    found = {str(token) for token in added.values() if getattr(token, "special", False)}
    found |= {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    return tuple(sorted(text for text in found if len(text) > 1))


def _for_template(message: Message, *, is_apart: bool) -> dict[str, JSON]:
    row: dict[str, JSON] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        row |= {"name": message.name, "tool_call_id": message.call_id}
    if is_apart and message.calls:
        row["content"] = message.before_calls
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.calls
        ]
    return row


def _has_calls(messages: Sequence[Message]) -> bool:
    return any(message.calls for message in messages)


def _end_of_prefix(before: str, text: str) -> int | None:
    """Where `text` goes on after `before`; None if it does not begin with it."""
    for prefix in (before, before.rstrip()):
        if text.startswith(prefix):
            return len(prefix)
    return None


def _end_of(content: str, text: str, start: int | None) -> int | None:
    """Where `content` ends that `text` holds from `start` on, white space aside; None if it holds something else."""
    if start is None:
        return None
    if text.startswith(content, start):
        return start + len(content)
    position = start
    for word in content.split():
        found = _end_of_word(word, text, position)
        if found is None:
            return None
        position = found
    for character in content[len(content.rstrip()) :]:
        if position < len(text) and text[position] == character:
            position += 1
    return position


def _end_of_word(word: str, text: str, position: int) -> int | None:
    while position < len(text) and text[position].isspace():
        position += 1
    if text.startswith(word, position):
        return position + len(word)
    for character in word:  # white space inside, as templates put it around the end of the reasoning
        while position < len(text) and text[position].isspace():
            position += 1
        if not text.startswith(character, position):
            return None
        position += 1
    return position


def _plain(messages: Sequence[Message]) -> str:
    text = ""
    for previous, message in zip([None, *messages], messages, strict=False):
        # The answer follows the line break of its prompt directly; other neighbours are kept apart by an empty line.
        is_apart = previous is not None and "assistant" not in (previous.role, message.role)
        text += ("\n" if is_apart else "") + message.content + "\n"
    return text
