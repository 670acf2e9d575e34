"""The prompt, one answer, done."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.envs.base import Opening, Reply
from rlvr.types import Message, Problem


class SingleTurn:
    """The problem's own messages, and never a reply."""

    async def start(self, problem: Problem, seed: int) -> Opening:
        return Opening(problem.prompt)

    async def reply(self, messages: Sequence[Message]) -> Reply:
        return Reply()

    async def close(self) -> None:
        return None
