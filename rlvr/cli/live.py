"""What a person sees while the trainer works: one bar for each stage, the numbers that matter, the closing table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rlvr.evaluation.headline import Row, duration, headline
from rlvr.evaluation.printable import printable
from rlvr.evaluation.statistics import is_finite_number

# Name in `metrics.jsonl` -> what the line says. Order is the order on the screen.
_FIELDS: dict[str, Callable[[float], str]] = {
    "reward_mean": lambda value: f"reward {value:.2f}",
    "correct_share": lambda value: f"correct {value:.0%}",
    "loss": lambda value: f"loss {value:.3g}",
    "tokens_mean": lambda value: f"length {value:.0f}",
    "truncated_share": lambda value: f"truncated {value:.0%}",
    "unscored_share": lambda value: f"unscored {value:.1%}",
    "tokens_per_s": lambda value: f"{value / 1000:.1f}k tok/s" if value >= 10_000 else f"{value:.0f} tok/s",
}
_PLACES = ("checkpoint", "rollouts", "report", "run")
_QUIET_S = 10.0  # between two lines when nobody watches a terminal


class LiveView:
    """The terminal's `Observer`: progress on stderr, the closing table on stdout.

    On a terminal the present stage has a bar that moves; elsewhere (a log file, CI) a plain line is written at most
    every ten seconds. A stage that comes back before it was complete goes on where it stood: training, interrupted
    by an evaluation, keeps its bar.
    """

    def __init__(
        self, *, err: Console | None = None, out: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._err = err or Console(stderr=True, highlight=False)
        self._out = out or console_for_tables()
        self._clock = clock
        self._bars = _Bars(self._err)
        self._stages: dict[str, _Stage] = {}
        self._current: _Stage | None = None
        self._spoke_at = clock()

    def __enter__(self) -> LiveView:
        if self._err.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave_stage()
        self._stop_bars()

    def stage(self, name: str, total: int) -> None:
        self._leave_stage()
        stage = self._stages.get(name)
        if stage is None or stage.is_complete:
            stage = self._stages[name] = _Stage(printable(name), total, self._clock())
            if self._err.is_terminal:
                stage.bar = self._bars.add_task(stage.name, total=total)
        self._current = stage
        self._spoke_at = self._clock()

    def advance(self, n: int = 1, **fields: float) -> None:
        stage = self._current
        if stage is None:
            return
        stage.done += n
        stage.numbers = describe(fields) or stage.numbers
        if stage.bar is not None:
            self._bars.numbers = stage.numbers
            self._bars.update(stage.bar, completed=stage.done)
        elif self._clock() - self._spoke_at >= _QUIET_S and not stage.is_complete:
            self._spoke_at = self._clock()
            self._say(stage)

    def note(self, text: str) -> None:
        self._err.print(Text(printable(text), style="dim"), soft_wrap=True)

    def final_table(self, summary: Mapping[str, Any]) -> None:
        self._leave_stage()
        self._stop_bars()  # they hold stdout, and would draw over the table
        self._out.print(summary_table(summary))

    def _stop_bars(self) -> None:
        if self._err.is_terminal:  # elsewhere they never started, and stop() would print an empty line
            self._bars.stop()

    def _leave_stage(self) -> None:
        """Keep what the stage came to as a line; a stage that is not complete keeps its bar too, for it may come back."""
        stage, self._current = self._current, None
        self._bars.numbers = ""
        if stage is None or (stage.bar is not None and not stage.is_complete):
            return
        if stage.bar is not None:
            self._bars.remove_task(stage.bar)
        self._say(stage)

    def _say(self, stage: _Stage) -> None:
        """One line: cut at the edge of a terminal, whole in a file."""
        line = stage.line(self._clock())
        if self._err.is_terminal:
            self._err.print(line, no_wrap=True, overflow="ellipsis")
        else:
            self._err.print(line, soft_wrap=True)


@dataclass(slots=True)
class _Stage:
    name: str
    total: int
    started: float
    done: int = 0
    numbers: str = ""
    bar: TaskID | None = None

    @property
    def is_complete(self) -> bool:
        return self.done >= self.total

    def line(self, now: float) -> Text:
        spent = now - self.started
        text = Text.assemble(("✓ ", "green") if self.is_complete else "  ", (f"{self.name:<26}", "bold"))
        text.append(f" {self.done}/{self.total}  {duration(spent)}")
        if self.done and not self.is_complete:
            text.append(f", {duration(spent / self.done * (self.total - self.done))} left")
        if self.numbers:
            text.append(f"  {self.numbers}", style="cyan")
        return text


class _Bars(Progress):
    """A bar for each open stage and one line of numbers below."""

    def __init__(self, console: Console) -> None:
        self.numbers = ""
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.numbers:
            yield Text(f"  {self.numbers}", style="cyan", overflow="ellipsis", no_wrap=True)


def console_for_tables() -> Console:
    """Stdout. A file has no width, and rich would squeeze tables into 80 columns there."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def describe(fields: Mapping[str, float]) -> str:
    """The numbers of one progress line, the most telling first; unknown names are left out."""
    return " · ".join(text(fields[name]) for name, text in _FIELDS.items() if name in fields)


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """The closing table of a run: before, after and gain with their intervals, the time, and where things lie."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(no_wrap=True)
    for title in ("before", "after", "gain"):
        table.add_column(title, no_wrap=True)
    for row in headline(summary):
        table.add_row(row.label, *_styled(row))
    places = Table.grid(padding=(0, 2, 0, 0))
    if is_finite_number(summary.get("loss")):
        places.add_row("loss", f"{summary['loss']:.4g}")
    if is_finite_number(summary.get("wall_time_s")):
        places.add_row("wall time", duration(summary["wall_time_s"]))
    for name in _PLACES:
        if isinstance(summary.get(name), str) and Path(summary[name]).exists():  # a warm start has no rollouts
            places.add_row(name, Text(printable(summary[name]), overflow="fold"))
    note = Text("[ ] 95 % interval over problems; gains in points, paired by problem", style="dim")
    return Group("", table, note, "", places) if table.row_count else Group("", places)


def _styled(row: Row) -> tuple[Text, Text, Text]:
    before, after, gain = row.texts()
    is_clear = row.gain is not None and row.gain.low is not None and row.gain.low > 0 and row.is_share
    return (
        Text(before),
        Text(after, style="bold" if row.label.startswith("pass@") else ""),
        Text(gain, "green" if is_clear else ""),
    )
