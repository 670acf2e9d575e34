"""Tables that do not fit into the terminal are shown in another form: what is cut off cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_ANY_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Fitting:
    """`wide` where it fits, and else `narrow`."""

    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement

        needed = Measurement.get(console, options.update(width=_ANY_WIDTH), self.wide).maximum
        yield self.wide if needed <= options.max_width else self.narrow
