"""`rlvr lengths`: how long stored responses are, and how good, by what their prompts asked for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.evaluation.lengths import LengthRow
    from rlvr.evaluation.statistics import Estimate

HELP = (
    "Accuracy and length of stored rollouts, by what their prompts asked for: target_tokens, thinking, or another metadata key."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN_OR_FILE", help="a run folder, a folder of `rlvr eval --out`, or a file of rollouts"
    )
    parser.add_argument("--by", metavar="KEY", help="a key of the problems' metadata, e.g. target_tokens or thinking")
    parser.add_argument("--step", type=int, help="of a run, its held-out measurement at this step (the newest)")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    from rlvr.evaluation.lengths import lengths_by
    from rlvr.evaluation.rollout_files import measured_files, read_all

    files = measured_files(Path(args.source), args.step)
    rows = lengths_by((stored.rollout for stored in read_all(files)), args.by)
    if args.json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        from rlvr.cli.live import console_for_tables

        console_for_tables().print(lengths_table(rows, args.by))
    return 0


def lengths_table(rows: Sequence[LengthRow], key: str | None) -> RenderableType:
    """What `rlvr lengths` prints without --json."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    has_target = any(row.deviation is not None for row in rows)
    has_thinking = any(row.kept is not None for row in rows)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(printable(key or ""))
    titles = ("problems", "pass@1, %", "tokens", "truncated", *(("off target", "over") if has_target else ()))
    for title in (*titles, *(("as asked",) if has_thinking else ())):
        table.add_column(title, justify="right")
    for row in rows:
        cells = [f"{row.problems}", _between(row.accuracy, 100), _between(row.tokens), f"{row.truncated:.1%}"]
        if has_target:
            off = "" if row.deviation is None else f"{row.deviation.mean:.1%}"
            cells += [off, "" if row.over is None else f"{row.over:.1%}"]
        if has_thinking:
            cells.append("" if row.kept is None else f"{row.kept:.1%}")
        table.add_row(Text(printable(row.asked), "bold"), *cells)
    notes = ["[ ] 95 % interval over problems"]
    if has_target:
        notes.append("off target: mean |tokens − target| / target; over: share of responses that are longer than asked")
    if unscored := rows[-1].unscored:
        notes.append(f"{unscored} of {rows[-1].rollouts} rollouts have no score, and are in no mean")
    return Group(table, Text("\n".join(notes), style="dim"))


def _between(found: Estimate, scale: float = 1.0) -> str:
    return f"{scale * found.mean:.1f} [{scale * found.low:.1f}, {scale * found.high:.1f}]"
