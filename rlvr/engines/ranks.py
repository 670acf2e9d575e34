"""The processes that train together, as far as an engine has to know of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rlvr.errors import EngineError

T = TypeVar("T")


class Ranks(Protocol):
    """What an engine asks of them. Every rank calls `gather_lists` equally often and in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather_lists(self, part: Sequence[T]) -> list[list[T]]:
        """Every rank's list, by rank."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def gather_lists(self, part: Sequence[T]) -> list[list[T]]:
        return [list(part)]


def leader_here(ranks: Ranks) -> int:
    """The first rank on this one's machine."""
    machines = [name for [name] in ranks.gather_lists([_machine()])]
    return machines.index(machines[ranks.rank])


def said_by(ranks: Ranks, leader: int, value: T | None) -> T:
    """What rank `leader` says, which need not be the same rank for all; the others' `value` is not looked at.

    Raises:
        EngineError: it said nothing.
    """
    [found] = ranks.gather_lists([value])[leader]
    if found is None:
        raise EngineError(f"rank {leader} has nothing to say to rank {ranks.rank}; this is a fault of rlvr")
    return found


def _machine() -> str:
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot}"
