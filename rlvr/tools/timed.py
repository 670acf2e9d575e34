"""A tool with the time that a call of it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from rlvr.errors import CallError, RlvrError, RolloutError, ToolError, boundary
from rlvr.tools.base import Output, RemoteTool, Scope, SessionTool, Tool, ToolSpec
from rlvr.types import JSON

_GRACE_S = 30.0  # for a session to stop what runs in it


class TimedTool:
    """Calls `tool` and stops waiting after `Scope.call_s`; a session has a grace on top, a `RemoteTool` all its time."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.session = tool if isinstance(tool, SessionTool) else None
        self._is_timed = not isinstance(tool, RemoteTool)
        self._grace_s = 0.0 if self.session is None else _GRACE_S
        self._abandoned: set[asyncio.Task[Output]] = set()

    @property
    def spec(self) -> ToolSpec:
        return self.tool.spec

    @property
    def is_ordered(self) -> bool:
        return self.tool.is_ordered

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> Output:
        """
        Raises:
            CallError: the call failed, or time was up.
            ToolError, SandboxError: infrastructure failed.
        """
        if self.session is not None:
            await self.session.prepare(scope)
        task = asyncio.ensure_future(_call(self.tool, arguments, scope))
        try:
            # Not wait_for: it would wait for a tool that does not heed its cancellation.
            done, _ = await asyncio.wait([task], timeout=scope.call_s + self._grace_s if self._is_timed else None)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            raise CallError(f"{self.spec.name} was stopped after {scope.call_s:g} s", is_timeout=True)
        return task.result()

    def close(self) -> None:
        """Cancel the calls that nobody waits for any more."""
        for task in self._abandoned:
            task.cancel()

    def _abandon(self, task: asyncio.Task[Output]) -> None:
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Output]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio would complain that nobody asked


async def _call(tool: Tool, arguments: Mapping[str, JSON], scope: Scope) -> Output:
    try:
        with boundary(CallError, tool.spec.name):
            return await tool.call(arguments, scope)
    except (CallError, RolloutError):
        raise
    except RlvrError as error:  # a setting that only shows when the tool runs: nothing that the model could mend
        raise ToolError(f"tool {tool.spec.name!r}: {error}") from error
