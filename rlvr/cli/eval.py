"""`rlvr eval`: how good is this model on this task?"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rlvr.cli.options import add_sampling_arguments, live_view, subject_of
from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.config import VerifierConfig
    from rlvr.evaluation.evaluate import Report

HELP = (
    "Measure models on tasks: pass@k, maj@k and pass^k with 95 % intervals over problems, what became of every sample, and for "
    "several models paired tests against the first."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", help="folder or hub name of a model; the others are held against the first")
    parser.add_argument("--task", required=True, action="append", help="task name, folder, or file of problems; may be repeated")
    parser.add_argument("-n", type=int, default=16, help="samples of each problem (16)")
    parser.add_argument("-k", default="1,4,16", help="sizes of pass@k, e.g. 1,4,16")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--problems", type=int, help="the first so many problems of the split (all; of an endless task its own size)"
    )
    parser.add_argument("--greedy", action="store_true", help="one greedy answer a problem beside the samples")
    parser.add_argument("--seeds", metavar="0,1,2", help="a sample set for each; the spread between them is shown apart")
    parser.add_argument("--templates", metavar="A,B", help="instead of --template: how much of the score is the template's")
    parser.add_argument("--scorer", metavar="VERIFIER", help="whose score ranks samples, for best@k: reward_model, judge, yours")
    parser.add_argument("--scorer-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the scorer")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help="what models are tested under: pass@1 (default), maj@4, pass^4, best@4, greedy",
    )
    parser.add_argument(
        "--training", default="", metavar="TASK:SPLIT", help="what the model was trained on: which problems it gives away"
    )
    parser.add_argument(
        "--other-numbers", action="store_true", help="also the same problems with other numbers, where they can be changed"
    )
    parser.add_argument("--out", metavar="DIR", help="keep report.json and every sample there")
    parser.add_argument("--resume", action="store_true", help="continue an evaluation that was interrupted in --out")
    parser.add_argument("--export", metavar="FILE", help="write what was found: .json, .csv, .md for a model card, .lm-eval.json")
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 3 when one of several evaluations failed; the others are shown."""
    from dataclasses import fields

    from rlvr.cli.live import console_for_tables
    from rlvr.cli.study_table import study_table
    from rlvr.evaluation.export import check_export, export
    from rlvr.evaluation.study import Plan, run_study

    sizes = sizes_of(args.k)
    if args.export:
        check_export(args.export)
    templates = tuple(args.templates.split(",")) if args.templates else (args.template,)
    plan = Plan(args.model, args.task, templates, args.out, args.other_numbers)
    subject = subject_of(args, args.model[0], args.task[0])
    fixed = ("model", "task", "template")
    settings = {field.name: getattr(subject, field.name) for field in fields(subject) if field.name not in fixed}
    with live_view(as_json=args.json) as view:
        found = run_study(
            plan,
            args.split,
            metrics=args.metric or ("pass@1",),
            resume=args.resume,
            observer=view,
            n=args.n,
            k=sizes,
            problems=args.problems,
            greedy=args.greedy,
            seed=args.seed,
            seeds=sizes_of(args.seeds, "--seeds") if args.seeds else (),
            scorer=_scorer(args),
            training=args.training,
            max_unscored=args.max_unscored,
            **settings,
        )
    if args.export:
        export(args.export, found.study, sizes)
    if args.json:
        reports = {**found.finished, **{label: report.to_json() for label, report in found.reports.items()}}
        each = [{"label": label, **report} for label, report in reports.items()]
        several = {"evaluations": each, **found.study.to_json(), "failures": list(found.failures)}
        print(json.dumps(next(iter(found.reports.values())).to_json() if plan.is_single else several, indent=2))
    elif plan.is_single:
        console_for_tables().print(report_table(next(iter(found.reports.values())), args.out))
    else:
        console_for_tables().print(study_table(found.study, sizes))
    return 3 if found.failures else 0


def sizes_of(text: str, option: str = "-k") -> tuple[int, ...]:
    """Whole numbers between commas.

    Raises:
        ConfigError: they are none.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        example, what = ("1,4,16", "sizes") if option == "-k" else ("0,1,2", "seeds")
        raise ConfigError(f"{option} {text!r}, but {what} look like {example}") from None


def _scorer(args: argparse.Namespace) -> VerifierConfig | None:
    from rlvr.cli.verify import parse_settings
    from rlvr.config import VerifierConfig

    if args.scorer is None:
        if args.scorer_set:
            raise ConfigError("--scorer-set without --scorer: say which verifier it is for")
        return None
    return VerifierConfig(name=args.scorer, args=parse_settings(args.scorer_set))


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
    for name, estimated in report.more.items():
        table.add_row(name, f"{estimated.mean * 100:5.1f} % [{estimated.low * 100:.1f}, {estimated.high * 100:.1f}]")
    for name, spread in report.between_seeds.items():
        means = ", ".join(f"{mean:.1%}" for mean in spread.means)
        table.add_row(f"{name} between seeds", f"sd {spread.sd * 100:.1f} points: {means}")
    table.add_row("outcomes", " · ".join(f"{name} {share:.1%}" for name, share in values["outcomes"].items() if share))
    table.add_row("mean scores", " · ".join(f"{printable(name)} {mean:.3f}" for name, mean in values["verifiers"].items()))
    table.add_row("wall time", f"{duration(found.wall_time_s)}, {values['tokens_per_s']:,.0f} tokens/s")
    if report.contamination is not None:
        table.add_row("contamination", Text(printable(report.contamination.sentence)))
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
