"""Lines in batches: whole chunks where lines come faster than they are taken, else as many as are there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from rlvr.errors import RlvrError, VerifierError, boundary

CHUNK_LINES = 500
CHUNK_CHARS = 2**18  # a batch may be longer by one line
BATCHES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines; `first` is the number of the first."""

    first: int
    lines: tuple[str, ...]

    @property
    def chars(self) -> int:
        return sum(map(len, self.lines))


def in_batches(lines: Iterable[str], first: int = 1) -> Generator[Batch, None, None]:
    """All lines, in order, in constant memory. They are read in a thread of their own, so reading may block.

    Raises:
        RlvrError: what `lines` raised, after the lines before it.
    """
    reader = _Reader(lines)
    try:
        while batch := reader.take():
            yield Batch(first, batch)
            first += len(batch)
    finally:
        reader.stop()


class _Reader:
    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self._changed = threading.Condition()  # guards all that follows
        self._held: deque[str] = deque()
        self._held_chars = 0
        self._is_over = False
        self._is_stopped = False
        self._failure: RlvrError | None = None
        threading.Thread(target=self._read, daemon=True, name="rlvr-lines").start()

    def take(self) -> tuple[str, ...]:
        """Up to a chunk of the lines that are there; waits for one. Nothing after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._is_over)
            if not self._held and self._failure is not None:
                raise self._failure
            taken: list[str] = []
            chars = 0
            while self._held and len(taken) < CHUNK_LINES and chars < CHUNK_CHARS:
                taken.append(self._held.popleft())
                chars += len(taken[-1])
            self._held_chars -= chars
            self._changed.notify_all()
            return tuple(taken)

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _read(self) -> None:
        failure: RlvrError | None = None
        try:
            with boundary(VerifierError, "reading the lines"):
                for line in self._lines:
                    if not self._hold(line):
                        return
        except RlvrError as error:
            failure = error  # it travels to the thread that takes, and is raised there
        with self._changed:
            self._failure, self._is_over = failure, True
            self._changed.notify_all()

    def _hold(self, line: str) -> bool:
        """Wait for room, and keep the line; False when nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(self._has_room)
            self._held.append(line)
            self._held_chars += len(line)
            self._changed.notify_all()
            return not self._is_stopped

    def _has_room(self) -> bool:
        is_full = len(self._held) >= BATCHES_AHEAD * CHUNK_LINES or self._held_chars >= BATCHES_AHEAD * CHUNK_CHARS
        return self._is_stopped or not is_full
