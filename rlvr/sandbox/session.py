"""Stateful sessions: a slot each, cells one after the other, closed when nobody uses them any more."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import ParamSpec, TypeVar

from rlvr.errors import SandboxError
from rlvr.sandbox.channel import ChannelLostError
from rlvr.sandbox.jobs import Cell, Failure, Limits, Status
from rlvr.sandbox.lane import Lane, Slot
from rlvr.sandbox.protocol import failure_of, limits_header, read_json, text_of
from rlvr.types import JSON

P = ParamSpec("P")
R = TypeVar("R")

MAX_SHOWN_CHARS = 100_000
GRACE_S = 15.0
LOOK_S = 1.0


class SessionKeeper:
    """Threads for what sessions wait for, and a watch over those that are idle."""

    def __init__(self, threads: int = 64) -> None:
        self._threads = ThreadPoolExecutor(threads, "rlvr-session")
        self._lock = threading.Lock()  # guards the two below
        self._open: set[PooledSession] = set()
        self._watch: threading.Thread | None = None
        self._is_closed = threading.Event()

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return self._threads.submit(work, *args, **kwargs)

    async def in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.wrap_future(self.submit(work, *args, **kwargs))

    def add(self, session: PooledSession) -> None:
        with self._lock:
            self._open.add(session)
            if self._watch is None:
                self._watch = threading.Thread(target=self._close_idle, name="rlvr-session-watch", daemon=True)
                self._watch.start()

    def remove(self, session: PooledSession) -> None:
        with self._lock:
            self._open.discard(session)

    def close(self) -> None:
        self._is_closed.set()
        with self._lock:
            sessions = list(self._open)
        for session in sessions:
            session.end("the sandbox was closed")
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _close_idle(self) -> None:
        while not self._is_closed.wait(LOOK_S):
            now = time.monotonic()
            with self._lock:
                idle = [session for session in self._open if session.idle_since + session.idle_s < now]
            for session in idle:
                session.end(f"nothing was run in it for {session.idle_s:g} s")


class PooledSession:
    """A session in a slot of a pool; see `rlvr.sandbox.jobs.Session`. Its cells run one at a time."""

    def __init__(self, slot: Slot, lane: Lane, keeper: SessionKeeper, limits: Limits, idle_s: float) -> None:
        self._slot: Slot | None = slot
        self._lane = lane
        self._keeper = keeper
        self._limits = limits
        self._busy = threading.Lock()  # one request at a time on the connection
        self._why_closed = ""
        self.idle_s = idle_s
        self.idle_since = time.monotonic()

    def open(self) -> None:
        """Raises SandboxError."""
        self._keeper.add(self)
        self._open()

    async def run(self, code: str, *, timeout_s: float | None = None) -> Cell:
        try:
            return await self._keeper.in_thread(self.run_cell, code, timeout_s=timeout_s)
        except asyncio.CancelledError:
            self._interrupt()
            raise

    async def write_file(self, path: str, content: bytes) -> None:
        answer = await self._keeper.in_thread(self._ask, {"op": "put", "path": _inside(path), "content": content.hex()})
        if "e" in answer[1]:
            raise SandboxError(f"cannot write {path!r} in the session: {failure_of(answer[1]['e']).message}")

    async def read_file(self, path: str) -> bytes:
        limit = self._limits.file_mb << 20
        _, answer, _ = await self._keeper.in_thread(self._ask, {"op": "get", "path": _inside(path), "limit": min(limit, 3 << 20)})
        try:
            content = bytes.fromhex(answer["content"])
        except (KeyError, TypeError, ValueError):
            raise FileNotFoundError(f"the session has no readable file {path!r}") from None
        if len(content) > min(limit, 3 << 20):
            raise FileNotFoundError(f"the session's file {path!r} is larger than {min(limit, 3 << 20)} bytes")
        return content

    async def reset(self) -> None:
        await self._keeper.in_thread(self._open)

    async def close(self) -> None:
        await self._keeper.in_thread(self.end, "it was closed")

    def run_cell(self, code: str, *, timeout_s: float | None = None) -> Cell:
        """`run` for a thread that may wait."""
        request = {"op": "cell", "code": code.encode("utf-8", "replace").decode()}
        described, answer, stdout = self._ask(request, timeout_s=timeout_s)
        state = described.get("st")
        failure = failure_of(answer["e"]) if answer.get("e") is not None else None
        shown = answer.get("shown")
        shown = shown if isinstance(shown, str) else None
        if state in ("dead", "killed", "none"):
            self._open()  # an empty interpreter in its place: the next cell finds no variables
        is_late = state in ("late", "killed")
        if is_late:
            failure = Failure("TimeoutError", f"the cell ran for more than {timeout_s or self._limits.wall_s:g} s")
        elif state in ("dead", "none"):
            failure = Failure("SessionEnded", "the interpreter ended; its variables are lost")
        return Cell(
            status=Status.TIMED_OUT if is_late else Status.KILLED if state in ("dead", "none") else Status.EXITED,
            stdout=stdout.decode("utf-8", "replace"),
            value=None if shown is None else text_of(shown, MAX_SHOWN_CHARS),
            failure=failure,
            traceback=text_of(answer.get("traceback"), 20_000),
            is_truncated=described.get("out", 0) > len(stdout) or len(shown or "") > MAX_SHOWN_CHARS,
            is_alive=state in ("ok", "late"),
            wall_s=described.get("wall", 0.0),
        )

    def end(self, why: str) -> None:
        """Give the slot back; what runs in it is ended."""
        with self._busy:
            slot, self._slot = self._slot, None
            if slot is None:
                return
            self._why_closed = why
            self._keeper.remove(self)
            try:
                slot.connected().ask({"k": "close"}, (), GRACE_S)
            except ChannelLostError:
                self._lane.recover(slot)
            else:
                self._lane.release(slot)

    def _interrupt(self) -> None:
        """End the cell that runs, and the session with it: nobody waits for its answer."""
        slot = self._slot
        if slot is not None and slot.frames is not None:
            slot.frames.channel.interrupt()

    def _open(self) -> None:
        with self._busy:
            self._exchange({"k": "open", **limits_header(self._limits)}, (), GRACE_S)

    def _ask(self, request: dict[str, JSON], *, timeout_s: float | None = None) -> tuple[dict[str, JSON], dict[str, JSON], bytes]:
        """The slot's own words, the session's answer (untrusted), and what was printed."""
        wall_s = timeout_s or self._limits.wall_s
        header: dict[str, JSON] = {"k": "ask", "wall_s": wall_s, "output_bytes": self._limits.output_bytes}
        with self._busy:
            described, blobs = self._exchange(header, ((json.dumps(request).encode(),),), wall_s + GRACE_S)
            self.idle_since = time.monotonic()
        counts = (described.get("out", 0), described.get("wall", 0.0))
        if len(blobs) != 2 or not all(type(count) in (int, float) for count in counts):
            raise SandboxError(f"the session's slot answered nonsense: {str(described)[:200]}")
        answer = read_json(blobs[0])
        return described, answer if isinstance(answer, dict) else {}, blobs[1]

    def _exchange(
        self, header: dict[str, JSON], payloads: tuple[tuple[bytes, ...], ...], deadline_s: float
    ) -> tuple[dict[str, JSON], list[bytes]]:
        if self._slot is None:
            raise SandboxError(f"this session is closed: {self._why_closed}")
        try:
            return self._slot.connected().ask(header, payloads, deadline_s)
        except ChannelLostError as error:
            slot, self._slot = self._slot, None
            self._why_closed = "its sandbox was lost"
            self._keeper.remove(self)
            self._lane.recover(slot)
            raise SandboxError(f"a session's sandbox was lost: {error}") from error


def _inside(path: str) -> str:
    """Raises SandboxError for a path that leads out of the session's folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\x00" in path:
        raise SandboxError(f"{path!r} is no path inside the session's folder; give a relative one")
    return str(parts)
