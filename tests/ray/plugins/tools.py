"""Tools that say in which process they run, and some that break it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from rlvr.errors import ConfigError
from rlvr.tools.base import Scope


def where() -> int:
    """The process that answers."""
    return os.getpid()


def count(scope: Scope) -> list[int]:
    """The process that answers, and how often this rollout asked."""
    scope.notes["count"] = scope.notes.get("count", 0) + 1
    return [os.getpid(), scope.notes["count"]]


def share(scope: Scope) -> list[int]:
    """The process that answers, and how often this rollout asked `count`."""
    return [os.getpid(), scope.notes.get("count", 0)]


def fail(kind: str) -> object:
    """Fails, or returns what JSON cannot carry."""
    if kind == "raise":
        raise ValueError("no such thing")
    if kind == "config":
        raise ConfigError("the tool's own key is missing")
    return {"set": {1}} if kind == "object" else b"\xff bytes"


async def wait(note: str) -> str:
    """Waits for ever, and notes that it has begun, and when it is told not to."""
    Path(f"{note}.begun").touch()
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        Path(note).touch()
        raise
    return "slept well"


def die(lives: str) -> int:
    """Ends its process as long as the file has a line left."""
    path = Path(lives)
    left = path.read_text().splitlines()
    if left:
        path.write_text("\n".join(left[1:]))
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


class Differs:
    """Describes itself in other words in every process."""

    def __new__(cls) -> Differs:
        where.__doc__ = f"The process {os.getpid()}."
        return where  # type: ignore[return-value]


class Absent:
    """Cannot be made anywhere but where it was looked up first."""

    def __init__(self) -> None:
        raise FileNotFoundError("corpus.jsonl is not on this machine")
