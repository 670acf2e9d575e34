"""Threads for work that waits, which an interrupted run need not wait for.

Not a ThreadPoolExecutor: Python joins its threads when the process ends, and a queue of programs that never end would keep a
process alive for minutes after Ctrl-C.
"""

from __future__ import annotations

import threading
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from rlvr.errors import RlvrError, VerifierError, boundary

T = TypeVar("T")


class Threads(Generic[T]):
    """At most `count` daemon threads, started as they are needed. `refused` is the result of work that was not begun in time."""

    def __init__(self, count: int, refused: Callable[[], T]) -> None:
        self._count = count
        self._refused = refused
        self._changed = threading.Condition()  # guards everything below
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._waiting: deque[tuple[Future[T], Callable[[], T]]] = deque()
        self._is_closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Let a thread do `work`, after what was submitted before it."""
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                future.set_result(self._refused())
                return future
            self._waiting.append((future, work))
            if len(self._waiting) > self._idle and len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name=f"rlvr-verifier_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
        return future

    def close(self, grace_s: float) -> None:
        """Refuse what was not begun, and wait at most `grace_s` for the rest. What takes longer is left behind."""
        with self._changed:
            self._is_closed = True
            while self._waiting:
                self._waiting.popleft()[0].set_result(self._refused())
            self._changed.notify_all()
        deadline = time.monotonic() + grace_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                self._idle -= 1
                if not self._waiting:
                    return
                future, work = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with boundary(VerifierError, "work in a thread failed"):
                    result = work()
            except RlvrError as error:  # it travels to whoever waits, and is raised there
                future.set_exception(error)
            except (KeyboardInterrupt, SystemExit, CancelledError) as error:
                future.set_exception(VerifierError(f"work in a thread was ended: {type(error).__name__}: {error}"))
            else:
                future.set_result(result)
