"""Client and server over real sockets, with a sandbox behind them that does what each test asks."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("httpx", reason="the extra 'remote' is not installed")

from rlvr.errors import ConfigError, SandboxError
from rlvr.integrations import sandbox_server
from rlvr.integrations.gate import ServerLimits
from rlvr.integrations.listen import BoundServer
from rlvr.integrations.sandbox_server import SandboxService
from rlvr.sandbox.jobs import Call, Calls, Cell, Execution, Job, Limits, Program, Returned, Sandbox, Session, Status
from rlvr.sandbox.remote import RemoteSandbox

from ...ports import free_port

TOKEN = "correct horse"


@dataclass
class OneSession:
    """Cells append to a list, files are a dictionary."""

    cells: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    is_closed: bool = False

    async def run(self, code: str, *, timeout_s: float | None = None) -> Cell:
        if code == "lose":
            raise SandboxError("the session's container is gone")
        self.cells.append(code)
        return Cell(Status.EXITED, value=f"{len(self.cells)} cells, {timeout_s}")

    async def write_file(self, path: str, content: bytes) -> None:
        if path.startswith("/"):
            raise SandboxError(f"{path!r} is no path inside the session's folder")
        self.files[path] = content

    async def read_file(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    async def reset(self) -> None:
        self.cells.clear()

    async def close(self) -> None:
        self.is_closed = True


class OneSandbox:
    """`answer` is called for every job, in the server's event loop."""

    def __init__(self, answer: Callable[[Job, Limits, str], Any] | None = None, capacity: int = 4) -> None:
        self.answer = answer
        self.capacity = capacity
        self.jobs: list[Job] = []
        self.ended: list[str] = []
        self.sessions: list[OneSession] = []
        self.has_begun = threading.Event()

    async def run(self, job: Job, limits: Limits = Limits(), *, run: str = "") -> Execution:  # noqa: B008
        self.jobs.append(job)
        self.has_begun.set()
        if job == Program("forever"):
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.append("forever")
        given = self.answer(job, limits, run) if self.answer is not None else None
        return given or Execution(Status.EXITED, stdout=b"42\n", stdout_bytes=3, image="sha256:1")

    def execute(self, job: Job, limits: Limits = Limits(), *, run: str = "") -> Execution:  # noqa: B008
        raise NotImplementedError

    async def open_session(self, limits: Limits = Limits(), *, run: str = "", idle_s: float = 600.0) -> Session:  # noqa: B008
        self.sessions.append(OneSession())
        return self.sessions[-1]

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def served(sandbox: Sandbox, *, port: int = 0, limits: ServerLimits | None = None) -> Iterator[BoundServer]:
    is_up = threading.Event()
    limits = limits or ServerLimits(shutdown_s=1)
    app = SandboxService(sandbox, token=TOKEN, limits=limits).app()
    server = BoundServer(app, host="127.0.0.1", port=port, token=TOKEN, limits=limits, on_start=is_up.set)
    thread = threading.Thread(target=server.run_to_end)
    thread.start()
    try:
        assert is_up.wait(60)
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def connected(*urls: str, **options: Any) -> Iterator[RemoteSandbox]:
    remote = RemoteSandbox(urls, TOKEN, **options)
    try:
        yield remote
    finally:
        remote.close()


def post(url: str, content: bytes, token: str = TOKEN) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=content, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_job_and_its_limits_arrive_and_its_execution_comes_back() -> None:
    seen: list[Any] = []

    def answer(job: Job, limits: Limits, run: str) -> Execution:
        seen.append((job, limits, run))
        return Execution(Status.KILLED, signal=9, returned=(Returned((1, {2})),), image="sha256:1")

    job, limits = Calls("def f(x): return x", "f", (Call((b"\xff",), {"y": {1, 2}}),)), Limits(wall_s=3, memory_mb=77)
    with served(OneSandbox(answer)) as server, connected(server.url) as remote:
        by_thread = remote.execute(job, limits, run="run 7")
        by_loop = asyncio.run(remote.run(job, limits, run="run 7"))
    assert by_thread == by_loop == answer(job, limits, "run 7")
    assert seen[0] == seen[1] == (job, limits, "run 7")


def test_the_capacity_is_that_of_all_hosts() -> None:
    with served(OneSandbox(capacity=4)) as one, served(OneSandbox(capacity=8)) as two, connected(one.url, two.url) as remote:
        assert remote.capacity == 12


