"""The progress line of `rlvr verify`, on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Protocol

TERMINAL_EVERY_S = 0.2
LOG_EVERY_S = 30.0  # where standard error is a file, a line now and then


class Source(Protocol):
    """What is known about the input; `bytes` is 0 for a stream without an end."""

    bytes: int
    bytes_read: int


class Progress:
    """How many, how fast, what came out, and how long it still takes. `before` were graded by an earlier run."""

    def __init__(self, source: Source, counts: Counter[str], before: int) -> None:
        self._source, self._counts, self._before = source, counts, before
        self._is_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._skipped = source.bytes_read

    def __enter__(self) -> Progress:
        return self

    def advance(self) -> None:
        now = time.monotonic()
        if now - self._shown >= (TERMINAL_EVERY_S if self._is_terminal else LOG_EVERY_S):
            self._show(now, end="" if self._is_terminal else "\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_terminal:
            self._show(time.monotonic(), end="\n")

    def _show(self, now: float, end: str) -> None:
        self._shown = now
        total, seconds = self._counts.total(), max(now - self._started, 1e-9)
        parts = [f"{total:,} graded", f"{(total - self._before) / seconds:,.0f}/s"]
        if self._source.bytes:
            parts.append(f"{self._source.bytes_read / self._source.bytes:.0%}")
            read = self._source.bytes_read - self._skipped
            if read and (left := self._source.bytes - self._source.bytes_read):
                parts.append(f"{_clock(left / read * seconds)} left")
        parts += [f"{count:,} {outcome}" for outcome, count in self._counts.items() if count]
        start = "\r" if self._is_terminal else ""
        print(start + " · ".join(parts), end=end, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
