"""Who of the processes that train together is still there: one that is lost ends the others at once, with its name.

A collective operation says nothing of that: NCCL waits, and gloo says that a connection was closed. So every rank keeps a
connection to rank 0 beside the collectives. The kernel closes it when a process ends, however it ends, and probes it where a
whole machine is gone. What goes over it are lines of JSON that say what a rank is doing, and that it has done more of it: the
work itself counts that (`rlvr.progress`), so that a rank whose work hangs falls silent, though its watching thread goes on.
Rank 0, which judges by that, says now and then that it is there: if it was stopped whole, nobody else would.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import ConfigError, boundary
from rlvr.progress import PROGRESS, Progress

_PROBE_S = 5  # a machine that does not answer three probes is gone
_TICK_S = 0.5
_BEAT_S = 5.0
_GRACE_S = 10.0  # for a rank to end in order after another was lost; then it is ended
_EXIT_CODE = 3
_LONGEST_LINE = 1 << 16
_UNCOUNTED_S = 7200.0  # for what takes minutes in one piece: a model is loaded, a server generates
BUSY = "its own work"


@dataclass(frozen=True, slots=True)
class Address:
    """Where rank 0 listens, and the word that lets a rank in."""

    host: str
    port: int
    token: str


@dataclass(slots=True)
class _Member:
    """What rank 0 knows of a rank."""

    name: str
    doing: str = BUSY
    since: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)  # when it last did something
    is_uncounted: bool = False  # and need not for a while


class _Line:
    """One connection: whole lines out, whole lines in."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""
        self._lock = threading.Lock()  # the main thread and the watching one both send
        _keep_alive(connection)

    def send(self, message: dict[str, Any]) -> None:
        """Nothing where the other side is gone: the reader finds that out."""
        try:
            with self._lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None at the end of the connection."""
        try:
            data = self.socket.recv(_LONGEST_LINE)
        except OSError:
            return None
        if not data or len(self._buffer) > _LONGEST_LINE:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return found if all(isinstance(message, dict) for message in found) else None


class Watch:
    """One rank's part in watching all. `lost` says which rank is gone and why; None as long as all are there.

    Where a rank is in `begin`..`end` and nothing moves on any of them for `timeout_s`, one that the others wait for is lost, too;
    and so is rank 0 when even its watching thread says nothing for so long.
    `advice` ends every message; `on_lost` is called once, on the watching thread. A rank that has not ended `_GRACE_S` later,
    because it hangs in a collective, is ended.
    """

    def __init__(self, rank: int, size: int, *, timeout_s: float, progress: Progress = PROGRESS) -> None:
        self.lost: str | None = None
        self.advice = ""
        self.ends_together = False  # all ranks know that they were interrupted: one that leaves first is not lost
        self.on_lost: Callable[[], object] | None = None
        self._rank, self._size, self._timeout_s = rank, size, timeout_s
        self._progress, self._seen = progress, (progress.count, False)
        self._seen_at = self._heard_at = time.monotonic()
        self._beat_at = 0.0
        self._lines: dict[int, _Line] = {}
        self._members = {rank: _Member(_own_name(rank))}
        self._found = threading.Event()
        self._closing = False
        self._listener: socket.socket | None = None
        self._token = ""

    @property
    def _beat_s(self) -> float:
        return min(_BEAT_S, self._timeout_s / 10)

    def listen(self, host: str) -> Address:
        """Rank 0's side; `host` is the name by which the others know this machine."""
        with boundary(ConfigError, f"rank 0 cannot listen for the other ranks on {host}"):
            # By name, not by what it resolves to: many machines have their own name at a loopback address.
            if host == "localhost" or host.startswith("127."):
                self._listener = socket.create_server(("127.0.0.1", 0), backlog=self._size)
            elif socket.has_dualstack_ipv6():
                self._listener = socket.create_server(("", 0), family=socket.AF_INET6, backlog=self._size, dualstack_ipv6=True)
            else:
                self._listener = socket.create_server(("", 0), backlog=self._size)
        self._token = os.urandom(16).hex()
        return Address(host, self._listener.getsockname()[1], self._token)

    def connect(self, address: Address) -> None:
        """The side of every other rank."""
        with boundary(
            ConfigError, f"rank {self._rank} does not reach rank 0 at {address.host}:{address.port}; is a firewall there?"
        ):
            line = _Line(socket.create_connection((address.host, address.port), timeout=30))
        line.socket.settimeout(None)
        line.send({"rank": self._rank, "token": address.token, "name": _own_name(self._rank)})
        self._lines[0] = line
        self._members[0] = _Member("rank 0")

    def start(self) -> None:
        threading.Thread(target=self._serve, name="rlvr-watch", daemon=True).start()

    def begin(self, doing: str) -> None:
        """This rank now waits for the others."""
        self._say(doing)

    def end(self) -> None:
        self._say(BUSY)

    def explain(self, doing: str, error: str) -> str:
        """Why `doing`, which needs all ranks, failed with `error`: that another was lost becomes known a moment later."""
        self._found.wait(3.0)
        return self.lost or f"rank {self._rank}, {doing}: {error}. {self.advice}"

    def close(self, failure: str | None) -> None:
        """Say goodbye: None where the run ended well. The others end, too, where it did not."""
        message = {"left": failure}
        if self._rank == 0 and failure is not None:
            message = {"lost": self.lost or f"rank 0 failed: {failure}"}
        self._closing = True
        for line in list(self._lines.values()):
            line.send(message)
            try:
                line.socket.shutdown(socket.SHUT_WR)
            except OSError:
                continue

    def _say(self, doing: str) -> None:
        own = self._members[self._rank]
        own.doing = doing
        own.since = own.moved = time.monotonic()
        self._tell({"doing": doing})

    def _look_at_own_work(self) -> None:
        """Tell rank 0 that this rank has done more, now and then."""
        now, found = time.monotonic(), (self._progress.count, self._progress.is_uncounted)
        is_news = found[1] != self._seen[1] or (found != self._seen and now - self._seen_at >= self._beat_s)
        if not is_news:
            return
        self._seen, self._seen_at = found, now
        own = self._members[self._rank]
        own.moved, own.is_uncounted = now, found[1]
        self._tell({"uncounted": found[1]})

    def _beat(self) -> None:
        """Rank 0 tells all others that it is there."""
        if time.monotonic() - self._beat_at < self._beat_s:
            return
        self._beat_at = time.monotonic()
        for line in self._lines.values():
            line.send({"beat": self._progress.is_uncounted})

    def _look_at_rank_0(self) -> None:
        silent_s = time.monotonic() - self._heard_at
        limit_s = max(self._timeout_s, _UNCOUNTED_S) if self._members[0].is_uncounted else self._timeout_s
        if 0 in self._lines and silent_s > limit_s:
            self._lose(
                f"rank 0 has said nothing for {silent_s:.0f} s (load.parallel.timeout_s = {self._timeout_s:g}), though its "
                "connection is open: its process was stopped, or its machine hangs"
            )

    def _tell(self, message: dict[str, Any]) -> None:
        """Rank 0, unless this is it, or it has ended well already."""
        line = self._lines.get(0)
        if line is not None:
            line.send(message)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            if self._listener is not None:
                selector.register(self._listener, selectors.EVENT_READ, None)
            for rank, line in self._lines.items():
                selector.register(line.socket, selectors.EVENT_READ, (rank, line))
            while not (self._closing or self.lost):
                for key, _ in selector.select(_TICK_S):
                    if key.data is None:
                        self._admit(selector)
                    else:
                        self._read(selector, *key.data)
                self._look_at_own_work()
                if self._rank == 0:
                    self._beat()
                    self._look_at_the_clock()
                else:
                    self._look_at_rank_0()
        if self.lost and not self._closing:
            self._end()

    def _admit(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        selector.register(connection, selectors.EVENT_READ, (-1, _Line(connection)))

    def _read(self, selector: selectors.BaseSelector, rank: int, line: _Line) -> None:
        messages = line.receive()
        if messages is None:
            selector.unregister(line.socket)
            line.socket.close()
            if rank in self._lines:
                del self._lines[rank]
                self._lose(
                    f"{self._members[rank].name} is gone without a word (killed, or its machine ran out of memory or was lost)"
                )
            return
        for message in messages:
            if rank < 0:
                rank = self._welcome(selector, line, message)
                if rank < 0:
                    return
            elif "doing" in message:
                member = self._members[rank]
                member.doing = str(message["doing"])
                member.since = member.moved = time.monotonic()
            elif "beat" in message:
                self._heard_at, self._members[rank].is_uncounted = time.monotonic(), bool(message["beat"])
            elif "uncounted" in message:
                self._members[rank].moved, self._members[rank].is_uncounted = time.monotonic(), bool(message["uncounted"])
            elif "lost" in message:
                self._lose(str(message["lost"]), is_whole=True)
            elif "left" in message:
                self._lines.pop(rank, None)
                if message["left"] is not None:
                    self._lose(f"{self._members[rank].name} failed: {message['left']}")

    def _welcome(self, selector: selectors.BaseSelector, line: _Line, message: dict[str, Any]) -> int:
        """The rank that has come; -1, and its connection is closed, for whoever does not know the token."""
        rank = message.get("rank")
        if message.get("token") != self._token or not isinstance(rank, int) or not 0 < rank < self._size:
            selector.unregister(line.socket)
            line.socket.close()
            return -1
        self._lines[rank] = line
        self._members[rank] = _Member(str(message.get("name")))
        selector.modify(line.socket, selectors.EVENT_READ, (rank, line))
        return rank

    def _look_at_the_clock(self) -> None:
        now, members = time.monotonic(), list(self._members.values())
        first = min((member for member in members if member.doing != BUSY), key=lambda member: member.since, default=None)
        if first is None:
            return
        still_s = now - max(member.moved for member in members)
        limit_s = max(self._timeout_s, _UNCOUNTED_S) if any(member.is_uncounted for member in members) else self._timeout_s
        if still_s <= limit_s:
            return
        missing = [member for member in members if member.doing != first.doing]
        late = "; ".join(
            f"{member.name} is at: {member.doing}, and did nothing more for {now - member.moved:.0f} s" for member in missing[:4]
        )
        stopped = min(members, key=lambda member: member.moved)
        together = f"All ranks are there: the network between them is stuck, or {stopped.name}, which stopped first"
        self._lose(
            f"{first.name} has been at '{first.doing}' for {now - first.since:.0f} s, and nothing moved on any rank for "
            f"{still_s:.0f} s (load.parallel.timeout_s = {self._timeout_s:g}). {late or together}"
        )

    def _lose(self, what: str, *, is_whole: bool = False) -> None:
        if self.lost or self._closing:
            return
        at = self._members[self._rank].doing
        self.lost = what if is_whole else f"{what}. Rank {self._rank} was at: {at}. {self.advice}"
        for line in self._lines.values() if self._rank == 0 else ():
            line.send({"lost": self.lost})
        self._found.set()

    def _end(self) -> None:
        if self.on_lost is not None:
            self.on_lost()
        until = time.monotonic() + _GRACE_S
        while time.monotonic() < until:
            time.sleep(0.05)
            if self._closing:
                return
        # Blocked in a collective that nothing can interrupt.
        sys.stderr.write(f"error: {self.lost}\n")
        sys.stderr.flush()
        os._exit(_EXIT_CODE)


def _own_name(rank: int) -> str:
    return f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _PROBE_S), ("TCP_KEEPINTVL", _PROBE_S), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
