"""Blocking work in a thread beside the event loop, which an interruption cannot break up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def beside(work: Callable[[], T], executor: Executor | None = None) -> tuple[T, bool]:
    """What `work` returns, and whether the caller was cancelled meanwhile: a thread cannot be stopped, so it is waited for."""
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    was_cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            was_cancelled = True
    return future.result(), was_cancelled
