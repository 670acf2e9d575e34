"""The sandbox of this process: warm boxes, jobs from any thread or event loop, sessions."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from rlvr.errors import RlvrError, SandboxError, boundary
from rlvr.sandbox.backend import Backend, Box
from rlvr.sandbox.channel import ChannelLostError
from rlvr.sandbox.fair import FairQueue
from rlvr.sandbox.jobs import Execution, Failure, Flavor, Job, Limits, Program, Status
from rlvr.sandbox.lane import Lane, Slot
from rlvr.sandbox.protocol import Request, execution, flavor_of, request
from rlvr.sandbox.session import PooledSession, SessionKeeper
from rlvr.types import JSON

ANSWER_GRACE_S = 15.0  # beyond the wall limit that the slot itself keeps
SESSIONS_PER_BOX = 16
SESSION_PATIENCE_S = 60.0  # until a slot comes free
DEFAULT_LIMITS = Limits()


class _Ticket:
    """One execution that may be cancelled from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._slot: Slot | None = None
        self.is_cancelled = False

    def hold(self, slot: Slot | None) -> None:
        with self._lock:
            self._slot = slot
            if slot is not None and self.is_cancelled:
                self._interrupt(slot)

    def cancel(self) -> None:
        with self._lock:
            self.is_cancelled = True
            if self._slot is not None:
                self._interrupt(self._slot)

    @staticmethod
    def _interrupt(slot: Slot) -> None:
        if slot.frames is not None:
            slot.frames.channel.interrupt()


class SandboxPool:
    """Runs jobs in warm boxes of one or more backends (several hosts: one backend each).

    `slots`: jobs at a time, over all boxes (default: twice the cores of this machine). `sessions`: open sessions at most; they
    have boxes of their own, started as they are needed. Jobs that import numpy or sympy get boxes of their own, too.

    A job whose box is lost is run once more elsewhere, and then alone in a box. If that is lost, too, while a harmless program
    runs well, losing boxes is what the submission does: it is reported as killed. Otherwise the sandbox has failed, and says so.
    A job that failed while its box ran out of memory, or that its neighbours left no processor, is repeated alone as well.

    Close it, or use it as a context manager; when the process dies, its boxes end themselves.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        slots: int | None = None,
        sessions: int = 64,
        slots_per_box: int = 8,
        patience_s: float = 60.0,
        recycle: int = 50_000,
    ) -> None:
        count = slots or 2 * (os.cpu_count() or 1)
        shares = _shares(count, slots_per_box, len(backends))
        self._backends = tuple(backends)
        self._process = os.getpid()
        self._lanes: dict[Flavor, Lane] = {
            "standard": Lane(backends, "standard", shares, patience_s=patience_s, recycle=recycle),
            "science": Lane(backends, "science", shares, patience_s=patience_s, recycle=recycle),
        }
        self._alone: dict[Flavor, Lane] = {
            flavor: Lane(backends, flavor, [1] * max(1, count // 4), patience_s=patience_s, recycle=recycle)
            for flavor in self._lanes
        }
        session_boxes = _shares(sessions, SESSIONS_PER_BOX, 1)
        self._session_lane = Lane(
            backends, "standard", session_boxes, is_for_sessions=True, patience_s=patience_s, recycle=recycle
        )
        self._keeper = SessionKeeper()
        self._dispatcher = _Dispatcher(count)

    @property
    def capacity(self) -> int:
        return self._lanes["standard"].capacity

    @property
    def name(self) -> str:
        return ", ".join(backend.name for backend in self._backends)

    def boxes(self) -> list[Box]:
        """The boxes that run at the moment."""
        return [box for lane in self._all_lanes() for box in lane.boxes()]

    def warm_up(self) -> None:
        """Run a harmless program, so that a sandbox that cannot work is found out before the work begins.

        Raises:
            SandboxError: what is wrong, and what to do.
        """
        done = self.execute(Program("print(6 * 7)"))
        if not (done.is_success and done.stdout == b"42\n"):
            raise SandboxError(f"the sandbox does not work: a harmless program gave {done.status}, {done.stderr!r}")

    def execute(self, job: Job, limits: Limits = DEFAULT_LIMITS, *, run: str = "") -> Execution:
        return self._execute(job, limits, run, _Ticket())

    async def run(self, job: Job, limits: Limits = DEFAULT_LIMITS, *, run: str = "") -> Execution:
        ticket = _Ticket()
        future = self._dispatcher.submit(run, lambda: self._execute(job, limits, run, ticket))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            ticket.cancel()
            raise

    async def open_session(self, limits: Limits = DEFAULT_LIMITS, *, run: str = "", idle_s: float = 600.0) -> PooledSession:
        self._check_process()
        opening = self._keeper.submit(self._new_session, limits, run, idle_s)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_end_unwanted)
            raise

    def _new_session(self, limits: Limits, run: str, idle_s: float) -> PooledSession:
        slot = self._session_lane.acquire(run, SESSION_PATIENCE_S)
        session = PooledSession(slot, self._session_lane, self._keeper, limits, idle_s)
        session.open()
        return session

    def close(self) -> None:
        if os.getpid() != self._process:  # a forked child shares the connections, and must not end them
            return
        self._dispatcher.close()
        self._keeper.close()
        for lane in self._all_lanes():
            lane.close()
        for backend in self._backends:
            backend.close()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _execute(self, job: Job, limits: Limits, run: str, ticket: _Ticket) -> Execution:
        self._check_process()
        wanted = request(job, limits)
        lane = self._lanes[flavor_of(job)]
        done = self._attempt(lane, job, wanted, limits, run, ticket) or self._attempt(lane, job, wanted, limits, run, ticket)
        if done is None or done.is_disturbed:
            done = self._attempt(self._alone[flavor_of(job)], job, wanted, limits, run, ticket)
        if done is not None:
            return done.execution
        # Lost even with nobody else in the box. Is it the submission's doing?
        probe = Program("print(1)")
        if self._attempt(lane, probe, request(probe, DEFAULT_LIMITS), DEFAULT_LIMITS, run, ticket) is not None:
            failure = Failure("SandboxLost", "the sandbox was lost three times while this ran, and works without it")
            return Execution(Status.KILLED, signal=9, failure=failure)
        raise SandboxError("the sandbox was lost four times in a row, the last time under a harmless program")

    def _attempt(self, lane: Lane, job: Job, wanted: Request, limits: Limits, run: str, ticket: _Ticket) -> _Done | None:
        """None: the slot was lost on the way."""
        if ticket.is_cancelled:
            raise asyncio.CancelledError
        slot = lane.acquire(run)
        try:
            frames = slot.connected()
            ticket.hold(slot)
            answer, blobs = frames.exchange(wanted.head, wanted.payloads, limits.wall_s + ANSWER_GRACE_S)
        except ChannelLostError:
            ticket.hold(None)
            lane.recover(slot)
            if ticket.is_cancelled:
                raise asyncio.CancelledError from None
            return None
        except BaseException:  # an interrupt in the middle of an answer: the connection is of no more use
            ticket.hold(None)
            slot.disconnect()
            lane.recover(slot)
            raise
        ticket.hold(None)
        lane.release(slot)
        return _Done(execution(job, wanted.nonce, answer, blobs, slot.box.image), _is_disturbed(answer))

    def _all_lanes(self) -> tuple[Lane, ...]:
        return (*self._lanes.values(), *self._alone.values(), self._session_lane)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise SandboxError("this sandbox belongs to the process that made it; make another one after a fork")


@dataclass(frozen=True, slots=True)
class _Done:
    execution: Execution
    is_disturbed: bool


def _is_disturbed(answer: dict[str, JSON]) -> bool:
    """Whether the other jobs in the box may be why this one failed: they share its memory and its processors."""
    waited = answer.get("waited")
    return bool(answer.get("oom")) or (answer["st"] == "late" and type(waited) is float and waited > answer["wall"] / 2)


def _end_unwanted(opening: Future[PooledSession]) -> None:
    """Of a session that came up after its caller had been cancelled."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().end("nobody waits for it")


