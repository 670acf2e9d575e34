"""What ends a run before its last step: Ctrl-C, SIGTERM, the loss of a rank."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any

from rlvr.trainers.model.distributed import World

_LAST_WORDS_S = 10.0


def run_interruptibly(main: Callable[[], Coroutine[Any, Any, None]], world: World) -> None:
    """Run to the end; Ctrl-C, SIGTERM and the loss of a rank cancel at the next await, so that the coroutine can save first.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    if _has_running_loop():  # a notebook
        with ThreadPoolExecutor(1) as executor:
            executor.submit(lambda: asyncio.run(main())).result()
        return
    try:
        with _Signals(is_alone=world.size == 1) as signals:
            asyncio.run(_cancellable(main, world, signals))
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def _cancellable(main: Callable[[], Coroutine[Any, Any, None]], world: World, signals: _Signals) -> None:
    task = asyncio.current_task()
    assert task is not None
    signals.cancel = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
    if world.watch is not None:
        world.watch.on_lost = signals.hear
    try:
        await main()
    finally:
        signals.cancel = None


class _Signals:
    """SIGTERM, and for one of several ranks Ctrl-C, call `cancel`, if there is one, while the block runs.

    A launcher passes Ctrl-C on to processes that have heard it already, and ends all ranks once one has ended: neither must break
    up what another still saves and says. So a rank whose block ends with an error hears nothing more for `_LAST_WORDS_S`.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self.cancel: Callable[[], object] | None = None
        self._is_alone = is_alone
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM,) if self._is_alone else (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self.hear) or signal.SIG_DFL  # None: not of Python's making
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        deaf_until = time.monotonic() + _LAST_WORDS_S

        def heed(number: int, frame: FrameType | None) -> None:
            if time.monotonic() >= deaf_until:
                signal.signal(number, self._before[signal.Signals(number)])
                os.kill(os.getpid(), number)

        for number, before in self._before.items():
            signal.signal(number, before if kind is None or self._is_alone else heed)

    def hear(self, *_: object) -> None:
        """Also called by other threads."""
        if (cancel := self.cancel) is not None:
            cancel()


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