def test_jobs_are_spread_over_the_hosts() -> None:
    first, second = OneSandbox(), OneSandbox()

    async def many(remote: RemoteSandbox) -> None:
        await asyncio.gather(*(remote.run(Program(str(number))) for number in range(20)))

    with served(first) as one, served(second) as two, connected(one.url, two.url) as remote:
        asyncio.run(many(remote))
    assert len(first.jobs) + len(second.jobs) == 20
    assert min(len(first.jobs), len(second.jobs)) >= 5


def test_a_wrong_token_is_refused_in_words_without_a_job_being_run() -> None:
    sandbox = OneSandbox()
    with served(sandbox) as server:
        with pytest.raises(SandboxError, match="refuses the token; set RLVR_SANDBOX_TOKEN"):
            RemoteSandbox([server.url], "wrong")
        assert post(f"{server.url}/v1/jobs", b'{"job": {"kind": "program", "code": ""}}', token="wrong")[0] == 401
    assert sandbox.jobs == []


def test_cancelling_ends_the_job_on_the_server() -> None:
    sandbox = OneSandbox()

    async def cancel(remote: RemoteSandbox) -> None:
        task = asyncio.create_task(remote.run(Program("forever")))
        await asyncio.to_thread(sandbox.has_begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with served(sandbox) as server, connected(server.url) as remote:
        asyncio.run(cancel(remote))
        deadline = time.monotonic() + 60
        while not sandbox.ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sandbox.ended == ["forever"]


def test_a_job_that_takes_longer_than_the_silence_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_server, "HEARTBEAT_S", 0.05)
    sandbox = OneSandbox()

    async def slow(job: Job, limits: Limits = Limits(), *, run: str = "") -> Execution:  # noqa: B008
        await asyncio.sleep(1.3)
        return Execution(Status.EXITED, stdout=b"late")

    sandbox.run = slow  # type: ignore[method-assign]
    with served(sandbox) as server, connected(server.url, silence_s=1.0) as remote:
        assert remote.execute(Program("")).stdout == b"late"


def test_a_server_that_says_nothing_is_lost_twice_and_then_an_error() -> None:
    with served(OneSandbox()) as server, connected(server.url, silence_s=0.5) as remote:
        started = time.monotonic()
        with pytest.raises(SandboxError, match=r"failed twice: .*the connection was lost: ReadTimeout"):
            remote.execute(Program("forever"))
        assert time.monotonic() - started < 60


def test_a_sandbox_that_fails_is_an_error_and_no_verdict() -> None:
    def answer(job: Job, limits: Limits, run: str) -> Execution:
        raise SandboxError("the engine is gone")

    with (
        served(OneSandbox(answer)) as server,
        connected(server.url) as remote,
        pytest.raises(SandboxError, match="the engine is gone"),
    ):
        remote.execute(Program(""))


def test_an_unexpected_error_of_the_server_is_an_error_too() -> None:
    def answer(job: Job, limits: Limits, run: str) -> Execution:
        raise ZeroDivisionError("a bug")

    with (
        served(OneSandbox(answer)) as server,
        connected(server.url) as remote,
        pytest.raises(SandboxError, match="running a job for a client: ZeroDivisionError: a bug"),
    ):
        asyncio.run(remote.run(Program("")))


def test_a_host_that_is_down_is_passed_over_and_used_again_when_it_is_back() -> None:
    port = free_port()
    first, second = OneSandbox(), OneSandbox()
    with served(first) as one, connected(one.url, f"http://127.0.0.1:{port}") as remote:
        for _ in range(3):
            assert remote.execute(Program("")).is_success
        with served(second, port=port):
            for host in remote._fleet.hosts:
                host.rests_until = 0.0
            for _ in range(6):
                assert remote.execute(Program("")).is_success
            assert remote.capacity == 8, "its size is learned when it answers"
    assert len(first.jobs) >= 3
    assert len(second.jobs) >= 3


def test_a_host_that_goes_away_under_a_job_is_replaced_by_another() -> None:
    class Vanishing(OneSandbox):
        async def run(self, job: Job, limits: Limits = Limits(), *, run: str = "") -> Execution:  # noqa: B008
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(60)
            raise AssertionError("nobody waits any more")

    second = OneSandbox()
    with served(Vanishing(capacity=100)) as server, served(second, limits=None) as two, connected(server.url, two.url) as remote:
        assert remote.execute(Program("print()")).is_success
    assert second.jobs == [Program("print()")]


def test_nobody_there_says_how_one_is_started() -> None:
    with pytest.raises(SandboxError, match=r"no sandbox host answers: http://127\.0\.0\.1:\d+: .*rlvr sandbox serve"):
        RemoteSandbox([f"http://127.0.0.1:{free_port()}"], TOKEN)


