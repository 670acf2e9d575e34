"""`rlvr sandbox serve` in front of a real engine, asked by a client as another machine would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("httpx", reason="the extra 'remote' is not installed")

from rlvr.errors import SandboxError
from rlvr.sandbox.escapes import run_escapes
from rlvr.sandbox.jobs import Call, Calls, Checks, Limits, Program, Status
from rlvr.sandbox.remote import RemoteSandbox

TOKEN = "correct horse"


@pytest.fixture(scope="module")
def server(docker_host: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "rlvr", "sandbox", "serve", "--port", "0", "--slots", "2", "--json"]
    environment = {**os.environ, "DOCKER_HOST": docker_host, "RLVR_SANDBOX": "docker", "RLVR_SANDBOX_TOKEN": TOKEN}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        announced = json.loads(line)
        assert announced["token"] is None, "a token that was given is not printed"
        yield announced["url"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture
def remote(server: str) -> Iterator[RemoteSandbox]:
    sandbox = RemoteSandbox([server], TOKEN)
    yield sandbox
    sandbox.close()


def test_jobs_of_every_kind_run_there(remote: RemoteSandbox) -> None:
    remote.warm_up()
    assert remote.capacity == 2
    program = remote.execute(Program("print(input()[::-1])", b"abc\n"))
    assert (program.stdout, program.is_success) == (b"cba\n", True)
    assert program.image.startswith("sha256:")
    calls = remote.execute(Calls("def f(x):\n    return (x, {x})", "f", (Call((1,)), Call(([],)))))
    assert calls.returned[0].value == (1, {1})
    failure = calls.returned[1].failure
    assert failure is not None
    assert failure.kind == "TypeError"
    checks = remote.execute(Checks("def f(x): return x + 1", ("f",), ("assert f(1) == 2", "assert f(1) == 3")))
    assert checks.passed == (True, False)
    late = remote.execute(Program("while True: pass"), Limits(wall_s=0.5, cpu_s=0.5))
    assert late.status is Status.TIMED_OUT


def test_many_jobs_at_once_are_all_answered(remote: RemoteSandbox) -> None:
    async def many() -> list[bytes]:
        done = await asyncio.gather(*(remote.run(Program(f"print({number})")) for number in range(60)))
        return [one.stdout for one in done]

    assert asyncio.run(many()) == [f"{number}\n".encode() for number in range(60)]


def test_cancelling_frees_the_slot(remote: RemoteSandbox) -> None:
    async def cancel() -> None:
        sleeping = [asyncio.create_task(remote.run(Program("import time; time.sleep(60)"), Limits(wall_s=60))) for _ in range(2)]
        await asyncio.sleep(0.5)
        for task in sleeping:
            task.cancel()
        await asyncio.gather(*sleeping, return_exceptions=True)

    asyncio.run(cancel())
    started = time.monotonic()
    assert remote.execute(Program("print(1)")).is_success
    assert time.monotonic() - started < 45


def test_a_session_lives_there(remote: RemoteSandbox) -> None:
    async def use() -> None:
        session = await remote.open_session(Limits(wall_s=5))
        assert (await session.run("x = 6\nx * 7")).value == "42"
        await session.write_file("data.txt", b"hello")
        assert (await session.run("open('data.txt').read()")).value == "'hello'"
        assert await session.read_file("data.txt") == b"hello"
        with pytest.raises(FileNotFoundError):
            await session.read_file("none")
        await session.reset()
        failure = (await session.run("x")).failure
        assert failure is not None
        assert failure.kind == "NameError"
        await session.close()
        with pytest.raises(SandboxError, match="no such session"):
            await session.run("1")

    asyncio.run(use())


def test_what_is_attempted_from_afar_is_stopped_too(remote: RemoteSandbox) -> None:
    assert [outcome for outcome in run_escapes(remote) if not outcome.is_contained] == []
