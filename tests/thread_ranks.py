"""Ranks that are threads of one process: enough of them for an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class ThreadRank:
    """One of them, as `rlvr.engines.ranks.Ranks`."""

    def __init__(self, rank: int, parts: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(parts)
        self._parts, self._barrier = parts, barrier

    def gather_lists(self, part: Any) -> list[list[Any]]:
        self._parts[self.rank] = list(part)
        self._barrier.wait()
        found = list(self._parts)
        self._barrier.wait()
        return found


class TwoRanks:
    """Two that do their work at the same time, and wait for each other no longer than `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        parts, barrier = [None] * 2, threading.Barrier(2, timeout=timeout_s)
        self._threads = ThreadPoolExecutor(2)
        self.ranks = [ThreadRank(rank, parts, barrier) for rank in range(2)]

    def both(self, work: Callable[[int], T]) -> list[T]:
        return list(self._threads.map(work, range(2)))
