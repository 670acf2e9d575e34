"""Worker processes for isolated verifiers: one job at a time each, killed at the wall-clock limit, replaced when dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from rlvr.errors import VerifierError
from rlvr.types import JSON, Rollout, Verdict
from rlvr.verifiers.call import MAX_REASON_CHARS, clip
from rlvr.verifiers.chunk import GradedChunk
from rlvr.verifiers.protocol import HEADER_BYTES, decode_frame, encode_frame, frame_size, rollout_to_json, verdict_from_json

START_TIMEOUT_S = 120.0  # importing heavy libraries on a busy machine
SEND_TIMEOUT_S = 60.0
CHUNK_TIMEOUT_S = 300.0  # a chunk is graded in bounded time: what takes this long is stuck
MAX_OUTPUT_CHARS = 2_000

logger = logging.getLogger(__name__)


class WorkerDiedError(VerifierError):
    """The worker ended, or broke the protocol, before it answered. `is_hang_up`: its end of the socket is closed."""

    def __init__(self, text: str, *, is_hang_up: bool = False) -> None:
        super().__init__(text)
        self.is_hang_up = is_hang_up


class WorkerTimeoutError(VerifierError):
    """The worker did not answer in time."""


class Worker:
    """One worker process and our end of its socket. Belongs to the event loop that it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, child = socket.socketpair()
        self._output, child_output = os.pipe()
        self._printed = b""
        self._jobs = 0
        self._owner = os.getpid()
        self.is_loaded = False
        with child:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "rlvr.verifiers.worker"],
                    stdin=child.fileno(),
                    stdout=child_output,
                    stderr=child_output,
                    env=_environment(),
                    start_new_session=True,  # its process group is its own: it can be killed with all its children
                )
            finally:
                os.close(child_output)
        self._socket.setblocking(False)
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._read_output)

    async def load(self, references: Sequence[str], memory_mb: int | None) -> str | None:
        """Import the verifiers. Returns what went wrong, if anything did.

        Raises:
            WorkerDiedError, WorkerTimeoutError
        """
        reply = await self.call({"load": list(references), "memory_mb": memory_mb}, START_TIMEOUT_S)
        self.is_loaded = "error" not in reply
        return reply.get("error")

    async def call(self, request: Mapping[str, JSON], timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its reply. After an exception the worker must be killed.

        Raises:
            WorkerDiedError, WorkerTimeoutError
            VerifierError: the request is not JSON, or too large.
        """
        self._jobs += 1
        frame = encode_frame({**request, "job": self._jobs, "timeout_s": timeout_s})
        await self._send(frame, self._loop.time() + SEND_TIMEOUT_S)
        deadline = self._loop.time() + timeout_s
        size = frame_size(await self._receive(HEADER_BYTES, deadline))
        reply = decode_frame(await self._receive(size, deadline))
        if reply.get("job") != self._jobs:
            raise WorkerDiedError("answered another job than the one it was given")
        return reply

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End the worker's whole process group. Does not wait; safe to call twice, and after the loop was closed."""
        if self._socket.fileno() < 0:
            return
        if self._owner == os.getpid():
            # Not reaped before this line, so that the group id can not have gone to someone else.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._loop.remove_reader(self._output)  # not in a forked child: the selector is shared with the parent
        os.close(self._output)
        self._socket.close()

    async def cause_of_death(self) -> str:
        """How the process ended, in words, with the last that it printed. It stays unreaped."""
        for _ in range(200):
            try:
                status = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                return "died"
            if status is not None:
                break
            await asyncio.sleep(0.01)
        else:
            return "closed its connection"
        self._read_output()
        if status.si_code == os.CLD_EXITED:
            how = f"exited with status {status.si_status}"
        else:
            how = f"was killed by {signal.Signals(status.si_status).name}"
        printed = self._printed.decode(errors="replace").strip()
        return f"{how}; it printed: {printed}" if printed else how

    async def _send(self, frame: bytes, deadline: float) -> None:
        view = memoryview(frame)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await self._wait(deadline, for_reading=False)
            except OSError as error:
                raise WorkerDiedError(str(error), is_hang_up=True) from error

    async def _receive(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                chunk = self._socket.recv(min(size - len(data), 1 << 20))
            except BlockingIOError:
                await self._wait(deadline, for_reading=True)
                continue
            except OSError as error:
                raise WorkerDiedError(str(error), is_hang_up=True) from error
            if not chunk:
                raise WorkerDiedError("hung up", is_hang_up=True)
            data += chunk
        return bytes(data)

    async def _wait(self, deadline: float, *, for_reading: bool) -> None:
        # Readiness is looked at before the clock: if our own loop was busy beyond the deadline, an answer that came
        # in time still counts.
        ready: asyncio.Future[None] = self._loop.create_future()
        add, remove = (
            (self._loop.add_reader, self._loop.remove_reader)
            if for_reading
            else (self._loop.add_writer, self._loop.remove_writer)
        )
        add(self._socket, _resolve, ready)
        try:
            done, _ = await asyncio.wait({ready}, timeout=max(0.0, deadline - self._loop.time()))
        finally:
            remove(self._socket)
        if not done:
            raise WorkerTimeoutError("no answer")

    def _read_output(self) -> None:
        try:
            chunk = os.read(self._output, 65_536)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._output)
            return
        self._printed = (self._printed + chunk)[-MAX_OUTPUT_CHARS:]
        logger.info("%s", chunk.decode(errors="replace").rstrip("\n"))


class VerifierPool(Protocol):
    """Where isolated verifiers run. Belongs to one event loop."""

    async def grade(self, name: str, reference: str, rollout: Rollout, settings: Mapping[str, JSON]) -> Verdict:
        """The verdict of one isolated verifier; never raises for what a verifier or worker does."""
        ...

    async def grade_chunk(
        self, reference: str, lines: Sequence[str], name: str, first: int, settings: Mapping[str, JSON]
    ) -> GradedChunk:
        """As `chunk.grade_chunk`, in a worker.

        Raises:
            VerifierError: the worker ended or got stuck; the lines have no verdicts.
        """
        ...

    async def close(self) -> None:
        """End all workers and wait until they are gone."""
        ...


class MakePool(Protocol):
    """Makes a pool for the verifiers that `references` name; the limits are those of `Grader`."""

    def __call__(
        self, references: Sequence[str], *, workers: int, timeout_s: float, retries: int, memory_mb: int | None
    ) -> VerifierPool: ...


class WorkerPool:
    """At most `workers` processes, started when they are needed. Belongs to one event loop."""

    def __init__(self, references: Sequence[str], *, workers: int, timeout_s: float, retries: int, memory_mb: int | None) -> None:
        self._references = tuple(references)
        self._slots = asyncio.Semaphore(workers)
        self._timeout_s = timeout_s
        self._retries = retries
        self._memory_mb = memory_mb
        self._idle: list[Worker] = []
        self._all: list[Worker] = []  # also those that were killed and are not reaped yet
        self._is_closed = False
        self._load_error: str | None = None
        self._finalizer = weakref.finalize(self, _abandon, self._all)

    async def grade(self, name: str, reference: str, rollout: Rollout, settings: Mapping[str, JSON]) -> Verdict:
        """The verdict of one isolated verifier; never raises for what a verifier or worker does."""
        request = {"verifier": reference, "settings": dict(settings), "rollout": rollout_to_json(rollout)}
        async with self._slots:
            cause = ""
            for _ in range(1 + self._retries):
                if self._is_closed:
                    return Verdict.error(f"verifier {name!r}: the grader was closed")
                if self._load_error is not None:
                    return Verdict.error(self._load_error)
                try:
                    return await self._attempt(request)
                except WorkerTimeoutError:
                    return Verdict.error(
                        f"verifier {name!r} took longer than {self._timeout_s:g} s and was killed", is_timeout=True
                    )
                except WorkerDiedError as error:
                    cause = str(error)
                except VerifierError as error:
                    return Verdict.error(f"verifier {name!r}: {clip(str(error), MAX_REASON_CHARS)}")
            return Verdict.error(f"verifier {name!r}: its worker {cause} ({1 + self._retries} attempts)")

    async def grade_chunk(
        self, reference: str, lines: Sequence[str], name: str, first: int, settings: Mapping[str, JSON]
    ) -> GradedChunk:
        """As `chunk.grade_chunk`, in a worker.

        Raises:
            VerifierError: the worker ended or got stuck; the lines have no verdicts.
        """
        request = {"verifier": reference, "settings": dict(settings), "lines": list(lines), "name": name, "first": first}
        async with self._slots:
            if self._is_closed:
                raise VerifierError("the grader was closed")
            try:
                async with self._lent(for_chunk=True) as worker:
                    reply = await worker.call(request, CHUNK_TIMEOUT_S)
                    if "chunk" not in reply:
                        raise WorkerDiedError(f"failed with {reply.get('error', 'an unreadable answer')}")
                    return GradedChunk.from_json(reply["chunk"])
            except WorkerTimeoutError as error:
                raise VerifierError(f"took longer than {CHUNK_TIMEOUT_S:g} s for {len(lines)} lines and was killed") from error

    async def close(self) -> None:
        """Kill all workers and wait until they are gone."""
        self._is_closed = True
        for worker in self._all:
            worker.kill()
        self._idle.clear()
        while self._reap():
            await asyncio.sleep(0.002)

    async def _attempt(self, request: Mapping[str, JSON]) -> Verdict:
        async with self._lent(for_chunk=False) as worker:
            if not worker.is_loaded and (error := await worker.load(self._references, self._memory_mb)):
                self._load_error = f"a verifier worker failed to start: {clip(error, MAX_REASON_CHARS)}"
                return Verdict.error(self._load_error)
            reply = await worker.call(request, self._timeout_s)
            if "verdict" not in reply:
                raise WorkerDiedError(f"failed with {reply.get('error', 'an unreadable answer')}")
            verdict = verdict_from_json(reply["verdict"])
            if reply["is_exhausted"]:
                raise WorkerDiedError(f"ran out of memory ({verdict.reason})")
            return verdict

    @contextlib.asynccontextmanager
    async def _lent(self, *, for_chunk: bool) -> AsyncIterator[Worker]:
        """A worker that nobody else has. After an exception it is killed, otherwise the next may have it.

        Raises:
            WorkerDiedError, WorkerTimeoutError: it hung up; says how it ended.
        """
        worker = self._take(for_chunk=for_chunk)
        is_reusable = False
        try:
            yield worker
            is_reusable = not self._is_closed and self._load_error is None
        except WorkerDiedError as error:
            if not error.is_hang_up:
                raise
            how = await worker.cause_of_death()
            if "SIGALRM" in how:  # its own alarm was faster than our loop
                raise WorkerTimeoutError(how) from error
            raise WorkerDiedError(how) from error
        finally:
            if is_reusable:
                self._idle.append(worker)
            else:
                worker.kill()

    def _take(self, *, for_chunk: bool) -> Worker:
        self._reap()
        # Chunks need no heavy libraries: the workers that have them are left to the rollouts that do.
        self._idle.sort(key=lambda worker: worker.is_loaded != for_chunk)
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.kill()
        worker = Worker()
        self._all.append(worker)
        return worker

    def _reap(self) -> int:
        """Forget the workers that are gone; returns how many are left."""
        self._all[:] = [worker for worker in self._all if worker.is_alive()]
        return len(self._all)


def is_timeout(verdict: Verdict) -> bool:
    """Whether `WorkerPool.grade` gave up on this rollout because of the time limit."""
    return verdict.score is None and verdict.details.get("is_timeout") is True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _abandon(workers: list[Worker]) -> None:
    """The pool was dropped without `close`, or the interpreter exits."""
    for worker in workers:
        worker.kill()
        if worker._owner == os.getpid():
            worker.process.wait()


def _environment() -> dict[str, str]:
    paths = [os.path.abspath(path) for path in sys.path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),  # what is importable here is importable there
        "PYTHONHASHSEED": "0",  # the order of sets decides what some symbolic libraries find
        "OMP_NUM_THREADS": "1",
    }
