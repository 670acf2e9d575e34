"""Slots are handed out fairly, boxes started when needed and replaced when lost; no engine is needed to see it."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.channel import ChannelLostError
from rlvr.sandbox.fair import FairQueue
from rlvr.sandbox.jobs import Flavor, Program, Status
from rlvr.sandbox.lane import Lane, Slot
from rlvr.sandbox.pool import SandboxPool, _shares


def _framed(header: dict[str, object], *blobs: bytes) -> bytes:
    data = json.dumps({**header, "b": [len(blob) for blob in blobs]}).encode()
    return struct.pack("!I", len(data)) + data + b"".join(blobs)


@dataclass
class FakeChannel:
    """Answers pings, and programs by `run`; a box that is not alive loses every request."""

    box: FakeBox
    answer: bytes = b""

    def send(self, data: bytes) -> None:
        (length,) = struct.unpack("!I", data[:4])
        header = json.loads(data[4 : 4 + length])
        if header["k"] == "ping":
            self.answer = _framed({"st": "pong"})
            return
        self.box.backend.served.append(self.box.name)
        told = self.box.backend.on_job(self.box, data)
        if told is not False:
            said = {"st": "exit", "code": 0, "out": 3, "err": 0, "wall": 0.1, "cpu": 0.1, "rss": 1024}
            self.answer = _framed({**said, **(told if isinstance(told, dict) else {})}, b"", b"ok\n", b"")

    def receive(self, deadline_s: float) -> bytes:
        if not self.box.alive or not self.answer:
            raise ChannelLostError("gone")
        answer, self.answer = self.answer, b""
        return answer

    def interrupt(self) -> None:
        self.box.alive = False

    def close(self) -> None:
        self.answer = b""


@dataclass
class FakeBox:
    backend: FakeBackend
    name: str
    slots: int
    image: str = "sha256:fake"
    alive: bool = True

    def connect(self, slot: int) -> FakeChannel:
        if not self.alive:
            raise ChannelLostError("gone")
        return FakeChannel(self)

    def is_alive(self) -> bool:
        return self.alive

    def stop(self) -> None:
        self.alive = False
        self.backend.stopped.append(self.name)


@dataclass
class FakeBackend:
    name: str = "fake"
    on_job: Callable[[FakeBox, bytes], bool | dict[str, object]] = lambda box, data: True  # False: no answer
    failures: int = 0  # starts that fail before one succeeds
    started: list[FakeBox] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)

    def start(self, slots: int, flavor: Flavor, *, is_for_sessions: bool = False) -> FakeBox:
        if self.failures:
            self.failures -= 1
            raise SandboxError("the engine is down; start it")
        box = FakeBox(self, f"{self.name}-{len(self.started)}", slots)
        self.started.append(box)
        return box

    def close(self) -> None:
        pass


JOB = Program("print('ok')")


def test_runs_are_served_in_turn_however_much_each_has_asked_for() -> None:
    queue: FairQueue[str] = FairQueue()
    for run, item in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]:
        queue.put(run, item)
    assert queue.discard("c", "c1")
    assert not queue.discard("c", "c1")
    assert [queue.take() for _ in range(len(queue))] == ["a1", "b1", "a2", "b2", "a3"]
    with pytest.raises(IndexError):
        queue.take()


@pytest.mark.parametrize(
    ("count", "per_box", "hosts", "expected"),
    [(4, 8, 1, [4]), (1, 8, 3, [1]), (10, 8, 1, [5, 5]), (4, 8, 2, [2, 2]), (5, 2, 1, [2, 2, 1])],
)
def test_slots_are_spread_over_boxes_and_hosts(count: int, per_box: int, hosts: int, expected: list[int]) -> None:
    assert _shares(count, per_box, hosts) == expected


def test_boxes_start_only_when_they_are_needed() -> None:
    backend = FakeBackend()
    lane = Lane([backend], "standard", [1, 1])
    assert backend.started == []
    first = lane.acquire("")
    assert len(backend.started) == 1
    second = lane.acquire("")
    assert len(backend.started) == 2
    assert {first.box.name, second.box.name} == {"fake-0", "fake-1"}
    lane.release(first)
    lane.release(second)
    lane.close()
    assert sorted(backend.stopped) == ["fake-0", "fake-1"]


def test_waiting_runs_take_turns_for_the_one_slot() -> None:
    lane = Lane([FakeBackend()], "standard", [1])
    held = lane.acquire("first")
    order: list[str] = []
    threads = []
    for run in ("a", "a", "a", "b"):
        thread = threading.Thread(target=_use, args=(lane, run, order))
        thread.start()
        threads.append(thread)
        _until(lambda: len(lane._waiting) == len(threads))
    lane.release(held)
    for thread in threads:
        thread.join(60)
    assert order == ["a", "b", "a", "a"]
    lane.close()


def _use(lane: Lane, run: str, order: list[str]) -> None:
    slot = lane.acquire(run)
    order.append(run)
    lane.release(slot)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_full_lane_says_so_when_the_time_is_up() -> None:
    lane = Lane([FakeBackend()], "standard", [1])
    lane.acquire("")
    with pytest.raises(SandboxError, match="all 1 are in use"):
        lane.acquire("", timeout_s=0.02)
    lane.close()
    with pytest.raises(SandboxError, match="closed"):
        lane.acquire("")


def test_an_engine_that_comes_back_in_time_is_waited_for() -> None:
    backend = FakeBackend(failures=1)
    lane = Lane([backend], "standard", [1], patience_s=10)
    assert isinstance(lane.acquire(""), Slot)
    lane.close()


def test_an_engine_that_stays_away_is_reported_in_its_own_words() -> None:
    lane = Lane([FakeBackend(failures=10**6)], "standard", [1], patience_s=0.0)
    with pytest.raises(SandboxError, match="the engine is down; start it"):
        lane.acquire("")


def test_a_job_whose_box_dies_is_run_once_more_elsewhere() -> None:
    def dies_once(box: FakeBox, data: bytes) -> bool:
        box.alive = box.name != "fake-0"
        return True

    backend = FakeBackend(on_job=dies_once)
    with SandboxPool([backend], slots=2) as pool:
        assert pool.execute(JOB).stdout == b"ok\n"
    assert backend.served == ["fake-0", "fake-1"]


def test_a_submission_that_takes_every_box_down_is_to_blame() -> None:
    def deadly(box: FakeBox, data: bytes) -> bool:
        box.alive = b"deadly" not in data
        return True

    with SandboxPool([FakeBackend(on_job=deadly)], slots=1) as pool:
        done = pool.execute(Program("deadly"))
        assert done.status is Status.KILLED
        assert done.failure is not None
        assert done.failure.kind == "SandboxLost"
        assert pool.execute(JOB).stdout == b"ok\n"


def test_a_submission_whose_neighbour_takes_both_its_boxes_down_runs_alone() -> None:
    def crowded(box: FakeBox, data: bytes) -> bool:
        box.alive = box.slots == 1
        return True

    backend = FakeBackend(on_job=crowded)
    with SandboxPool([backend], slots=2) as pool:
        assert pool.execute(JOB).stdout == b"ok\n"
    assert [box.slots for box in backend.started] == [2, 2, 1]


STARVED = {"st": "late", "code": -9, "wall": 4.0, "cpu": 0.1, "waited": 3.5}
OUT_OF_MEMORY = {"st": "memory", "code": -9, "oom": 2}
CHILD_KILLED = {"code": 1, "oom": 1}


@pytest.mark.parametrize("ending", [STARVED, OUT_OF_MEMORY, CHILD_KILLED], ids=["starved", "out of memory", "a child killed"])
def test_a_failure_that_the_neighbours_may_have_caused_is_repeated_alone(ending: dict[str, object]) -> None:
    backend = FakeBackend(on_job=lambda box, data: ending if box.slots == 2 else True)
    with SandboxPool([backend], slots=2) as pool:
        assert pool.execute(JOB).is_success
    assert backend.served == ["fake-0", "fake-1"]


@pytest.mark.parametrize("ending", [STARVED, OUT_OF_MEMORY])
def test_what_fails_alone_as_well_is_the_submissions_doing(ending: dict[str, object]) -> None:
    backend = FakeBackend(on_job=lambda box, data: ending)
    with SandboxPool([backend], slots=2) as pool:
        assert pool.execute(JOB).status in (Status.TIMED_OUT, Status.OUT_OF_MEMORY)
    assert backend.served == ["fake-0", "fake-1"]


@pytest.mark.parametrize(
    "ending", [{"st": "late", "wall": 4.0, "waited": 0.5}, {"code": 1, "oom": 0}, {"st": "late", "wall": 4.0, "waited": "x"}]
)
def test_a_failure_of_its_own_is_not_repeated(ending: dict[str, object]) -> None:
    backend = FakeBackend(on_job=lambda box, data: ending)
    with SandboxPool([backend], slots=2) as pool:
        pool.execute(JOB)
    assert backend.served == ["fake-0"]


def test_a_sandbox_that_dies_under_anything_is_our_failure() -> None:
    def broken(box: FakeBox, data: bytes) -> bool:
        box.alive = False
        return True

    with SandboxPool([FakeBackend(on_job=broken)], slots=1) as pool, pytest.raises(SandboxError, match="four times in a row"):
        pool.execute(JOB)


def test_two_hosts_share_the_work() -> None:
    one, two = FakeBackend("one"), FakeBackend("two")
    with SandboxPool([one, two], slots=2) as pool:
        held = [pool._lanes["standard"].acquire("") for _ in range(2)]
        assert {slot.box.name for slot in held} == {"one-0", "two-0"}
        for slot in held:
            pool._lanes["standard"].release(slot)
