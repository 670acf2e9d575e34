"""The client of `rlvr sandbox serve`: one or more other machines, used as if they were the sandbox of this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from rlvr.errors import ConfigError, SandboxError
from rlvr.sandbox.fleet import LOOK_S, PATIENCE_S, Fleet, Host, HostBusyError, HostDownError, HostLostError, Trip
from rlvr.sandbox.jobs import Cell, Execution, Job, Limits, Program
from rlvr.sandbox.plain import NotPlainError
from rlvr.sandbox.wire import WireError, decode_cell, decode_execution, encode_job, encode_limits
from rlvr.types import JSON

SILENCE_S = 30.0  # a server that works sends something every 5 seconds
CONNECT_S = 5.0
DEFAULT_LIMITS = Limits()


class RemoteSandbox:
    """Jobs and sessions run on the machines at `urls`, each where there is least to do; see `rlvr.sandbox.jobs.Sandbox`.

    A host that is full or down is passed over and tried again; a job whose host is lost is run once more elsewhere.
    Cancelling a job closes its connection, and the server ends it.

    Raises:
        ConfigError: an address is none.
        SandboxError: httpx is not installed, no host answers, or one of them refuses the token.
    """

    def __init__(self, urls: Sequence[str], token: str, *, patience_s: float = PATIENCE_S, silence_s: float = SILENCE_S) -> None:
        self._httpx = _package()
        self._fleet = Fleet([_checked(url) for url in urls])
        self._patience_s = patience_s
        needs_tls = any(host.url.startswith("https://") for host in self._fleet.hosts)
        self._options: Mapping[str, Any] = {
            "headers": {"Authorization": f"Bearer {token}"},
            "timeout": self._httpx.Timeout(silence_s, connect=CONNECT_S),
            "limits": self._httpx.Limits(max_connections=None, max_keepalive_connections=64),
            "verify": ssl.create_default_context() if needs_tls else False,  # made once: it costs milliseconds
            "trust_env": False,
        }
        self._clients: dict[int, Any] = {}  # by process: connections cannot be shared with a forked child
        self._greet()

    @property
    def capacity(self) -> int:
        return self._fleet.capacity

    def warm_up(self) -> None:
        """Raises SandboxError where a harmless program does not run."""
        done = self.execute(Program("print(6 * 7)"))
        if not (done.is_success and done.stdout == b"42\n"):
            raise SandboxError(f"the remote sandbox does not work: a harmless program gave {done.status}, {done.stderr!r}")

    def execute(self, job: Job, limits: Limits = DEFAULT_LIMITS, *, run: str = "") -> Execution:
        content = _job_message(job, limits, run)
        trip = Trip(self._fleet, self._patience_s)
        while True:
            host = trip.next()
            if host is None:
                time.sleep(LOOK_S)
                continue
            with _attempt(trip, host) as attempt:
                _require_fit(host, content)
                attempt.answer = _execution(host, _answer(self._send("POST", f"{host.url}/v1/jobs", content)))
            if attempt.answer is not None:
                return attempt.answer

    async def run(self, job: Job, limits: Limits = DEFAULT_LIMITS, *, run: str = "") -> Execution:
        content = _job_message(job, limits, run)
        trip = Trip(self._fleet, self._patience_s)
        while True:
            host = trip.next()
            if host is None:
                await asyncio.sleep(LOOK_S)
                continue
            with _attempt(trip, host) as attempt:
                _require_fit(host, content)
                attempt.answer = _execution(host, _answer(await self._send_async("POST", f"{host.url}/v1/jobs", content)))
            if attempt.answer is not None:
                return attempt.answer

    async def open_session(self, limits: Limits = DEFAULT_LIMITS, *, run: str = "", idle_s: float = 600.0) -> RemoteSession:
        content = json.dumps({"limits": encode_limits(limits), "run": run, "idle_s": idle_s}).encode()
        trip = Trip(self._fleet, self._patience_s)
        while True:
            host = trip.next()
            if host is None:
                await asyncio.sleep(LOOK_S)
                continue
            session = None
            with _attempt(trip, host):
                answer = _answer(await self._send_async("POST", f"{host.url}/v1/sessions", content))
                session = RemoteSession(self, f"{host.url}/v1/sessions/{_name(answer)}")
            if session is not None:
                return session

    def close(self) -> None:
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _greet(self) -> None:
        """Ask every host for its size, so that a wrong address or token is found out before the work begins."""
        failures = []
        for host in self._fleet.hosts:
            try:
                health = _answer(self._send("GET", f"{host.url}/v1/health", None))
                host.capacity, host.max_bytes = int(health["capacity"]), int(health["max_bytes"])
            except (HostBusyError, HostDownError, HostLostError, KeyError, ValueError) as error:
                failures.append(f"{host.url}: {error}")
        if len(failures) == len(self._fleet.hosts):
            self.close()
            raise SandboxError(f"no sandbox host answers: {'; '.join(failures)}; start one with `rlvr sandbox serve`")

    def _send(self, method: str, url: str, content: bytes | None) -> Any:
        process = os.getpid()
        if process not in self._clients:
            self._clients[process] = self._httpx.Client(**self._options)
        with self._transport_errors():
            return self._clients[process].request(method, url, content=content)

    async def _send_async(self, method: str, url: str, content: bytes | None) -> Any:
        # A client of its own for each request: it belongs to no event loop, and cancelling it closes its connection.
        with self._transport_errors():
            async with self._httpx.AsyncClient(**self._options) as client:
                return await client.request(method, url, content=content)

    @contextlib.contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except (self._httpx.ConnectError, self._httpx.ConnectTimeout) as error:
            raise HostDownError(str(error) or type(error).__name__) from error
        except self._httpx.TransportError as error:
            raise HostLostError(f"the connection was lost: {type(error).__name__} {error}") from error


class RemoteSession:
    """A session on one host; see `rlvr.sandbox.jobs.Session`. It cannot move: when its host is lost, so is it."""

    def __init__(self, sandbox: RemoteSandbox, url: str) -> None:
        self._sandbox = sandbox
        self._url = url

    async def run(self, code: str, *, timeout_s: float | None = None) -> Cell:
        message: dict[str, JSON] = {"code": code, "timeout_s": timeout_s}
        answer = _answer(await self._ask("POST", "/cells", json.dumps(message).encode()))
        try:
            return decode_cell(answer.get("cell"))
        except WireError as error:
            raise SandboxError(f"the session's host sent no cell: {error}") from error

    async def write_file(self, path: str, content: bytes) -> None:
        _answer(await self._ask("PUT", f"/files/{quote(path, safe='')}", content))

    async def read_file(self, path: str) -> bytes:
        response = await self._ask("GET", f"/files/{quote(path, safe='')}")
        if response.status_code == 404:
            raise FileNotFoundError(f"the session has no readable file {path!r}")
        if response.status_code != 200:
            _answer(response)
        return bytes(response.content)

    async def reset(self) -> None:
        _answer(await self._ask("POST", "/reset"))

    async def close(self) -> None:
        with contextlib.suppress(SandboxError):  # it ends itself when nobody uses it
            await self._ask("DELETE", "")

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        try:
            return await self._sandbox._send_async(method, self._url + path, content)
        except (HostDownError, HostLostError) as error:
            raise SandboxError(f"the session's host is lost: {error}") from error


class _Attempt:
    """What one host answered; None: nothing that counts."""

    def __init__(self) -> None:
        self.answer: Execution | None = None


@contextlib.contextmanager
def _attempt(trip: Trip, host: Host) -> Iterator[_Attempt]:
    """Ask `host` inside the block. A host's failure ends the block, and the trip goes on."""
    try:
        attempt = _Attempt()
        yield attempt
    except (HostBusyError, HostDownError, HostLostError) as error:
        trip.failed(host, error)
    except SandboxError as error:
        trip.failed(host, error)
        if isinstance(error, _RefusedError):
            raise
    except BaseException as error:  # cancelled, interrupted: no fault of the host
        trip.failed(host, error)
        raise
    else:
        trip.arrived(host)