def _shares(count: int, per_box: int, hosts: int) -> list[int]:
    """How many slots each box gets: no more than `per_box`, as even as can be, at least one box on every host."""
    boxes = min(max(-(-count // per_box), hosts), max(count, 1))
    return [count // boxes + (index < count % boxes) for index in range(boxes)]


class _Dispatcher:
    """Threads that wait for slots on behalf of coroutines, fair between runs. Started when first needed."""

    def __init__(self, threads: int) -> None:
        self._count = threads
        self._condition = threading.Condition()  # guards everything below
        self._threads: list[threading.Thread] = []
        self._queue: FairQueue[tuple[Future[Execution], Callable[[], Execution]]] = FairQueue()
        self._is_closed = False

    def submit(self, run: str, work: Callable[[], Execution]) -> Future[Execution]:
        future: Future[Execution] = Future()
        with self._condition:
            if self._is_closed:
                raise SandboxError("this sandbox is closed")
            self._queue.put(run, (future, work))
            if len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name="rlvr-sandbox", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._condition.notify()
        return future

    def close(self) -> None:
        with self._condition:
            self._is_closed = True
            while len(self._queue):
                self._queue.take()[0].cancel()
            self._condition.notify_all()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not len(self._queue):
                    if self._is_closed:
                        return
                    self._condition.wait()
                future, work = self._queue.take()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with boundary(SandboxError, "running a job in the sandbox"):
                    done = work()
            except (RlvrError, asyncio.CancelledError) as error:  # goes to the coroutine that waits
                future.set_exception(error)
            else:
                future.set_result(done)
