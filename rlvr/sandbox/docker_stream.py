"""A slot reached through an attached `docker exec`: for engines on other hosts, where no socket can be shared."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.sandbox.channel import ChannelLostError
from rlvr.sandbox.engine import engine_error

STDOUT = 1


class ExecChannel:
    """The engine sends both output streams in frames of its own: type, three zeros, length."""

    def __init__(self, container: Any, command: Sequence[str], environment: Mapping[str, str]) -> None:
        api = container.client.api
        with engine_error("starting a slot in a sandbox container"):
            started = api.exec_create(container.id, list(command), stdin=True, environment=dict(environment), user="0")
            self._stream = api.exec_start(started["Id"], socket=True)
        self._socket: socket.socket = getattr(self._stream, "_sock", self._stream)
        self._left = 0  # of the current frame
        self._is_output = True

    def send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(60.0)
            self._socket.sendall(data)
        except OSError as error:
            raise ChannelLostError(f"cannot send: {error}") from error

    def receive(self, deadline_s: float) -> bytes:
        self._socket.settimeout(deadline_s)
        while True:
            if not self._left:
                kind, self._left = struct.unpack("!BxxxI", self._exactly(8))
                self._is_output = kind == STDOUT
            data = self._some(min(self._left, 1 << 18)) if self._left else b""
            self._left -= len(data)
            if data and self._is_output:
                return data

    def _exactly(self, count: int) -> bytes:
        data = self._some(count)
        while len(data) < count:
            data += self._some(count - len(data))
        return data

    def _some(self, count: int) -> bytes:
        try:
            data = self._socket.recv(count)
        except OSError as error:
            raise ChannelLostError(f"cannot receive: {error}") from error
        if not data:
            raise ChannelLostError("the engine closed the stream")
        return data

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):
            self._stream.close()
