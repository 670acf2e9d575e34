"""What long work tells whoever watches it. The terminal view implements this; libraries and tests need not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rlvr.types import JSON


class Observer(Protocol):
    """Follows work in stages; every method returns at once and never raises."""

    def stage(self, name: str, total: int) -> None:
        """A piece of work of `total` units begins; the stage before it is over."""
        ...

    def advance(self, n: int = 1, **fields: float) -> None:
        """`n` more units are done. `fields` are present values under the names of `metrics.jsonl`."""
        ...

    def note(self, text: str) -> None:
        """One line worth keeping: a choice made for the user, a checkpoint written."""
        ...

    def final_table(self, summary: Mapping[str, JSON]) -> None:
        """The run is over; `summary` is what `summary.json` holds."""
        ...


class SilentObserver:
    """Watches, says nothing."""

    def stage(self, name: str, total: int) -> None:
        return None

    def advance(self, n: int = 1, **fields: float) -> None:
        return None

    def note(self, text: str) -> None:
        return None

    def final_table(self, summary: Mapping[str, JSON]) -> None:
        return None
