"""What an environment is: it opens the conversation and answers the model until it has nothing more to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlvr.types import JSON, FunctionCall, Message, Problem, Stop, ToolCall


@dataclass(frozen=True, slots=True)
class Opening:
    """How a rollout begins: the messages, the last of which the model answers.

    `tools` are JSON Schemas of functions that a chat template shows in its own way. At one of the strings in `stop` generation
    pauses, so that the environment can answer inside the model's message.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, JSON], ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes after the model's latest message: `messages`, or `inline` text inside that message, which then goes on.

    A reply with neither ends the rollout, and so does `stop`, which says why. `calls` is the record of the tool calls that were
    made; `asked` are those that could be read, and `before_calls` is the model's text before them, for chat templates that want
    calls apart from text.
    """

    messages: tuple[Message, ...] = ()
    inline: str | None = None
    stop: Stop | None = None
    calls: tuple[ToolCall, ...] = ()
    asked: tuple[FunctionCall, ...] = ()
    before_calls: str = ""

    @property
    def is_last(self) -> bool:
        """Whether the rollout is over."""
        return self.stop is not None or (not self.messages and self.inline is None)


class Env(Protocol):
    """One instance serves one rollout, so it may keep state on itself."""

    async def start(self, problem: Problem, seed: int) -> Opening:
        """How the rollout begins. Whatever the environment draws at random it derives from `seed` (see `rlvr.seeding`).

        Raises:
            ToolError, SandboxError: infrastructure failed; the rollout ends unscored.
        """
        ...

    async def reply(self, messages: Sequence[Message]) -> Reply:
        """What comes after `messages[-1]`, the model's latest; where a tool answered inside a message, it is what came since.

        Raises:
            ToolError, SandboxError: infrastructure failed; the rollout ends unscored.
        """
        ...

    async def close(self) -> None:
        """Give back what `start` and `reply` took. Called exactly once, also after an error."""
        ...
