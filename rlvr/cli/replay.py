"""`rlvr replay`: what would another verifier, shape or algorithm have made of these rollouts?"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.trainers.replay import Flip, ReplayReport

HELP = (
    "Compute rewards and advantages of a run's stored rollouts again under a change of the recipe, with the trainer's own code: "
    "which outcomes and signs of advantages flip, and which groups gain or lose their signal. Nothing is generated or trained."
)
SIGNS = ("+", "0", "-", "dropped")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument(
        "changes", nargs="+", metavar="KEY=VALUE", help="verifier=NAME, verifiers=[...], shapes=..., filters=..., algorithm=..."
    )
    parser.add_argument("--step", type=int, action="append", default=[], help="only this training step; may be repeated (all)")
    parser.add_argument("--examples", type=int, default=5, help="flipped rollouts to show (5)")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def run(args: argparse.Namespace) -> int:
    from rlvr.cli.live import console_for_tables
    from rlvr.trainers.replay import replay

    report = replay(args.run, args.changes, steps=args.step, examples=args.examples)
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        console_for_tables().print(replay_table(report))
    return 0


def replay_table(report: ReplayReport) -> RenderableType:
    """What `rlvr replay` prints without --json."""
    from rich.console import Group
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    lost, gained, kept = report.signal_lost, report.signal_gained, report.signal_kept
    lines = [
        f"{report.outcomes_flipped:,} of {report.rollouts:,} outcomes flip ({_share(report.outcomes_flipped, report.rollouts)})",
        f"{report.rewards_changed:,} rewards change ({_share(report.rewards_changed, report.rollouts)})",
        f"{report.signs_flipped:,} advantages change their sign ({_share(report.signs_flipped, report.rollouts)})",
        f"of {report.groups:,} groups {gained:,} gain a signal, {lost:,} lose theirs, {kept:,} keep it",
    ]
    parts: list[RenderableType] = [
        "",
        Text(f"{printable(report.run)} under {printable(' '.join(report.changes))}", style="bold"),
        *(Text(line) for line in lines),
        "",
        _matrix("sign of advantage", report.signs, SIGNS),
    ]
    if report.outcomes_flipped:
        parts += ["", _matrix("outcome", report.outcomes, tuple(sorted({name for pair in report.outcomes for name in pair})))]
    for flip in report.flips:
        parts += ["", *_example(flip)]
    parts.append(
        Text(
            f"{report.reproduced:,} of {report.checked:,} stored advantages come out again under the run's own recipe",
            style="dim",
        )
    )
    return Group(*parts, *(Text(printable(note), style="yellow") for note in report.notes))


def _share(count: int, of: int) -> str:
    return f"{count / max(of, 1):.1%}"


def _matrix(title: str, counts: Counter[tuple[str, str]], order: tuple[str, ...]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column(f"{title}: before \\ after", no_wrap=True)
    columns = [name for name in order if any(new == name for _, new in counts)]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for old in order:
        if any(pair[0] == old for pair in counts):
            cells = [
                Text(f"{counts[old, new]:,}", "" if old == new or not counts[old, new] else "bold yellow") for new in columns
            ]
            table.add_row(Text(old), *cells)
    return table


def _example(flip: Flip) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    def pair(name: str, values: tuple[object, object]) -> str:
        old, new = ("none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)
        return f"{name} {old} → {new}"

    said = ", ".join([pair("advantage", flip.advantages), pair("reward", flip.rewards), pair("outcome", flip.outcomes)])
    where = f"step {flip.step}, {printable(flip.problem)}, sample {flip.sample}"
    end = Padding(Text.assemble(("response ends  ", "dim"), printable(repr(flip.response_end))), (0, 0, 0, 2))
    return [Text.assemble((said, "bold yellow"), (f"  {where}", "dim")), end]
