"""Tools of an MCP server (Model Context Protocol), started here over stdio or reached over HTTP, through the official client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from rlvr.errors import CallError, ConfigError, ToolError, boundary
from rlvr.tools.base import Scope, Tool, ToolSpec
from rlvr.types import JSON

if TYPE_CHECKING:
    from mcp import Client

_MAX_PAGES = 100
_CONNECT_S = 30.0
_SHOWN_OF_STDERR = 500


class McpServer:
    """The tools of one MCP server: either `command` (program and arguments) or `url` (streamable HTTP) says which.

    `env` is added to the few variables that a server inherits, `headers` to every HTTP request, `only` chooses among its tools,
    `prefix` goes before their names. The server is started once for all rollouts, and again at the next call after it died; the
    call during which it died fails its rollout, unscored. `start_s`: how long starting and listing the tools may take.

    Raises:
        ConfigError: both or none of `command` and `url`.
        ModuleNotFoundError: `mcp` is missing (`pip install 'rlvr[mcp]'`).
    """

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        url: str = "",
        env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        only: Sequence[str] = (),
        prefix: str = "",
        start_s: float = 30.0,
    ) -> None:
        import mcp  # noqa: F401 - its absence must show here, not in the first rollout

        if bool(command) == bool(url):
            raise ConfigError("tool mcp needs either command = ['program', 'argument', ...] or url = 'http://...'")
        if isinstance(command, str):
            raise ConfigError(f"tool mcp: command = {command!r}, but a list is needed: the program, then each argument")
        self._command, self._url = tuple(command), url
        self._env, self._headers = dict(env or {}), dict(headers or {})
        self._only, self._prefix, self._start_s = tuple(only), prefix, start_s
        self._link: _Link | None = None
        self._ending: list[_Link] = []  # dropped, and closing in their own time
        self._connecting = asyncio.Lock()

    @property
    def name(self) -> str:
        """What error messages call the server."""
        return self._url or " ".join(self._command)

    async def open(self) -> Sequence[Tool]:
        """
        Raises:
            ToolError: the server cannot be reached or does not answer in time.
            ConfigError: it has none of the tools that `only` names.
        """
        link = await self._connected()
        with boundary(ToolError, f"MCP server {self.name}: listing its tools"):
            async with asyncio.timeout(self._start_s):
                listed = await _all_tools(link.client)
        missing = set(self._only) - {one.name for one in listed}
        if missing:
            have = ", ".join(one.name for one in listed) or "none"
            raise ConfigError(f"MCP server {self.name} has no tool {', '.join(sorted(missing))}; it has {have}")
        chosen = [one for one in listed if not self._only or one.name in self._only]
        return [_RemoteTool(self, one.name, _spec(self._prefix, one)) for one in chosen]

    async def close(self) -> None:
        links = [*self._ending, *([] if self._link is None else [self._link])]
        self._link, self._ending = None, []
        await asyncio.gather(*(link.close() for link in links))

    async def call(self, name: str, arguments: Mapping[str, JSON]) -> str:
        """
        Raises:
            CallError: the server refuses the call.
            ToolError: the server died or cannot be reached.
        """
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        link = await self._connected()
        try:
            with boundary(ToolError, f"MCP server {self.name}, tool {name}"):
                try:
                    result = await link.client.call_tool(name, dict(arguments))
                except MCPError as error:
                    if error.code == CONNECTION_CLOSED or link.is_over:
                        raise ToolError(f"MCP server {self.name} died during a call of {name}{link.last_words()}") from error
                    raise CallError(error.message) from error
        except ToolError:
            self._drop(link)
            raise
        text = _text(result)
        if result.is_error:
            raise CallError(text, output=text)
        return text

    async def _connected(self) -> _Link:
        async with self._connecting:
            if self._link is None or self._link.is_over:
                self._link = await _Link.open(self._transport(), self.name, self._start_s)
            return self._link

    def _drop(self, link: _Link) -> None:
        """Not to be used again; a call that finds it gone makes a new one."""
        link.abandon()
        if self._link is link:
            self._link = None
            self._ending.append(link)

    def _transport(self) -> _Transport:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        if self._url:
            return _Transport(_over_http(self._url, self._headers), None)
        program, *arguments = self._command
        server = StdioServerParameters(command=program, args=arguments, env=self._env, encoding_error_handler="replace")
        stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the link
        return _Transport(stdio_client(server, errlog=stderr), stderr)


@dataclass(frozen=True, slots=True)
class _Transport:
    streams: Any
    stderr: IO[str] | None


class _Link:
    """A connection, kept open by a task of its own: the client's scopes must be left by the task that entered them."""

    def __init__(self, client: Client, transport: _Transport) -> None:
        self.client = client
        self._transport = transport
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, transport: _Transport, name: str, start_s: float) -> _Link:
        """
        Raises:
            ToolError: no connection within `start_s`.
        """
        from mcp import Client

        link = cls(Client(transport.streams), transport)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        link._task = asyncio.create_task(link._hold(ready, name))
        done, _ = await asyncio.wait([ready, link._task], timeout=start_s, return_when=asyncio.FIRST_COMPLETED)
        if ready in done:
            return link
        await link.close(patience_s=0.0)
        error = link._task.exception() if link._task.done() and not link._task.cancelled() else None
        raise error or ToolError(f"MCP server {name} did not answer within {start_s:g} s")

    @property
    def is_over(self) -> bool:
        return self._task is None or self._task.done() or self._stop.is_set()

    def last_words(self) -> str:
        """The end of what the server wrote to stderr."""
        if self._transport.stderr is None:
            return ""
        self._transport.stderr.seek(0)
        text = self._transport.stderr.read()[-_SHOWN_OF_STDERR:].strip()
        return f"; it wrote: {text}" if text else ""

    def abandon(self) -> None:
        """Close it in its own time."""
        self._stop.set()

    async def close(self, patience_s: float = 10.0) -> None:
        self._stop.set()
        if self._task is not None:
            _, pending = await asyncio.wait([self._task], timeout=patience_s)
            for task in pending:
                task.cancel()
                await asyncio.wait([task], timeout=10.0)

    async def _hold(self, ready: asyncio.Future[None], name: str) -> None:
        try:
            with boundary(ToolError, f"MCP server {name} cannot be used"):
                async with self.client:
                    if not ready.done():
                        ready.set_result(None)
                    await self._stop.wait()
        except ToolError as error:
            if ready.done():
                return  # who calls next is told
            cause = _innermost(error.__cause__ or error)
            why = f"{type(cause).__name__}: {cause}" if cause is not error else str(error)
            raise ToolError(f"MCP server {name} cannot be used: {why}{self.last_words()}") from error
        finally:
            if self._transport.stderr is not None:
                self._transport.stderr.close()


