"""Stateful sessions: a notebook in the sandbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.jobs import Limits, Status
from rlvr.sandbox.pool import SandboxPool
from rlvr.sandbox.session import PooledSession


def in_session(
    sandbox: SandboxPool, work: Callable[[PooledSession], Awaitable[None]], limits: Limits | None = None, idle_s: float = 600
) -> None:
    async def whole() -> None:
        session = await sandbox.open_session(limits or Limits(), idle_s=idle_s)
        try:
            await work(session)
        finally:
            await session.close()

    asyncio.run(whole())


def test_variables_live_on_and_a_trailing_expression_is_shown(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        assert (await session.run("x = 20")).value is None
        cell = await session.run("print('once')\nx + 1")
        assert (cell.stdout, cell.value, cell.failure) == ("once\n", "21", None)
        assert (await session.run("import math\ndef f(n):\n    return math.sqrt(n)\nf(x + 5)")).value == "5.0"

    in_session(sandbox, work)


def test_an_exception_is_shown_with_its_own_lines_only(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        cell = await session.run("def g():\n    return 1 / 0\ng()")
        assert cell.failure is not None
        assert cell.failure.kind == "ZeroDivisionError"
        assert 'File "<cell 1>", line 2, in g' in cell.traceback
        assert "runner" not in cell.traceback
        assert (await session.run("1 +")).failure is not None
        assert (await session.run("2 + 2")).value == "4"

    in_session(sandbox, work)


def test_a_time_out_ends_the_cell_and_not_the_session(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        await session.run("kept = 7")
        late = await session.run("while True: pass", timeout_s=0.3)
        assert late.status is Status.TIMED_OUT
        assert late.is_alive
        assert (await session.run("kept")).value == "7"
        stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
        dead = await session.run(stubborn, timeout_s=0.3)
        assert dead.status is Status.TIMED_OUT
        assert not dead.is_alive
        assert (await session.run("kept")).failure is not None
        assert (await session.run("1")).value == "1"

    in_session(sandbox, work)


def test_an_interpreter_that_ends_itself_is_said_so_and_replaced(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        cell = await session.run("import os; os._exit(0)")
        assert not cell.is_alive
        assert cell.failure is not None
        assert cell.failure.kind == "SessionEnded"
        assert (await session.run("3")).value == "3"

    in_session(sandbox, work)


def test_output_is_capped_and_said_so(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        cell = await session.run("print('y' * 5000)")
        assert cell.is_truncated
        assert len(cell.stdout) == 100
        assert not (await session.run("print('y')")).is_truncated

    in_session(sandbox, work, Limits(output_bytes=100))


def test_files_go_in_and_out_and_not_elsewhere(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        await session.write_file("data/in.txt", b"abc\x00")
        assert (await session.run("open('data/in.txt', 'rb').read()")).value == repr(b"abc\x00")
        await session.run("_ = open('out.bin', 'wb').write(b'xyz')")
        assert await session.read_file("out.bin") == b"xyz"
        with pytest.raises(FileNotFoundError):
            await session.read_file("none")
        for path in ("/etc/passwd", "../x", ""):
            with pytest.raises(SandboxError, match="inside the session's folder"):
                await session.read_file(path)
        await session.reset()
        with pytest.raises(FileNotFoundError):
            await session.read_file("out.bin")

    in_session(sandbox, work)


def test_sessions_do_not_see_each_other(sandbox: SandboxPool) -> None:
    async def whole() -> None:
        sessions = [await sandbox.open_session() for _ in range(6)]
        await asyncio.gather(*(session.run(f"me = {index}") for index, session in enumerate(sessions)))
        values = await asyncio.gather(*(session.run("me") for session in sessions))
        assert [cell.value for cell in values] == [str(index) for index in range(6)]
        await asyncio.gather(*(session.close() for session in sessions))
        with pytest.raises(SandboxError, match="closed"):
            await sessions[0].run("1")

    asyncio.run(whole())


def test_a_session_that_nobody_uses_is_closed(sandbox: SandboxPool) -> None:
    async def work(session: PooledSession) -> None:
        deadline = time.monotonic() + 60
        while not session._why_closed:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        with pytest.raises(SandboxError, match="nothing was run in it"):
            await session.run("1")

    in_session(sandbox, work, idle_s=0.5)


def test_cancelling_a_cell_ends_the_session_and_frees_its_slot(docker_host: str) -> None:
    async def whole(pool: SandboxPool) -> None:
        session = await pool.open_session(Limits(wall_s=60))
        cell = asyncio.create_task(session.run("import time; time.sleep(60)"))
        await asyncio.sleep(0.2)
        cell.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cell
        opening = asyncio.create_task(pool.open_session())  # the one slot is free again
        other = await asyncio.wait_for(opening, 45)
        assert (await other.run("5")).value == "5"
        await session.close()
        await other.close()

    with SandboxPool([DockerBackend(docker_host)], sessions=1) as pool:
        asyncio.run(whole(pool))


def test_a_session_that_comes_too_late_is_ended(docker_host: str) -> None:
    async def whole(pool: SandboxPool) -> None:
        opening = asyncio.create_task(pool.open_session())
        await asyncio.sleep(0.01)  # while the container starts
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        session = await pool.open_session()
        assert (await session.run("1")).value == "1"
        await session.close()

    with SandboxPool([DockerBackend(docker_host)], sessions=1) as pool:
        asyncio.run(whole(pool))
