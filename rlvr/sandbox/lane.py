"""Slots of one kind (plain, with numpy loaded, for sessions): started when needed, handed out fairly, replaced when lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlvr.errors import SandboxError
from rlvr.sandbox.backend import Backend, Box
from rlvr.sandbox.channel import ChannelLostError, Frames
from rlvr.sandbox.fair import FairQueue
from rlvr.sandbox.jobs import Flavor

PING_S = 10.0
RETRY_S = 0.5  # between two attempts to start a box


@dataclass(eq=False, slots=True)
class _Station:
    """A place where one box belongs, whether or not it runs at the moment."""

    backend: Backend
    slots: int
    box: Box | None = None
    is_starting: bool = False
    retry_at: float = 0.0
    served: int = 0


@dataclass(eq=False, slots=True)
class Slot:
    """One slot of one box, and the connection to it."""

    station: _Station
    box: Box
    number: int
    frames: Frames | None = None

    def connected(self) -> Frames:
        """Raises ChannelLostError."""
        if self.frames is None:
            self.frames = Frames(self.box.connect(self.number))
        return self.frames

    def disconnect(self) -> None:
        if self.frames is not None:
            self.frames.channel.close()
            self.frames = None


@dataclass(eq=False, slots=True)
class _Waiter:
    slot: Slot | None = None
    is_called: threading.Event = field(default_factory=threading.Event)


class Lane:
    """Hands out slots of boxes that it keeps running.

    `slots` says how many each box has, one entry for each box; they are spread over the backends in turn and started when
    the first ones are all in use. A box is replaced after `recycle` executions.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        flavor: Flavor,
        slots: Sequence[int],
        *,
        is_for_sessions: bool = False,
        patience_s: float = 60.0,
        recycle: int = 50_000,
    ) -> None:
        self._flavor: Flavor = flavor
        self._is_for_sessions = is_for_sessions
        self._patience_s = patience_s
        self._recycle = recycle
        self._lock = threading.Lock()  # guards everything below; never held while something starts or answers
        self._stations = [_Station(backends[index % len(backends)], count) for index, count in enumerate(slots)]
        self._idle: list[Slot] = []
        self._waiting: FairQueue[_Waiter] = FairQueue()
        self._last_error: SandboxError | None = None
        self._is_closed = False
        self._retiring: list[threading.Thread] = []

    @property
    def capacity(self) -> int:
        return sum(station.slots for station in self._stations)

    def boxes(self) -> list[Box]:
        with self._lock:
            return [station.box for station in self._stations if station.box is not None]

    def acquire(self, run: str, timeout_s: float | None = None) -> Slot:
        """A slot for `run`; waits for its turn, at most `timeout_s` (None: as long as boxes can be had).

        Raises:
            SandboxError: none came free in time, or no box could be started for `patience_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        failing_since = None
        while True:
            with self._lock:
                self._check_open()
                if self._idle and not len(self._waiting):
                    return self._idle.pop()
                waiter = _Waiter()
                station = self._startable()
                if station is None:
                    self._waiting.put(run, waiter)
                    self._serve_waiting()
            if station is not None:
                if self._start(station):
                    failing_since = None
                    continue
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._patience_s and not self.boxes():
                    raise self._last_error or SandboxError("the sandbox cannot be started")
            slot = self._wait(run, waiter, deadline, is_short=station is not None or self._has_missing())
            if slot is not None:
                return slot

    def release(self, slot: Slot) -> None:
        """Give a healthy slot back."""
        with self._lock:
            station = slot.station
            station.served += 1
            is_current = station.box is slot.box and not self._is_closed
            if is_current and station.served < self._recycle:
                self._idle.append(slot)
                self._serve_waiting()
                return
            if is_current:  # worn out: its other slots go as they are given back
                station.box, station.served = None, 0
                retired = [other for other in self._idle if other.box is slot.box]
                self._idle = [other for other in self._idle if other.box is not slot.box]
                self._call_one_to_start()
            else:
                retired = []
        for other in (slot, *retired):
            other.disconnect()
        if is_current:
            thread = threading.Thread(target=self._stop_when_drained, args=(slot.box,), daemon=True)
            with self._lock:
                self._retiring = [other for other in self._retiring if other.is_alive()] + [thread]
            thread.start()

    def recover(self, slot: Slot) -> bool:
        """After a lost connection: give the slot back if its box still serves it, else replace the box. True: it serves."""
        slot.disconnect()
        with self._lock:
            is_current = slot.station.box is slot.box
        if is_current and self._answers(slot):
            self.release(slot)
            return True
        self._replace(slot)
        return False

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            boxes = [station.box for station in self._stations if station.box is not None]
            idle, self._idle = self._idle, []
            while len(self._waiting):
                self._waiting.take().is_called.set()
        for slot in idle:
            slot.disconnect()
        for box in boxes:
            box.stop()
        for thread in self._retiring:
            thread.join()

    # -- waiting

    def _wait(self, run: str, waiter: _Waiter, deadline: float | None, *, is_short: bool) -> Slot | None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        if is_short:  # a box is down: look again whether it can be started
            timeout = RETRY_S if timeout is None else min(timeout, RETRY_S)
        waiter.is_called.wait(timeout)
        with self._lock:
            if waiter.slot is not None:
                return waiter.slot
            self._waiting.discard(run, waiter)
            self._check_open()
        if deadline is not None and time.monotonic() >= deadline:
            raise SandboxError(f"no sandbox slot came free in time; all {self.capacity} are in use: raise the number of slots")
        return None

    def _serve_waiting(self) -> None:
        while self._idle and len(self._waiting):
            waiter = self._waiting.take()
            waiter.slot = self._idle.pop()
            waiter.is_called.set()

    def _call_one_to_start(self) -> None:
        if len(self._waiting):
            self._waiting.take().is_called.set()

    def _check_open(self) -> None:
        if self._is_closed:
            raise SandboxError("this sandbox is closed")

    def _has_missing(self) -> bool:
        with self._lock:
            return any(station.box is None for station in self._stations)

    # -- boxes

    def _startable(self) -> _Station | None:
        """A place whose box should be started now. One box starts at a time in a lane: starts slow each other down."""
        if any(station.is_starting for station in self._stations):
            return None
        now = time.monotonic()
        for station in self._stations:
            if station.box is None and now >= station.retry_at:
                station.is_starting = True
                return station
        return None

    def _start(self, station: _Station) -> bool:
        box: Box | None = None
        try:
            box = station.backend.start(station.slots, self._flavor, is_for_sessions=self._is_for_sessions)
            slots = [Slot(station, box, number) for number in range(box.slots)]
            for slot in slots:
                if not self._answers(slot):
                    raise SandboxError(f"slot {slot.number} of the sandbox container {box.name} does not answer")
        except SandboxError as error:
            if box is not None:
                box.stop()
            with self._lock:
                station.is_starting, station.retry_at, self._last_error = False, time.monotonic() + RETRY_S, error
            return False
        except BaseException:
            with self._lock:
                station.is_starting = False
            raise
        with self._lock:
            station.is_starting, station.served = False, 0
            if self._is_closed:
                station.box = None
            else:
                station.box = box
                self._idle += slots
                self._serve_waiting()
        if station.box is None:
            box.stop()
        return True

    def _replace(self, slot: Slot) -> None:
        with self._lock:
            if slot.station.box is not slot.box:  # another thread noticed first
                return
            slot.station.box, slot.station.retry_at = None, 0.0
            lost = [other for other in self._idle if other.box is slot.box]
            self._idle = [other for other in self._idle if other.box is not slot.box]
            self._call_one_to_start()
        for other in lost:
            other.disconnect()
        slot.box.stop()

    def _answers(self, slot: Slot) -> bool:
        try:
            answer, _ = slot.connected().ask({"k": "ping"}, (), PING_S)
        except ChannelLostError:
            slot.disconnect()
            return False
        return answer.get("st") == "pong"

    def _stop_when_drained(self, box: Box, patience_s: float = 660.0) -> None:
        """Executions that still run in a retired box may finish: none takes longer than the largest limit."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self._is_closed and box.is_alive() and _in_use(box):
            time.sleep(0.05)
        box.stop()


def _in_use(box: Box) -> bool:
    """Whether any slot of a retired box still has its connection; those at rest were disconnected."""
    for number in range(box.slots):
        try:
            frames = Frames(box.connect(number))
        except ChannelLostError:
            return False
        try:
            frames.ask({"k": "ping"}, (), 0.05)  # a slot serves one connection at a time
        except ChannelLostError:
            return True
        finally:
            frames.channel.close()
    return False
