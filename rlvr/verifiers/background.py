"""One thread with an event loop for the whole process, for graders that are called from code without a loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from rlvr.errors import VerifierError

T = TypeVar("T")

EXIT_TIMEOUT_S = 10.0


class Background:
    """The thread of one process, started when it is first needed. A forked child has a Background of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # for state that threads share and a fork must not find locked
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` from any other thread. An interrupt (Ctrl-C) cancels it.

        Raises:
            VerifierError: called on the background thread itself, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise VerifierError("a verifier cannot wait for another grader in this process; declare it isolated=True")
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start_soon(self, work: Coroutine[Any, Any, object]) -> None:
        """Let `work` happen without waiting, if the thread ever ran; otherwise there is nothing that needs it."""
        if self._loop is None:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """Cancel what still runs, letting it clean up, and end the thread."""
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(EXIT_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(EXIT_TIMEOUT_S)
        self._loop.close()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="rlvr-grader", daemon=True)
                self._thread.start()
            return self._loop


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_of_this_process = Background()
_of_parents: list[Background] = []  # kept: their loops belong to a process that still runs them


def background() -> Background:
    """The Background of this process."""
    return _of_this_process


def _after_fork() -> None:
    global _of_this_process
    _of_parents.append(_of_this_process)
    _of_this_process = Background()


def _at_exit() -> None:
    _of_this_process.stop()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
