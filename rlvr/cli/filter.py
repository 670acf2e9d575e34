"""`rlvr filter`: which problems does this model solve sometimes?"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.cli.options import add_sampling_arguments, live_view, subject_of
from rlvr.filtering.window import EPSILON

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.filtering.filter import Filtered
    from rlvr.filtering.window import Window

HELP = "Measure how often a model solves each problem and keep those in a window of pass rates. Resumes what was interrupted."
_BAR = 40  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="task name, folder, or file of problems")
    parser.add_argument("--model", required=True, help="folder or hub name of a model")
    parser.add_argument("-n", type=int, default=16, help="samples of each problem (16)")
    parser.add_argument("--keep", default="0.2:0.8", metavar="LOW:HIGH", help="window of pass rates, ends included (0.2:0.8)")
    parser.add_argument(
        "--epsilon",
        type=float,
        default=EPSILON,
        metavar="P",
        help="stop sampling problems early; all n samples may be expected to decide otherwise about at most this "
        f"share of them ({EPSILON}); "
        "0: stop only what they cannot change",
    )
    parser.add_argument("--full", action="store_true", help="always draw all n samples")
    parser.add_argument(
        "--clean", action="store_true", help="first leave out near-duplicates and leaks, as `rlvr tasks leakage` shows them"
    )
    parser.add_argument(
        "--against",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK:SPLIT",
        help="leaks into these held-out problems (the task's own); means --clean",
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--limit", type=int, help="the first so many problems of the split")
    parser.add_argument("--out", metavar="FILE", type=Path, help="JSON lines (runs/pass-rates/TASK-SPLIT-MODEL.jsonl)")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on in a file that exists (the default)"
    )
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from rlvr.cli.live import console_for_tables
    from rlvr.evaluation.tally import Tally
    from rlvr.filtering.filter import FilterRequest, filter_task
    from rlvr.filtering.window import Window
    from rlvr.types import Group

    keep = Window.parse(args.keep)
    request = FilterRequest(
        subject=subject_of(args, args.model, args.task),
        split=args.split,
        n=args.n,
        keep=keep,
        epsilon=None if args.full else args.epsilon,
        against=tuple(args.against) if args.clean or args.against else None,
        limit=args.limit,
        seed=args.seed,
        out=args.out,
        resume=args.resume,
        max_unscored=args.max_unscored,
    )
    tally, started = Tally(), time.monotonic()
    with live_view(as_json=args.json) as view:

        def on_group(group: Group) -> None:
            tally.add(group.rollouts)
            view.advance(1, **tally.fields(time.monotonic() - started))

        def on_start(total: int, done: int) -> None:
            view.stage(f"{args.task} {args.split}", total)
            view.advance(done)

        filtered = filter_task(request, on_start=on_start, on_group=on_group, on_note=view.note)
    if args.json:
        print(json.dumps(_summary(filtered, keep), indent=2))
    else:
        console_for_tables().print(_picture(filtered, keep))
    return 0


def _summary(filtered: Filtered, keep: Window) -> dict[str, Any]:
    kept = filtered.rates.kept(keep)
    return {
        "file": str(filtered.path),
        "problems": len(filtered.rates.by_id),
        "kept": len(kept),
        "keep": [keep.low, keep.high],
        "epsilon": filtered.rates.epsilon,
        "rollouts": sum(rate.n for rate in filtered.rates.by_id.values()),
        "rollouts_saved_share": filtered.rates.saved_share,
        "unscored": sum(rate.unscored for rate in filtered.rates.by_id.values()),
        "kept_ids": list(kept),
        "settings": dict(filtered.rates.settings),
    }


def _picture(filtered: Filtered, keep: Window) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    rates = [rate.pass_rate for rate in filtered.rates.by_id.values() if rate.pass_rate is not None]
    bins = _bins(rates)
    longest = max(count for _, _, count in bins) or 1
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("pass rate")
    table.add_column("problems", justify="right")
    table.add_column("")
    for label, inside, count in bins:
        is_kept = keep.holds(inside)
        bar = "█" * round(_BAR * count / longest) or ("▏" if count else "")
        table.add_row(label, str(count), Text(bar, style="green" if is_kept else "bright_black"))
    kept = len(filtered.rates.kept(keep))
    share = kept / max(1, len(filtered.rates.by_id))
    lines = Text(f"kept {kept} of {len(filtered.rates.by_id)} problems ({share:.0%}) with a pass rate in {keep.low}:{keep.high}")
    found = filtered.rates
    if found.epsilon is not None:
        drawn, planned = sum(rate.n for rate in found.by_id.values()), found.planned * len(found.by_id)
        lines.append(
            f"\n{drawn:,} rollouts instead of {planned:,}: {found.saved_share:.0%} saved; all of them would be expected to "
            f"decide otherwise about {found.epsilon:.1%} of the problems or less"
        )
    unscored = sum(rate.unscored for rate in filtered.rates.by_id.values())
    if unscored:
        lines.append(f"\n{unscored} samples could not be scored; the same command measures their problems again", style="yellow")
    lines.append(f"\n{printable(str(filtered.path))}")
    return Group("", table, "", lines)


def _bins(rates: list[float]) -> list[tuple[str, float, int]]:
    """(label, a rate inside, count): never solved, ten tenths, always solved."""
    bins = [("never", 0.0, sum(rate == 0 for rate in rates))]
    open_rates = [rate for rate in rates if 0 < rate < 1]
    for tenth in range(10):
        count = sum(min(int(rate * 10), 9) == tenth for rate in open_rates)
        bins.append((f"{tenth * 10:>2}-{tenth * 10 + 10} %", (tenth + 0.5) / 10, count))
    return [*bins, ("always", 1.0, sum(rate == 1 for rate in rates))]
