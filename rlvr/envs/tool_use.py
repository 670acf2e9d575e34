"""The prompt, then answers of tools for as long as the model calls some."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.envs.base import Opening, Reply
from rlvr.envs.tool_port import ToolPort
from rlvr.types import Message, Problem


class ToolUse:
    """A message without a call ends the rollout. `describe=False`: nothing is said about the tools, which the model knows."""

    def __init__(self, tools: ToolPort, *, describe: bool = True) -> None:
        self._tools = tools
        self._describe = describe
        self._calls = tools.open()

    async def start(self, problem: Problem, seed: int) -> Opening:
        return self._tools.opening(problem, describe=self._describe)

    async def reply(self, messages: Sequence[Message]) -> Reply:
        return await self._calls.answer(messages[-1]) or Reply()

    async def close(self) -> None:
        await self._calls.close()
