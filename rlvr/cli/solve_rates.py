"""`rlvr view RUN --solve-rates`: what a run knows about each problem's difficulty."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from rlvr.filtering.posterior import SolveRateRow

SHOWN = 20
FILE = "solve_rates.parquet"
_BAR = 40  # characters


def show(args: argparse.Namespace) -> int:
    """Print the solve rates of `args.run`; exit code 1 if no problem matches `args.problem`.

    Raises:
        ConfigError: there is no such file.
    """
    from rlvr.filtering.posterior import read_solve_rates

    if args.step is not None or args.outcome is not None:
        raise ConfigError("--solve-rates shows problems, not rollouts: --step and --outcome do not apply")
    path = Path(args.run)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; a reinforcement-learning run writes it with its first checkpoint")
    rows = read_solve_rates(path)
    chosen = [row for row in rows if args.problem is None or args.problem in row.id]
    if args.json:
        for row in chosen[: args.limit]:
            print(json.dumps(asdict(row)))
        return 0 if chosen else 1
    from rlvr.cli.live import console_for_tables

    console = console_for_tables()
    if chosen:
        console.print(_histogram(chosen))
    console.print(_table(sorted(chosen, key=lambda row: row.mean)[: args.limit or SHOWN]))
    left = len(chosen) - (args.limit or SHOWN)
    console.print(f"{len(chosen)} problems that were sampled" + (f", {left} more than shown" if left > 0 else ""))
    return 0 if chosen else 1


def _histogram(rows: Sequence[SolveRateRow]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    counts = [0] * 10
    for row in rows:
        counts[min(int(row.mean * 10), 9)] += 1
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("solve rate")
    table.add_column("problems", justify="right")
    table.add_column("")
    for tenth, count in enumerate(counts):
        bar = "█" * round(_BAR * count / max(counts)) or ("▏" if count else "")
        table.add_row(f"{tenth * 10:>2}-{tenth * 10 + 10} %", str(count), Text(bar, style="green"))
    return table


def _table(rows: Sequence[SolveRateRow]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("problem, hardest first", overflow="fold")
    for name in ("solve rate", "95 % interval", "correct", "wrong", "step", "filter", "training", "evaluation"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(printable(row.id)),
            f"{row.mean:.1%}",
            f"{row.low:.0%} to {row.high:.0%}",
            f"{row.correct:.1f}",
            f"{row.wrong:.1f}",
            str(row.step),
            *(str(count) for count in (row.filter, row.training, row.evaluation)),
        )
    return table
