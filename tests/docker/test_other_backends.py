"""Bubblewrap, and plain processes by the name `unsafe`: the same protocol and the same answers without a container engine."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from rlvr.errors import ConfigError, SandboxError
from rlvr.sandbox.bubblewrap import BubblewrapBackend
from rlvr.sandbox.jobs import Call, Calls, Checks, Limits, Program, Status
from rlvr.sandbox.pool import SandboxPool
from rlvr.sandbox.shared import make_sandbox, shared_sandbox, use_sandbox
from rlvr.sandbox.unsafe import UnsafeBackend

HELLO = Program("print('hello')")


def _bubblewrap(*, has_users: bool | None) -> BubblewrapBackend:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        return BubblewrapBackend((), has_users=has_users)
    except SandboxError as error:
        pytest.skip(str(error))


BACKENDS: dict[str, Callable[[], BubblewrapBackend | UnsafeBackend]] = {
    "bubblewrap": lambda: _bubblewrap(has_users=None),
    "bubblewrap, one user": lambda: _bubblewrap(has_users=False),
    "unsafe": UnsafeBackend,
}
CONFINED = ["bubblewrap", "bubblewrap, one user"]


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[str], SandboxPool]]:
    made: dict[str, SandboxPool] = {}

    def pool(name: str) -> SandboxPool:
        if name not in made:
            made[name] = SandboxPool([BACKENDS[name]()], slots=2, patience_s=5)
        return made[name]

    yield pool
    for each in made.values():
        each.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_jobs_give_what_they_give_in_a_container(pools: Callable[[str], SandboxPool], name: str) -> None:
    pool = pools(name)
    assert pool.execute(HELLO).stdout == b"hello\n"
    assert pool.execute(Calls("def f(x): return (x, {x})", "f", (Call((1,)),))).returned[0].value == (1, {1})
    assert pool.execute(Checks("def f(x): return -x", ("f",), ("assert f(1) == -1", "assert f(1) == 1"))).passed == (True, False)
    assert pool.execute(Program("while True: pass"), Limits(cpu_s=1)).status is Status.TIMED_OUT
    assert pool.execute(Program("x = [0] * 10**9")).status is Status.OUT_OF_MEMORY


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_of_a_submission_is_left(pools: Callable[[str], SandboxPool], name: str) -> None:
    pool = pools(name)
    fork = "import os, time\nopen('left', 'w').close()\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(100)"
    for _ in range(3):
        assert pool.execute(Program(fork), Limits(wall_s=5)).exit_code == 0
        assert pool.execute(Program("import os; print(os.listdir('.'))")).stdout == b"[]\n"


@pytest.mark.parametrize("name", CONFINED)
def test_bubblewrap_hides_the_machine(pools: Callable[[str], SandboxPool], name: str) -> None:
    code = """
import os
print([name for name in ('home', 'srv', 'media', 'mnt', 'boot', 'work') if os.path.exists('/' + name)])
print([pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) > 60])
print(os.listdir('/sys'), os.listdir('/root') if os.path.isdir('/root') else [])
try:
    open('/x', 'w')
except OSError as error:
    print(type(error).__name__)
import socket
try:
    socket.socket()
except OSError as error:
    print(type(error).__name__)
"""
    lines = pools(name).execute(Program(code)).stdout.decode().splitlines()
    assert lines[0] == "[]"
    assert lines[1:3] == ["[]", "[] []"]
    assert lines[4] == "PermissionError"


@pytest.mark.parametrize("name", CONFINED)
def test_a_submission_cannot_look_into_its_server_or_its_checker(pools: Callable[[str], SandboxPool], name: str) -> None:
    code = """
import os
found = []
for pid in filter(str.isdigit, os.listdir('/proc')):
    if int(pid) == os.getpid():
        continue
    for what in ('mem', 'environ', 'fd/3', 'maps'):
        try:
            with open(f'/proc/{pid}/{what}', 'rb') as file:
                file.read(1)
            found.append((pid, what))
        except OSError:
            pass
def f(): return found
"""
    assert pools(name).execute(Calls(code, "f", (Call(),))).returned[0].value == []


@pytest.mark.parametrize("name", CONFINED)
def test_killing_everything_costs_only_the_submission(pools: Callable[[str], SandboxPool], name: str) -> None:
    pool = pools(name)
    done = pool.execute(Program("import os, signal\nos.kill(-1, signal.SIGKILL)\nprint('survived')"), Limits(wall_s=2))
    assert not (done.is_success and done.stdout == b"hello\n")
    assert [pool.execute(HELLO).stdout for _ in range(4)] == [b"hello\n"] * 4


@pytest.mark.parametrize("name", CONFINED)
def test_a_slot_cannot_fill_another_ones_disk(pools: Callable[[str], SandboxPool], name: str) -> None:
    pool = pools(name)
    code = """
import time
with open('big', 'wb') as file:
    try:
        while True:
            file.write(bytes(1 << 20))
    except OSError:
        time.sleep(1)
"""
    fill = Program(code)
    write = Program("open('mine', 'wb').write(bytes(1 << 20)); print('written')")

    async def beside() -> bytes:
        filling = asyncio.create_task(pool.run(fill, Limits(file_mb=1000)))
        await asyncio.sleep(0.5)
        written = await pool.run(write)
        await filling
        return written.stdout

    assert asyncio.run(beside()) == b"written\n"


def test_a_cell_is_interrupted_also_where_interrupts_are_ignored() -> None:
    """As in what a shell runs in the background."""

    async def late() -> bool:
        session = await pool.open_session()
        cell = await session.run("while True: pass", timeout_s=0.2)
        await session.close()
        return cell.is_alive

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with SandboxPool([UnsafeBackend()], sessions=1) as pool:
            assert asyncio.run(late())
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sandbox_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with make_sandbox("unsafe", slots=1) as pool:  # type: ignore[attr-defined]
        assert pool.name == "unsafe"
        with use_sandbox(pool):
            assert shared_sandbox() is pool
    with pytest.raises(ConfigError, match="docker, bubblewrap, unsafe"):
        make_sandbox("podman")
    monkeypatch.setenv("RLVR_SANDBOX", "unsafe")
    monkeypatch.setenv("RLVR_SANDBOX_SLOTS", "many")
    with pytest.raises(ConfigError, match="RLVR_SANDBOX_SLOTS = 'many'"):
        shared_sandbox()
