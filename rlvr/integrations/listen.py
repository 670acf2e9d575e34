"""Run an HTTP service: a socket that says clearly why it cannot be had, slow clients cut off, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from rlvr.errors import ConfigError
from rlvr.integrations.gate import ServerLimits
from rlvr.integrations.server import VerifierService
from rlvr.verifiers.runner import WeightedVerifier

DEFAULT_PORT = 8321


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a new connection which does not send a whole request head within `header_s`."""

    header_s = ServerLimits().header_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(self.header_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        request: object | None = self.cycle  # None until the first request has begun
        if request is None:
            self.transport.abort()


def check_host(host: str, token: str | None) -> None:
    """Other machines may only reach a server with a token.

    Raises:
        ConfigError: they could without one.
    """
    if token is not None and len(token) < 8:
        raise ConfigError(f"the token has {len(token)} characters; give at least 8")
    if token is None and not is_loopback(host):
        raise ConfigError(f"host {host} can be reached from other machines; give a token, or use 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's own address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigError: the address is wrong, or in use.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"port = {port}; ports are 0 (a free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error}") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket as an URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


class BoundServer(uvicorn.Server):
    """An HTTP service on a socket of its own. `url` is known at once; `on_start` is called when requests are taken.

    Raises:
        ConfigError: the host needs a token, or cannot be listened on.
    """

    def __init__(
        self,
        app: Starlette,
        *,
        host: str,
        port: int,
        token: str | None,
        limits: ServerLimits,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        check_host(host, token)
        super().__init__(_config(app, limits))
        self._bound = bind(host, port)
        self._on_start = on_start
        self.url = url_of(self._bound)

    def run_to_end(self) -> None:
        """Serve until SIGINT, SIGTERM or `should_exit`; requests under way may end first."""
        with contextlib.closing(self._bound), contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again at its end
            self.run(sockets=[self._bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start()


class VerifierServer(BoundServer):
    """A verifier's HTTP service.

    Raises:
        ConfigError: the host needs a token, or cannot be listened on.
        PluginError, ConfigError: as `rlvr.verifiers.runner.Grader`.
        SandboxError: the verifier runs code, and this machine has no sandbox.
    """

    def __init__(
        self,
        verifier: WeightedVerifier,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str | None = None,
        workers: int = 2,
        timeout_s: float = 10.0,
        limits: ServerLimits | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        check_host(host, token)
        limits = limits or ServerLimits()
        service = VerifierService(verifier, workers=workers, timeout_s=timeout_s, token=token, limits=limits)
        service.prepare()
        super().__init__(service.app(), host=host, port=port, token=token, limits=limits, on_start=on_start)


def _config(app: Starlette, limits: ServerLimits) -> uvicorn.Config:
    protocol: Any = type("Protocol", (PatientProtocol,), {"header_s": limits.header_s})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.shutdown_s),
        server_header=False,
    )