@dataclass(frozen=True, slots=True)
class _RemoteTool:
    server: McpServer
    remote_name: str
    spec: ToolSpec
    is_ordered: bool = False

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> str:
        return await self.server.call(self.remote_name, arguments)


@contextlib.asynccontextmanager
async def _over_http(url: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """The client's HTTP transport, with headers of our own. Calls are timed by whoever makes them."""
    import httpx2  # comes with mcp
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(_CONNECT_S, read=None)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as client,
        streamable_http_client(url, http_client=client) as both,
    ):
        yield both


def _innermost(error: BaseException) -> BaseException:
    """The first error inside groups of them, which task groups make of every error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _all_tools(client: Client) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return found


def _spec(prefix: str, listed: Any) -> ToolSpec:
    schema = dict(listed.input_schema)
    parameters = {
        key: schema[key] for key in ("type", "properties", "required", "$defs", "additionalProperties") if key in schema
    }
    return ToolSpec(f"{prefix}{listed.name}", listed.description or "", {"type": "object", "properties": {}, **parameters})


def _text(result: Any) -> str:
    """The texts of a result; what is no text is named, not shown."""
    parts = []
    for block in result.content:
        text = getattr(block, "text", None)
        if text is None:
            resource = getattr(block, "resource", None)
            text = getattr(resource, "text", None)
        parts.append(text if isinstance(text, str) else f"[{block.type}]")
    if not parts and result.structured_content is not None:
        with contextlib.suppress(TypeError, ValueError):
            parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)
