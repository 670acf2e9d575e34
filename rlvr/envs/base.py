"""What an environment is: it opens the conversation and answers the model until it has nothing more to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlvr.types import Message, Problem


class Env(Protocol):
    """One instance serves one rollout, so it may keep state on itself."""

    async def start(self, problem: Problem) -> tuple[Message, ...]:
        """The opening messages; the last one is what the model answers."""
        ...

    async def reply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """What comes after the model's latest message (`messages[-1]`); empty when the rollout is over.

        Raises:
            ToolError, SandboxError: infrastructure failed; the rollout ends unscored.
        """
        ...

    async def close(self) -> None:
        """Give back what `start` and `reply` took. Called exactly once, also after an error."""
        ...
