"""A process that generates, seen from the trainer: started, asked, listened to, and started again when it dies."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any

from rlvr.engines.aside.wire import Setup, line
from rlvr.errors import EngineError
from rlvr.types import JSON

_WORKER = "rlvr.engines.aside.worker"
_END_S = 5.0


class Link:
    """Sends rows and resolves their futures, whatever becomes of the process: one that dies is started again with `setup()`, and
    what it had not answered is asked again. One that says nothing for `silent_s`, not even that it is there, is ended and counts
    as dead. After `restarts` deaths every question fails.

    Usable from any thread.

    Raises:
        EngineError: the process does not start, or cannot run the model.
    """

    def __init__(self, setup: Callable[[], Setup], *, restarts: int, start_s: float, silent_s: float) -> None:
        self._setup, self._silent_s = setup, silent_s
        self._restarts_left, self._start_s = restarts, start_s
        self.restarts = 0  # so far
        self.decoder_name = ""
        self._ids = itertools.count()
        self._lock = threading.Lock()  # guards what follows: the event loop, the update and the listener meet here
        self._open: dict[int, tuple[bytes, Future[Any]]] = {}
        self._is_up = True
        self._is_closing = False
        self._problem = ""
        self._process, self._socket = self._started()
        self._listener = self._listening()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, row: Mapping[str, JSON]) -> tuple[int, Future[Any]]:
        """The number of the question, and its answer."""
        number, future = next(self._ids), Future[Any]()
        with self._lock:
            if self._problem:
                raise EngineError(self._problem)
            sent = line({"id": number, **row})
            self._open[number] = (sent, future)
            self._send(sent)
        return number, future

    def tell(self, row: Mapping[str, JSON]) -> None:
        """Without an answer, and not said again to a process that comes after."""
        with self._lock:
            self._send(line(row))

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        with self._lock:
            if self._open.pop(number, None) is not None:
                self._send(line({"cancel": number}))

    def close(self) -> None:
        """End the process. Harmless the second time."""
        with self._lock:
            self._is_closing, self._is_up = True, False
            self._problem = self._problem or "the engine was closed"
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._listener is not threading.current_thread():
            self._listener.join(self._start_s)  # it may be starting the next process, which it then ends
        _end(self._process, _END_S)
        self._socket.close()

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """A process that has its model, and our end of the socket to it."""
        ours, theirs = socket.socketpair()
        setup = self._setup()
        # Threads that spin for work would take the cores from the trainer.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        command = [sys.executable, "-m", _WORKER, str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
            )
        try:
            answer = _first_answer(ours, setup, self._start_s)
            if "ready" in answer:
                self.decoder_name = str(answer["decoder"])
                ours.settimeout(self._silent_s)
                return process, ours
        except BaseException:
            _end(process, 0.0)
            ours.close()
            raise
        _end(process, 0.0 if "late" in answer else _END_S)
        ours.close()
        said = answer.get("failed") or answer.get("late") or f"it ended with code {process.returncode}; what it said is above"
        raise EngineError(f"the process that generates did not start: {said}")

    def _listening(self) -> threading.Thread:
        thread = threading.Thread(target=self._listen, name="rlvr-aside", daemon=True)
        thread.start()
        return thread

    def _listen(self) -> None:
        """Resolve futures until the process is gone for good."""
        is_there = True
        while is_there:
            is_there = self._brought_back(is_silent=self._heard_out())
        with self._lock:
            waiting, self._open = list(self._open.values()), {}
        for _, future in waiting:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(EngineError(self._problem))

    def _heard_out(self) -> bool:
        """Listen to one process; True where it fell silent, False where it has gone."""
        try:
            with self._socket.makefile("rb") as lines:
                for one in lines:
                    row = json.loads(one)
                    if "beat" not in row:
                        self._resolve(row)
        except TimeoutError:
            return True
        except (OSError, ValueError):  # ValueError: a line cut off
            return False
        return False

    def _resolve(self, row: dict[str, Any]) -> None:
        with self._lock:
            _, future = self._open.pop(row.pop("id"), (b"", None))
        if future is not None:
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                future.set_result(row)

    def _brought_back(self, *, is_silent: bool) -> bool:
        """Start another process; False if nobody wants one, or it was the last, and `_problem` says why."""
        with self._lock:
            self._is_up = False
            if self._was_closed():
                return False
        _end(self._process, 0.0)
        how = f"said nothing for {self._silent_s:g} s" if is_silent else f"died (code {self._process.returncode})"
        problem = f"the process that generates {how}"
        if self._restarts_left == 0:
            self._give_up(f"{problem}; it was started again {self.restarts} times before. {_ADVICE}")
            return False
        self._restarts_left -= 1
        self.restarts += 1
        try:
            process, connection = self._started()  # without the lock: who asks meanwhile need not wait
        except EngineError as error:
            self._give_up(f"{problem}, and {error}")
            return False
        with self._lock:
            self._socket.close()
            self._process, self._socket = process, connection
            if self._was_closed():
                self._socket.shutdown(socket.SHUT_RDWR)
                return False
            self._is_up = True
            for number in sorted(self._open):
                self._send(self._open[number][0])
        return True

    def _was_closed(self) -> bool:
        return self._is_closing

    def _give_up(self, problem: str) -> None:
        with self._lock:
            self._problem = problem

    def _send(self, sent: bytes) -> None:
        # A process that is gone is noticed by the listener, which says everything again to the next one.
        if self._is_up:
            with contextlib.suppress(OSError):
                self._socket.sendall(sent)


def _first_answer(connection: socket.socket, setup: Setup, limit_s: float) -> dict[str, Any]:
    """What a new process says when it has loaded its model; `failed` or `late` where it has not, nothing where it died."""
    connection.settimeout(limit_s)
    try:
        connection.sendall(line({name: getattr(setup, name) for name in Setup.__slots__}))
        said = b""
        while not said.endswith(b"\n"):
            if not (part := connection.recv(1 << 16)):
                return {}
            said += part
    except TimeoutError:
        return {"late": f"no answer within {limit_s:g} s"}
    except OSError:
        return {}
    connection.settimeout(None)
    found: dict[str, Any] = json.loads(said)
    return found


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """See it end by itself, or end it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
        return
    process.kill()
    process.wait()


_ADVICE = "Did the machine run out of memory? Lower engine.max_rows, or set rollout.max_staleness = 0 to generate in this process"
