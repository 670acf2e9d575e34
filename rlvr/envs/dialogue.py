"""The model's side of a rollout: who is asked, and what it is shown next. Token for token, or message by message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from rlvr.envs.base import Opening, Reply
from rlvr.envs.renderer import Renderer
from rlvr.errors import ConfigError
from rlvr.types import JSON, Completion, Engine, Message, Sampling, Turn


@runtime_checkable
class ChatEngine(Protocol):
    """Messages in, a message out: a server that keeps its tokens to itself. Nothing can be trained on what it says."""

    async def chat(self, messages: Sequence[Message], tools: Sequence[Mapping[str, JSON]], sampling: Sampling) -> ChatAnswer:
        """
        Raises:
            ContextFullError: the conversation is too long for the model.
            EngineError: the server cannot be reached or refuses.
        """
        ...


class ChatAnswer(Protocol):
    """What a chat engine returned."""

    @property
    def message(self) -> Message: ...

    @property
    def completion(self) -> Completion:
        """Without token ids: how many there were, and why it ended."""
        ...


class Dialogue(Protocol):
    """One rollout's conversation with the model."""

    @property
    def messages(self) -> Sequence[Message]:
        """All that was said, but for the model's latest message while it is not answered."""
        ...

    async def ask(self, sampling: Sampling) -> Turn:
        """The model's next message, or the next part of it.

        Raises:
            ContextFullError: the conversation fills the model's context.
            EngineError: the engine failed.
        """
        ...

    def take(self, turn: Turn, reply: Reply) -> Turn:
        """Take over what the environment replied to `turn`: the turn as it is recorded."""
        ...


class TokenDialogue:
    """An engine that takes and gives tokens. What was sampled is never tokenised again; see `Renderer.extend`."""

    def __init__(self, engine: Engine, renderer: Renderer, opening: Opening) -> None:
        self._engine = engine
        self._renderer = renderer
        self._tools = opening.tools
        self.messages: list[Message] = list(opening.messages)
        self._prompt_ids = renderer.prompt_ids(self.messages, self._tools)
        self._begun = ""  # of the model's message, where it was answered inside

    async def ask(self, sampling: Sampling) -> Turn:
        completion = await self._engine.generate(self._prompt_ids, sampling)
        return Turn(self._prompt_ids, completion, self._renderer.parse(completion))

    def take(self, turn: Turn, reply: Reply) -> Turn:
        if reply.inline is not None:
            inline = self._renderer.harmless(reply.inline)
            self._prompt_ids = self._renderer.append(turn, inline)
            self._begun += turn.message.content + inline
            return replace(turn, inline=inline, calls=reply.calls)
        spoken = replace(turn.message, calls=reply.asked, before_calls=reply.before_calls)
        replies = tuple(replace(one, content=self._renderer.harmless(one.content)) for one in reply.messages)
        turn = replace(turn, message=spoken, replies=replies, calls=reply.calls)
        if reply.is_last:
            return turn
        answer = replace(spoken, content=self._begun + spoken.content)
        self._prompt_ids = self._renderer.extend(self.messages, turn, replies, tools=self._tools, answer=answer)
        self.messages += [answer, *replies]
        self._begun = ""
        return turn


class ChatDialogue:
    """A server that takes and gives messages.

    Raises:
        ConfigError: a format of tool calls that answers inside the message, which such servers do not allow.
    """

    def __init__(self, engine: ChatEngine, opening: Opening) -> None:
        if opening.stop:
            raise ConfigError("this engine takes whole messages: set env.format to one that does not answer inside them, or auto")
        self._engine = engine
        self._tools = opening.tools
        self.messages: list[Message] = list(opening.messages)

    async def ask(self, sampling: Sampling) -> Turn:
        answer = await self._engine.chat(self.messages, self._tools, sampling)
        return Turn((), answer.completion, answer.message)

    def take(self, turn: Turn, reply: Reply) -> Turn:
        self.messages += [turn.message, *reply.messages]
        return replace(turn, replies=reply.messages, calls=reply.calls)
