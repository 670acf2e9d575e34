"""`rlvr rescore`: what would another verifier have said?"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlvr.cli.fitting import Fitting
from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.evaluation.rescore import Flip, Remeasured, RescoreReport

HELP = "Grade stored rollouts again under another verifier, without generating: what flipped, and the new pass@k beside the old."
SHOWN = 6
OUTCOMES = ("correct", "partial", "incorrect", "unparsed", "verifier_error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_OR_FILE", help="a run folder, the folder of an evaluation, or a file of rollouts")
    parser.add_argument("--verifier", required=True, help="a name, path/file.py:name or package.module:name")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a setting of the verifier"
    )
    parser.add_argument("--step", type=int, help="only this training step of a run")
    parser.add_argument("-k", default="", help="sizes of pass@k, e.g. 1,4,16 (those that were measured before)")
    parser.add_argument("--out", metavar="PATH", help="where the new verdicts go; must not exist (beside the source)")
    parser.add_argument("--examples", type=int, default=SHOWN, help=f"flipped verdicts to show ({SHOWN})")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for each response (10)")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 however many verdicts flipped; 3 when the verifier failed on every rollout."""
    report = _rescored(args)
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from rlvr.cli.live import console_for_tables

        console_for_tables().print(rescore_table(report, args.examples))
    failed = sum(count for (_, new), count in report.transitions.items() if new == "verifier_error")
    return 3 if report.failures or (failed and failed == report.rollouts) else 0


def _rescored(args: argparse.Namespace) -> RescoreReport:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rlvr.cli.verify import parse_settings
    from rlvr.evaluation.rescore import rescore
    from rlvr.verifiers.runner import WeightedVerifier

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("files", total=None)
        return rescore(
            args.run,
            WeightedVerifier(args.verifier, 1.0, parse_settings(args.settings)),
            out=args.out,
            step=args.step,
            k=_sizes(args.k),
            workers=args.workers,
            timeout_s=args.timeout,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"-k {text!r}, but sizes look like 1,4,16") from None
    if any(size < 1 for size in sizes):
        raise ConfigError(f"-k {text!r}, but a size is 1 or more")
    return sizes


def rescore_table(report: RescoreReport, examples: int) -> RenderableType:
    """What `rlvr rescore` prints without --json."""
    from rich.console import Group
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    share = report.flipped / max(report.rollouts, 1)
    title = Text.assemble(
        (printable(report.source), "bold"),
        (f"\nbefore  {_grading(report.grading_before)}\nafter   {_grading(report.grading_after)}\n", "dim"),
        "\n",
        (
            f"{report.flipped:,} of {report.rollouts:,} verdicts flipped ({share:.1%})",
            "bold yellow" if report.flipped else "bold green",
        ),
    )
    parts: list[RenderableType] = ["", title, "", _matrix(report)]
    if report.evaluations:
        parts += ["", _measurements(report.evaluations)]
    parts += [Text(printable(failure), style="bold red") for failure in report.failures]
    shown = _one_of_each_change(report.flips, examples)
    for flip in shown:
        parts += ["", *_example(flip)]
    return Group(*parts, "", Text.assemble(("new verdicts  ", "dim"), printable(report.out)))


def _grading(grading: Any) -> str:
    said = [
        " ".join(
            [name, f"version {one.get('version')}", *(f"{k}={json.dumps(v)}" for k, v in (one.get("settings") or {}).items())]
        )
        for name, one in grading.items()
    ]
    return " + ".join(said) or "unknown"


def _matrix(report: RescoreReport) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    new = [name for name in OUTCOMES if any(key[1] == name for key in report.transitions)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("before \\ after", no_wrap=True)
    for name in new:
        table.add_column(name, justify="right", no_wrap=True)
    for old in [name for name in OUTCOMES if any(key[0] == name for key in report.transitions)]:
        counts = [report.transitions[old, name] for name in new]
        cells = [
            Text(f"{count:,}" if count else "·", "" if name == old else "bold yellow" if count else "dim")
            for name, count in zip(new, counts, strict=True)
        ]
        table.add_row(Text(old), *cells)
    return table


def _measurements(evaluations: list[Remeasured]) -> RenderableType:
    """One table of all; in a narrow terminal one for each, under its name."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    def table(shown: list[Remeasured], *, has_names: bool) -> Table:
        made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for title in (*([""] * has_names), "", "before", "after", "change in points"):
            made.add_column(title, no_wrap=has_names)
        for one in shown:
            name = _name(one)
            for key, before in one.before.items():
                cells = (key, _share(before), _share(one.after[key]), _points(one.gain[key]))
                made.add_row(*([Text(printable(name), "dim")] * has_names), *cells)
                name = ""
        return made

    apart = [part for one in evaluations for part in (Text(printable(_name(one)), "dim"), table([one], has_names=False))]
    return Fitting(table(evaluations, has_names=True), Group(*apart))


def _name(measured: Remeasured) -> str:
    return f"{measured.name}, {measured.problems} problems"


def _share(found: Any) -> str:
    return f"{found.mean:6.1%} [{found.low:.1%}, {found.high:.1%}]"


def _points(found: Any) -> str:
    return f"{found.mean * 100:+.1f} [{found.low * 100:+.1f}, {found.high * 100:+.1f}]"


def _one_of_each_change(flips: list[Flip], count: int) -> list[Flip]:
    """The first of every kind of change, then the second of each ..., `count` in all."""
    by_change: dict[tuple[str, str], list[Flip]] = {}
    for flip in flips:
        by_change.setdefault((flip.before.outcome, flip.after.outcome), []).append(flip)
    rounds = max((len(same) for same in by_change.values()), default=0)
    return [same[index] for index in range(rounds) for same in by_change.values() if index < len(same)][:count]


def _example(flip: Flip) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    yield Text.assemble(
        (f"{flip.before.outcome} → {flip.after.outcome}", "bold yellow"),
        (f"  {printable(flip.problem_id)}, sample {flip.sample_index}, {flip.file}", "dim"),
    )
    rows = [
        ("gold answer", json.dumps(flip.answer, ensure_ascii=False)),
        ("response ends", repr(flip.response_end)),
        ("before", _verdict(flip.before)),
        ("after", _verdict(flip.after)),
    ]
    for name, text in rows:
        yield Padding(Text.assemble((f"{name:<15}", "dim"), printable(text)), (0, 0, 0, 2))


def _verdict(verdict: Any) -> str:
    read = "" if verdict.extracted is None else f"read as {verdict.extracted!r}"
    return " · ".join(part for part in (read, verdict.reason) if part) or verdict.outcome
