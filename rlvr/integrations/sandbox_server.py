"""A sandbox as an HTTP service, for machines that have none: `rlvr sandbox serve` here, `RLVR_SANDBOX=http://...` there.

`POST /v1/jobs` runs a job; `POST /v1/sessions` and what lies below it are sessions; `GET /v1/health` says how busy it is. The
messages are those of `rlvr.sandbox.wire`. While a job runs, a blank is sent now and then: a client that hears nothing knows
that the server is gone, and one that goes away ends its job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import rlvr
from rlvr.errors import ConfigError, RlvrError, SandboxError, TaskError, boundary
from rlvr.integrations.gate import ServerLimits, check_token, json_response, read_body, read_object, refusal
from rlvr.sandbox.jobs import Job, Sandbox, Session
from rlvr.sandbox.wire import WireError, decode_job, decode_limits, encode_cell, encode_execution
from rlvr.types import JSON

HEARTBEAT_S = 5.0
WAITING_PER_SLOT = 8  # jobs that may wait for each slot before clients are told to come back later
LARGE_BYTES = 1 << 18  # a body that would hold up the event loop while it is read
MAX_IDLE_S = 3600.0
FORGOTTEN_S = 60.0  # beyond its own idle time
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class _Open:
    """A session, and when it was last used."""

    session: Session
    idle_s: float
    used_at: float = field(default_factory=time.monotonic)


class SandboxService:
    """The sandbox, its open sessions, and the jobs under way. Belongs to one event loop; does not close the sandbox."""

    def __init__(self, sandbox: Sandbox, *, token: str, limits: ServerLimits | None = None) -> None:
        self._sandbox = sandbox
        self._token = token
        self._limits = limits or ServerLimits()
        self._sessions: dict[str, _Open] = {}
        self._jobs = 0

    def app(self) -> Starlette:
        """The ASGI application."""
        one = "/v1/sessions/{session}"
        routes = [
            Route("/v1/health", self._guarded(self._health), methods=["GET"]),
            Route("/v1/jobs", self._guarded(self._job), methods=["POST"]),
            Route("/v1/sessions", self._guarded(self._open), methods=["POST"]),
            Route(f"{one}/cells", self._guarded(self._cell), methods=["POST"]),
            Route(f"{one}/reset", self._guarded(self._reset), methods=["POST"]),
            Route(f"{one}/files/{{path:path}}", self._guarded(self._write_file), methods=["PUT"]),
            Route(f"{one}/files/{{path:path}}", self._guarded(self._read_file), methods=["GET"]),
            Route(one, self._guarded(self._close), methods=["DELETE"]),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: refusal}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for opened in self._sessions.values():
                await opened.session.close()

    def _guarded(self, handler: Handler) -> Handler:
        """`handler` for those who have the token; what they sent wrong is status 400, what failed here 503."""

        async def guarded(request: Request) -> Response:
            check_token(request, self._token)
            try:
                return await handler(request)
            except (WireError, TaskError, ConfigError) as error:
                raise HTTPException(400, str(error)) from error
            except SandboxError as error:
                raise HTTPException(503, str(error)) from error
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return guarded

    async def _health(self, request: Request) -> Response:
        health: dict[str, JSON] = {
            "status": "ok", "rlvr": rlvr.__version__, "capacity": self._sandbox.capacity, "jobs": self._jobs,
            "sessions": len(self._sessions), "max_bytes": int(self._limits.body_mb * 2**20),
        }  # fmt: skip
        return json_response(health)

    async def _job(self, request: Request) -> Response:
        self._require_room()
        body = await self._body(request)
        message, job = await asyncio.to_thread(_read_job, body) if len(body) > LARGE_BYTES else _read_job(body)
        limits, run = decode_limits(message.get("limits", {})), _run(message)

        async def work() -> dict[str, JSON]:
            self._jobs += 1
            try:
                done = await self._sandbox.run(job, limits, run=run)
                return {"execution": encode_execution(done), "capacity": self._sandbox.capacity}
            finally:
                self._jobs -= 1

        return _WhileConnected(work)

    async def _open(self, request: Request) -> Response:
        message = await self._message(request)
        limits, idle_s = decode_limits(message.get("limits", {})), message.get("idle_s", 600.0)
        if type(idle_s) not in (int, float) or not 0 < idle_s <= MAX_IDLE_S:
            raise HTTPException(400, f"idle_s is {idle_s!r}; a session may be idle for at most {MAX_IDLE_S:g} seconds")
        await self._forget_idle()

        async def work() -> dict[str, JSON]:
            session = await self._sandbox.open_session(limits, run=_run(message), idle_s=idle_s)
            name = secrets.token_urlsafe(16)
            self._sessions[name] = _Open(session, idle_s)
            return {"session": name}

        return _WhileConnected(work)

    async def _cell(self, request: Request) -> Response:
        opened = self._find(request)
        message = await self._message(request)
        code, timeout_s = message.get("code"), message.get("timeout_s")
        if not isinstance(code, str):
            raise HTTPException(400, f"code is {type(code).__name__}, not text")
        if timeout_s is not None:
            timeout_s = decode_limits({"wall_s": timeout_s}).wall_s

        async def work() -> dict[str, JSON]:
            return {"cell": encode_cell(await opened.session.run(code, timeout_s=timeout_s))}

        return _WhileConnected(work)

    async def _reset(self, request: Request) -> Response:
        await self._find(request).session.reset()
        return json_response({})

    async def _write_file(self, request: Request) -> Response:
        opened = self._find(request)
        await opened.session.write_file(request.path_params["path"], await self._body(request))
        return json_response({})

    async def _read_file(self, request: Request) -> Response:
        try:
            content = await self._find(request).session.read_file(request.path_params["path"])
        except FileNotFoundError as error:
            raise HTTPException(404, str(error)) from error
        return Response(content, media_type="application/octet-stream")

    async def _close(self, request: Request) -> Response:
        opened = self._sessions.pop(request.path_params["session"], None)
        if opened is not None:
            await opened.session.close()
        return json_response({})

    async def _message(self, request: Request) -> dict[str, Any]:
        return read_object(await self._body(request))

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._limits, "raise --max-body-mb on the server")

    def _require_room(self) -> None:
        if self._jobs >= self._sandbox.capacity * (1 + WAITING_PER_SLOT):
            raise HTTPException(429, f"{self._jobs} jobs run or wait already; try again later", {"Retry-After": "1"})

    def _find(self, request: Request) -> _Open:
        opened = self._sessions.get(request.path_params["session"])
        if opened is None:
            raise HTTPException(410, "there is no such session: it was closed, or nothing was run in it for too long")
        opened.used_at = time.monotonic()
        return opened

    async def _forget_idle(self) -> None:
        """Sessions end themselves when they are idle; what is left is to forget their names."""
        now = time.monotonic()
        for name, opened in list(self._sessions.items()):
            if now - opened.used_at > opened.idle_s + FORGOTTEN_S:
                del self._sessions[name]
                await opened.session.close()


class _WhileConnected(Response):
    """Runs `work` while the client is there: a blank now and then, then the answer; gone with the client."""

    def __init__(self, work: Callable[[], Awaitable[dict[str, JSON]]]) -> None:
        super().__init__(media_type="application/json")
        del self.headers["content-length"]
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        working = asyncio.ensure_future(self._answer())
        gone = asyncio.ensure_future(_until_disconnected(receive))
        try:
            while not working.done():
                await asyncio.wait((working, gone), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not working.done():
                    return
                if not working.done():
                    await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await send({"type": "http.response.body", "body": working.result()})
        finally:
            working.cancel()
            gone.cancel()
            await asyncio.wait((working, gone))

    async def _answer(self) -> bytes:
        try:
            with boundary(SandboxError, "running a job for a client"):
                answer = await self._work()
        except RlvrError as error:
            answer = {"error": str(error)}
        return json.dumps(answer).encode("ascii")


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read_job(body: bytes) -> tuple[dict[str, Any], Job]:
    message = read_object(body)
    return message, decode_job(message.get("job"))


def _run(message: Mapping[str, Any]) -> str:
    return str(message.get("run", ""))[:200]
