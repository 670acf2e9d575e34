"""How much this process has done: what works adds to a count, and who watches over many processes sees where it stands still.

There is one count in a process, because it is the process that gets stuck. Only the work itself may add to it: a thread that did
so beside the work would go on after that hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """A count of pieces of work that take seconds: decoding steps, turns and verdicts of rollouts, micro-batches."""

    def __init__(self) -> None:
        self._count = 0
        self._uncounted = 0
        self._lock = threading.Lock()  # guards `_uncounted`: several threads may wait for something at once

    @property
    def count(self) -> int:
        return self._count

    @property
    def is_uncounted(self) -> bool:
        """Whether there is work that may take long without adding to the count."""
        return self._uncounted > 0

    def made(self) -> None:
        """One more piece is done."""
        self._count += 1

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Around what takes minutes in one piece, or happens elsewhere: a model is loaded, a server generates."""
        with self._lock:
            self._uncounted += 1
        try:
            yield
        finally:
            self.made()
            with self._lock:
                self._uncounted -= 1


PROGRESS = Progress()
