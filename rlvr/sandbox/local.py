"""Boxes that are processes of this machine: what bubblewrap and the unsafe backend have in common."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import SandboxError
from rlvr.sandbox.channel import Channel, SocketChannel

READY_S = 30.0
STOP_S = 5.0
LOG_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One runner: its command, the folder of its sockets, and how many slots it has."""

    command: Sequence[str]
    sockets: Path
    slots: int


class LocalBox:
    """One or more runners under this process. Each ends itself when its lifeline, a connection of this process, is gone."""

    def __init__(self, name: str, image: str, folder: Path, parts: Sequence[Part], environment: Mapping[str, str]) -> None:
        self.name = name
        self.image = image
        self.slots = sum(part.slots for part in parts)
        self._folder = folder
        self._places = [(part.sockets, slot) for part in parts for slot in range(part.slots)]
        self._lifelines: list[socket.socket] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for part in parts:
                self._processes.append(self._start(part, environment))
            for part, process in zip(parts, self._processes, strict=True):
                self._lifelines.append(self._lifeline(part, process))
        except BaseException:
            self.stop()
            raise

    def connect(self, slot: int) -> Channel:
        sockets, number = self._places[slot]
        return SocketChannel.connect(str(sockets / str(number)))

    def is_alive(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def stop(self) -> None:
        for lifeline in self._lifelines:
            lifeline.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, part: Part, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        part.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return subprocess.Popen(
                part.command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is for the trainer
            )
        except OSError as error:
            raise SandboxError(f"cannot start {part.command[0]}: {error.strerror}") from error

    def _lifeline(self, part: Part, process: subprocess.Popen[bytes]) -> socket.socket:
        deadline = time.monotonic() + READY_S
        while True:
            lifeline = socket.socket(socket.AF_UNIX)
            try:
                lifeline.connect(str(part.sockets / "life"))
                return lifeline
            except OSError as error:
                lifeline.close()
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SandboxError(f"the sandbox {self.name} did not come up: {self._last_words() or error}") from error
            time.sleep(0.005)

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-LOG_BYTES:].decode(errors="replace").strip()
