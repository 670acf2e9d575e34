"""The tool `python`: a notebook's cells in a sandbox, one session for each rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from rlvr.errors import CallError, ConfigError
from rlvr.sandbox.jobs import Cell, Limits, Session, Status
from rlvr.sandbox.shared import shared_sandbox
from rlvr.tools.base import Scope, ToolSpec
from rlvr.types import JSON

_SPEC = ToolSpec(
    "python",
    "Runs Python code in a session that keeps its variables. Shows what is printed and, where the last line is an expression, "
    "its value.",
    {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
)
_LOST = "The session was lost: its variables are gone, a new one is ready."
_CUT = "[... the sandbox kept only a part of the output ...]"


class PythonTool:
    """Cells of one rollout share their variables; a time-out ends the cell and leaves the session.

    `sessions`: how many rollouts may have one at the same time; others wait for one to be given back. `memory_mb` is of each.

    Raises:
        ConfigError: a limit that is not positive.
    """

    is_ordered = True

    def __init__(self, *, sessions: int = 64, memory_mb: int = 1024) -> None:
        if sessions < 1:
            raise ConfigError(f"tool python: sessions = {sessions}; at least one is needed")
        self._limits = Limits(memory_mb=memory_mb)
        self._count = sessions
        self._free: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def spec(self) -> ToolSpec:
        return _SPEC

    async def prepare(self, scope: Scope) -> None:
        """
        Raises:
            SandboxError: no session could be opened.
        """
        await self._session(scope)

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> str:
        """
        Raises:
            CallError: the code raised, was too slow, or ended its interpreter.
            SandboxError: the sandbox failed.
        """
        session = await self._session(scope)
        return _shown(await session.run(arguments["code"], timeout_s=scope.call_s))

    async def _session(self, scope: Scope) -> Session:
        return await scope.keep(self, self._open, self._close)

    async def _open(self) -> Session:
        free = self._semaphore()
        await free.acquire()
        try:
            return await shared_sandbox().open_session(self._limits, run=f"tool-{id(self):x}")
        except BaseException:
            free.release()
            raise

    async def _close(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            self._semaphore().release()

    def _semaphore(self) -> asyncio.Semaphore:
        """One for each event loop: a run's tools may serve another loop later."""
        loop = asyncio.get_running_loop()
        if self._free is None or self._loop is not loop:
            self._free, self._loop = asyncio.Semaphore(self._count), loop
        return self._free


def _shown(cell: Cell) -> str:
    parts = [cell.stdout.rstrip("\n")]
    if cell.is_truncated:
        parts.append(_CUT)
    if cell.value is not None:
        parts.append(cell.value)
    failure = cell.failure
    if failure is not None:
        # The traceback of a cell that was stopped speaks of the signal that stopped it, not of the time.
        traceback = "" if cell.status is Status.TIMED_OUT else cell.traceback.rstrip("\n")
        parts.append(traceback or f"{failure.kind}: {failure.message}")
    if not cell.is_alive:
        parts.append(_LOST)
    text = "\n".join(part for part in parts if part)
    if failure is not None or cell.status is not Status.EXITED:
        message = f"{failure.kind}: {failure.message}" if failure is not None else f"the interpreter was {cell.status}"
        raise CallError(message, output=text or f"Error: {message}", is_timeout=cell.status is Status.TIMED_OUT)
    return text
