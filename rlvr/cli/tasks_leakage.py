"""`rlvr tasks leakage`: training problems that give an evaluation away, and near-duplicates."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr.envs.leakage import Cleaning
    from rlvr.envs.tasks import Task

SHOWN = 20  # findings of each kind without --limit


def report(task: Task, split: str, found: Cleaning, args: argparse.Namespace) -> int:
    """Print what was found; exit code 1 where a problem should be left out."""
    if args.json:
        import json

        print(json.dumps(_as_json(task, split, found), indent=2, ensure_ascii=False))
        return 1 if found.removed else 0
    from rich.table import Table
    from rich.text import Text

    from rlvr.cli.live import console_for_tables
    from rlvr.evaluation.printable import printable

    console, limit = console_for_tables(), args.limit or SHOWN
    if found.overlaps:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("problem", "held out", "covered", "longest passage in common"):
            table.add_column(name, overflow="fold", justify="right" if name == "covered" else "left")
        for one in found.overlaps[:limit]:
            style = "red" if one.is_leak else "dim"
            cells = (one.problem, f"{one.source} {one.held_out}", f"{one.covered:.0%}", one.passage)
            table.add_row(*(Text(printable(cell), style=style) for cell in cells))
        console.print(table)
    if found.duplicates:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("problem", "is like", "similarity", "answers"):
            table.add_column(name, overflow="fold")
        for pair in found.duplicates[:limit]:
            answers = "equal" if pair.has_same_answer else "differ: kept"
            cells = (pair.problem, pair.earlier, f"{pair.similarity:.0%}", answers)
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console.print(table)
    for line in found.summary(f"{task.name}:{split}"):
        console.print(Text(printable(line)))
    if task.is_endless and found.removed:
        console.print("note: generated puzzles resemble each other; the splits of one generator share none", style="yellow")
    return 1 if found.removed else 0


def _as_json(task: Task, split: str, found: Cleaning) -> dict[str, Any]:
    return {
        "task": task.name,
        "split": split,
        "problems": found.problems,
        "held_out": dict(found.held_out),
        "overlaps": [{**asdict(one), "is_leak": one.is_leak} for one in found.overlaps],
        "duplicates": [asdict(one) for one in found.duplicates],
        "removed": sorted(found.removed),
    }
