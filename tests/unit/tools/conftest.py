"""A sandbox without a sandbox: enough of a session for what the tools do with one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Cell, Failure, Limits, Session, Status
from rlvr.sandbox.shared import use_sandbox


class FakeSession:
    """Answers cells from a function of the code; `log` keeps what was run."""

    def __init__(self, answer: Callable[[str], Cell], log: list[str]) -> None:
        self._answer, self.log, self.is_closed = answer, log, False

    async def run(self, code: str, *, timeout_s: float | None = None) -> Cell:
        assert not self.is_closed
        self.log.append(code)
        await asyncio.sleep(0)
        return self._answer(code)

    async def close(self) -> None:
        self.is_closed = True


class FakeSandbox:
    """`answers` may be replaced by a test; `most_open` is how many sessions were open at the same time."""

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.most_open = 0
        self.is_broken = False
        self.answer: Callable[[str], Cell] = lambda code: Cell(Status.EXITED, value=code)

    async def open_session(self, limits: Limits, *, run: str = "", idle_s: float = 600.0) -> Session:
        if self.is_broken:
            raise SandboxError("the engine is gone")
        await asyncio.sleep(0)
        session = FakeSession(lambda code: self.answer(code), [])
        self.sessions.append(session)
        self.most_open = max(self.most_open, sum(not one.is_closed for one in self.sessions))
        return session  # type: ignore[return-value]


@pytest.fixture
def sandbox() -> Iterator[FakeSandbox]:
    fake = FakeSandbox()
    with use_sandbox(fake):  # type: ignore[arg-type]
        yield fake


def raised(kind: str, message: str, *, stdout: str = "", traceback: str = "", is_alive: bool = True) -> Cell:
    return Cell(Status.EXITED, stdout, failure=Failure(kind, message), traceback=traceback, is_alive=is_alive)
