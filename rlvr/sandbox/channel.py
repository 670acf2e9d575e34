"""The connection to one slot: frames over a stream, with a deadline for every answer."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Protocol

from rlvr.types import JSON

MAX_BLOB_BYTES = 64 << 20
MAX_HEADER_BYTES = 1 << 16
_LENGTH = struct.Struct("!I")


class ChannelLostError(Exception):
    """The slot's side closed, answered nonsense, or did not answer in time. Internal: the pool decides what it means."""


class Channel(Protocol):
    """A stream of bytes to one slot server."""

    def send(self, data: bytes) -> None: ...

    def receive(self, deadline_s: float) -> bytes:
        """Some bytes, at least one; waits at most `deadline_s`. Raises ChannelLostError."""
        ...

    def interrupt(self) -> None:
        """End a `receive` that another thread waits in, and with it whatever runs in the slot."""
        ...

    def close(self) -> None: ...


def frame_header(header: str, payloads: Sequence[Sequence[bytes]]) -> bytes:
    """A request up to its payloads. `header`: a JSON object."""
    lengths = f'"p": {[[len(part) for part in payload] for payload in payloads]}}}'
    data = (f"{header[:-1]}, {lengths}" if len(header) > 2 else f"{{{lengths}").encode()
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Requests and answers over a channel; the format is described in `sandbox/runner/slot.py`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._buffer = b""

    def ask(
        self, header: dict[str, JSON], payloads: Sequence[Sequence[bytes]], deadline_s: float
    ) -> tuple[dict[str, JSON], list[bytes]]:
        """One request, one answer. The answer's header is the runner's own, its blobs are the submission's.

        Raises:
            ChannelLostError: there is no answer.
        """
        return self.exchange(frame_header(json.dumps(header), payloads), payloads, deadline_s)

    def exchange(
        self, head: bytes, payloads: Sequence[Sequence[bytes]], deadline_s: float
    ) -> tuple[dict[str, JSON], list[bytes]]:
        """The same with a header from `frame_header`."""
        self.channel.send(b"".join((head, *(part for payload in payloads for part in payload))))
        (length,) = _LENGTH.unpack(self._take(4, deadline_s))
        if length > MAX_HEADER_BYTES:
            raise ChannelLostError(f"an answer's header of {length} bytes")
        try:
            answer = json.loads(self._take(length, deadline_s).decode())
        except (ValueError, RecursionError) as error:
            raise ChannelLostError(f"an answer that cannot be read: {error}") from error
        sizes = answer.get("b", []) if isinstance(answer, dict) else None
        if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
            raise ChannelLostError("an answer that cannot be read: it is no object with the lengths of its parts")
        if sum(sizes) > MAX_BLOB_BYTES:
            raise ChannelLostError(f"an answer of {sum(sizes)} bytes")
        return answer, [self._take(size, deadline_s) if size else b"" for size in sizes]

    def _take(self, count: int, deadline_s: float) -> bytes:
        """The next `count` bytes; all of them within `deadline_s`, however slowly they come."""
        if len(self._buffer) < count:
            parts, have = [self._buffer], len(self._buffer)
            end = time.monotonic() + deadline_s
            while have < count:
                part = self.channel.receive(deadline_s)
                parts.append(part)
                have += len(part)
                if time.monotonic() > end and have < count:
                    raise ChannelLostError(f"only a part of an answer within {deadline_s:.1f} s")
            self._buffer = b"".join(parts)
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


class SocketChannel:
    """A connected stream socket (a unix socket in a folder that the container shares)."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._deadline_s = -1.0

    @classmethod
    def connect(cls, path: str) -> SocketChannel:
        """Raises ChannelLostError where nobody listens."""
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(path)
        except OSError as error:
            connected.close()
            raise ChannelLostError(f"cannot connect to {path}: {error}") from error
        return cls(connected)

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ChannelLostError(f"cannot send: {error}") from error

    def receive(self, deadline_s: float) -> bytes:
        if deadline_s != self._deadline_s:  # in the kernel: a Python time-out would cost a second system call for every read
            whole = int(deadline_s)
            timeout = struct.pack("ll", whole, int((deadline_s - whole) * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            self._deadline_s = deadline_s
        try:
            data = self._socket.recv(1 << 16)  # a larger buffer would be mapped and unmapped for every answer
        except BlockingIOError as error:
            raise ChannelLostError(f"no answer within {deadline_s:.1f} s") from error
        except OSError as error:
            raise ChannelLostError(f"cannot receive: {error}") from error
        if not data:
            raise ChannelLostError("the slot closed the connection")
        return data

    def interrupt(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def close(self) -> None:
        self._socket.close()