class _RefusedError(SandboxError):
    """Every host would refuse this request in the same way."""


def _answer(response: Any) -> Mapping[str, Any]:
    """The message in a server's response.

    Raises:
        HostBusyError, HostLostError: see there.
        SandboxError: the server says that its sandbox failed, or refuses the request.
    """
    if response.status_code == 429:
        raise HostBusyError("it is full")
    try:
        message = response.json()
    except (ValueError, RecursionError) as error:
        raise HostLostError(f"an answer of status {response.status_code} that is not JSON") from error
    if not isinstance(message, dict):
        raise HostLostError(f"an answer of status {response.status_code} that is no object")
    words = str(message.get("error", ""))
    if response.status_code == 401:
        raise _RefusedError(f"{response.url} refuses the token; set RLVR_SANDBOX_TOKEN to the one that the server printed")
    if response.status_code in (400, 404, 405, 413):
        raise _RefusedError(f"the sandbox's server refuses the request: {words or response.status_code}")
    if response.status_code != 200 or words:
        raise SandboxError(words or f"the sandbox's server answered with status {response.status_code}")
    return message


def _execution(host: Host, message: Mapping[str, Any]) -> Execution:
    """The answer to a job; what the host says of its size is noted, since it may have been away when it was first asked."""
    try:
        host.capacity = int(message.get("capacity", host.capacity))
        return decode_execution(message.get("execution"))
    except (WireError, ValueError, TypeError) as error:
        raise HostLostError(f"{error}; does the server run the same version of rlvr?") from error


def _require_fit(host: Host, content: bytes) -> None:
    """A server that refuses a body closes the connection, and its words may be lost with it."""
    if host.max_bytes and len(content) > host.max_bytes:
        size = f"the job is {len(content)} bytes; {host.url} takes at most {host.max_bytes}"
        raise _RefusedError(f"{size}: raise --max-body-mb on the server")


def _name(message: Mapping[str, Any]) -> str:
    name = message.get("session")
    if not isinstance(name, str) or not name:
        raise HostLostError("the answer names no session")
    return quote(name, safe="")


def _job_message(job: Job, limits: Limits, run: str) -> bytes:
    try:
        return json.dumps({"job": encode_job(job), "limits": encode_limits(limits), "run": run}).encode("ascii")
    except NotPlainError as error:
        raise SandboxError(f"the job cannot be sent: {error}") from error


def _checked(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no address of a sandbox server; use http://HOST:PORT")
    return url.strip().rstrip("/")


def _package() -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise SandboxError("a sandbox on another machine needs httpx: pip install 'rlvr[remote]'") from error
    return httpx
