"""Messages to tokens and back, so that the trainer sees exactly the tokens that the engine saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlvr.errors import ConfigError, boundary
from rlvr.types import Completion, Message, Turn


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
        self._end_ids = frozenset({*end_ids, tokenizer.eos_token_id} - {None})
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

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens that ask the model to answer `messages[-1]`, with one BOS where the tokenizer uses one."""
        text = self._text(messages)
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
        return Message("assistant", self._tokenizer.decode(tokens, skip_special_tokens=False))

    def extend(self, messages: Sequence[Message], turn: Turn, replies: Sequence[Message]) -> tuple[int, ...]:
        """The next prompt, after `turn` answered `messages` and the environment said `replies`.

        Sampled tokens are kept as they are and only the replies are tokenised, unless the template rewrites what
        came before (as those do that drop old reasoning): then the whole conversation is rendered afresh, and
        `Rollout.segments` begins a new segment there.
        """
        tail = self._tail(messages, turn.message, replies)
        if tail is None:
            return self.prompt_ids([*messages, turn.message, *replies])
        tokens = turn.completion.token_ids
        if tokens and tokens[-1] in self._end_ids:
            tail = tail.removeprefix(self._tokenizer.decode(tokens[-1:], skip_special_tokens=False))
        return (*turn.prompt_ids, *tokens, *self._tokenizer.encode(tail, add_special_tokens=False))

    def _tail(self, messages: Sequence[Message], answer: Message, replies: Sequence[Message]) -> str | None:
        """The text that follows the answer; None if the template changed anything before it."""
        before = self._text(messages)
        after = self._text([*messages, answer, *replies])
        for content in (answer.content, answer.content.rstrip(), answer.content.strip()):
            if after.startswith(before + content):
                return after[len(before) + len(content) :]
        return None

    def _text(self, messages: Sequence[Message]) -> str:
        if self.name == "plain":
            return _plain(messages)
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        with boundary(ConfigError, f"the chat template refused a conversation of roles {[m.role for m in messages]}"):
            text = self._tokenizer.apply_chat_template(
                conversation, chat_template=self._jinja, add_generation_prompt=True, tokenize=False
            )
        return str(text)


def _plain(messages: Sequence[Message]) -> str:
    text = ""
    for previous, message in zip([None, *messages], messages, strict=False):
        # The answer follows the line break of its prompt directly; other neighbours are kept apart by an empty line.
        is_apart = previous is not None and "assistant" not in (previous.role, message.role)
        text += ("\n" if is_apart else "") + message.content + "\n"
    return text