@pytest.mark.parametrize("url", ["ftp://host", "host:8322", "http://", ""])
def test_an_address_that_is_none_is_a_mistake_in_the_settings(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a sandbox server"):
        RemoteSandbox([url], TOKEN)


def test_a_server_that_is_full_says_so_and_the_client_waits() -> None:
    is_full = threading.Event()
    sandbox = OneSandbox(capacity=1)

    with served(sandbox) as server, connected(server.url) as waiting:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox_server, "WAITING_PER_SLOT", -1)
            status, answer = post(f"{server.url}/v1/jobs", b'{"job": {"kind": "program", "code": ""}}')
            assert (status, "try again later" in answer["error"]) == (429, True)
            done: list[Execution] = []
            thread = threading.Thread(target=lambda: done.append(waiting.execute(Program(""))))
            thread.start()
            is_full.wait(0.2)
            assert not done
        thread.join(60)
    assert done[0].is_success


@pytest.fixture(scope="module")
def small_server() -> Iterator[BoundServer]:
    with served(OneSandbox(), limits=ServerLimits(body_mb=0.05, shutdown_s=1)) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"not json", 400, "not JSON"),
        (b"[]", 400, "list, not an object"),
        (b"{}", 400, "job is NoneType"),
        (b'{"job": {"kind": "shell"}}', 400, "unknown kind of job 'shell'"),
        (b'{"job": {"kind": "program", "code": ""}, "limits": {"wall_s": 9999}}', 400, "at most 600 seconds"),
        (b" " * 60_000, 413, "larger than 0.05 MiB; raise --max-body-mb"),
        (b'{"a":' * 8_000, 400, "not JSON"),
    ],
)
def test_what_is_no_job_is_refused(small_server: BoundServer, body: bytes, status: int, words: str) -> None:
    given, answer = post(f"{small_server.url}/v1/jobs", body)
    assert given == status
    assert words in answer["error"]


def test_a_job_that_is_too_large_for_the_server_is_an_error_that_is_not_repeated() -> None:
    sandbox = OneSandbox()
    with (
        served(sandbox, limits=ServerLimits(body_mb=0.01, shutdown_s=1)) as server,
        connected(server.url) as remote,
        pytest.raises(SandboxError, match=r"20\d\d\d bytes; .* takes at most 10485: raise --max-body-mb on the server"),
    ):
        remote.execute(Program("#" * 20_000))
    assert sandbox.jobs == []


def test_a_session_runs_cells_and_keeps_files() -> None:
    sandbox = OneSandbox()

    async def use(remote: RemoteSandbox) -> None:
        session = await remote.open_session(idle_s=60)
        assert (await session.run("x = 1")).value == "1 cells, None"
        assert (await session.run("x", timeout_s=2.5)).value == "2 cells, 2.5"
        await session.write_file("a folder/b?.txt", b"\0\xff")
        assert await session.read_file("a folder/b?.txt") == b"\0\xff"
        with pytest.raises(FileNotFoundError, match=r"no readable file 'none\.txt'"):
            await session.read_file("none.txt")
        with pytest.raises(SandboxError, match="no path inside the session's folder"):
            await session.write_file("/etc/passwd", b"")
        await session.reset()
        assert (await session.run("x")).value == "1 cells, None"
        with pytest.raises(SandboxError, match="the session's container is gone"):
            await session.run("lose")
        await session.close()
        await session.close()
        with pytest.raises(SandboxError, match="there is no such session"):
            await session.run("x")

    with served(sandbox) as server, connected(server.url) as remote:
        asyncio.run(use(remote))
    assert sandbox.sessions[0].is_closed


def test_sessions_that_nobody_closed_end_with_the_server() -> None:
    sandbox = OneSandbox()
    with served(sandbox) as server, connected(server.url) as remote:
        asyncio.run(remote.open_session())
    assert [session.is_closed for session in sandbox.sessions] == [True]


def test_a_session_whose_host_is_gone_is_lost_with_an_error() -> None:
    async def use(remote: RemoteSandbox) -> Any:
        return await remote.open_session()

    with served(OneSandbox()) as server:
        remote = RemoteSandbox([server.url], TOKEN)
        session = asyncio.run(use(remote))
    with pytest.raises(SandboxError, match="the session's host is lost"):
        asyncio.run(session.run("x"))
    asyncio.run(session.close())
    remote.close()


def test_a_server_for_other_machines_has_a_token_in_any_case() -> None:
    with pytest.raises(ConfigError, match="give a token"):
        BoundServer(SandboxService(OneSandbox(), token="").app(), host="0.0.0.0", port=0, token=None, limits=ServerLimits())
