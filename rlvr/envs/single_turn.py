"""The prompt, one answer, done."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.types import Message, Problem


class SingleTurn:
    """The problem's own messages, and never a reply."""

    async def start(self, problem: Problem) -> tuple[Message, ...]:
        return problem.prompt

    async def reply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return ()

    async def close(self) -> None:
        return None
