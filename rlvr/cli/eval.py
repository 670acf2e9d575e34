"""`rlvr eval`: how good is this model on this task?"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rlvr.cli.options import add_sampling_arguments, live_view, subject_of
from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.evaluation.evaluate import Report

HELP = "Measure a model on a task: pass@k with 95 % intervals over problems, and what became of every sample."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or hub name of a model")
    parser.add_argument("--task", required=True, help="task name, folder, or file of problems")
    parser.add_argument("-n", type=int, default=16, help="samples of each problem (16)")
    parser.add_argument("-k", default="1,4,16", help="sizes of pass@k, e.g. 1,4,16")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--problems", type=int, help="the first so many problems of the split (all; of an endless task its own size)"
    )
    parser.add_argument("--greedy", action="store_true", help="one greedy answer a problem beside the samples")
    parser.add_argument("--out", metavar="DIR", help="keep report.json and every sample there")
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from rlvr.cli.live import console_for_tables
    from rlvr.evaluation.evaluate import evaluate

    sizes = _sizes(args.k)
    subject = subject_of(args, args.model, args.task)
    settings = {field.name: getattr(subject, field.name) for field in fields(subject) if field.name not in ("model", "task")}
    with live_view(as_json=args.json) as view:
        report = evaluate(
            subject.model,
            subject.task,
            args.split,
            n=args.n,
            k=sizes,
            problems=args.problems,
            greedy=args.greedy,
            seed=args.seed,
            out=args.out,
            max_unscored=args.max_unscored,
            observer=view,
            **settings,
        )
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        console_for_tables().print(report_table(report, args.out))
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"-k {text!r}, but sizes look like 1,4,16") from None


def report_table(report: Report, out: str | None) -> RenderableType:
    """What `rlvr eval` prints without --json."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rlvr.evaluation.headline import duration, headline
    from rlvr.evaluation.printable import printable

    found, about = report.measurement, report.about
    values = found.to_json()
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in headline({"after": values}):
        table.add_row(row.label, Text(row.texts()[1], style="bold" if row.label.startswith("pass@") else ""))
    table.add_row("outcomes", " · ".join(f"{name} {share:.1%}" for name, share in values["outcomes"].items() if share))
    table.add_row("mean scores", " · ".join(f"{printable(name)} {mean:.3f}" for name, mean in values["verifiers"].items()))
    table.add_row("wall time", f"{duration(found.wall_time_s)}, {values['tokens_per_s']:,.0f} tokens/s")
    if out is not None:
        table.add_row("samples", Text(printable(out)))
    dropped = [f"{name} over {count}" for name, count in values["problems_measured"].items() if count < len(found.problems)]
    notes = ["[ ] 95 % interval over problems"]
    if dropped:
        notes.append(
            f"problems with too few scored samples were left out: {', '.join(dropped)} of {len(found.problems)} problems"
        )
    title = f"{about['task']} {about['split']}: {len(found.problems)} problems, {found.n} samples each"
    return Group("", Text(printable(title), style="bold"), table, Text("\n".join(notes), style="dim"))
