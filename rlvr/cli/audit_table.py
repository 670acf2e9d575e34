"""`rlvr verify --audit`: the report of an audit as a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import ConfigError, boundary

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.verifiers.audit_report import AuditReport, Rate, Row

EXAMPLES_A_RULE = 3
PIPE_WIDTH = 120


def run_audit(args: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Exit code 1 when a rule is broken."""
    report = _audit(args, settings)
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)
        console.print(audit_table(report))
    return 1 if report.broken else 0


def _audit(args: argparse.Namespace, settings: Mapping[str, Any]) -> AuditReport:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rlvr.verifiers.audit import Limits, audit

    found = _cases_and_samples(args)
    limits = Limits(false_positives=args.max_false_positives, false_negatives=args.max_false_negatives)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"auditing {args.verifier}", total=None)
        return audit(
            args.verifier,
            **found,
            settings=settings,
            limits=limits,
            timeout_s=args.timeout,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _cases_and_samples(args: argparse.Namespace) -> dict[str, Any]:
    from rlvr.registry import resolve
    from rlvr.verifiers.base import as_verifier
    from rlvr.verifiers.golden import read_cases, shipped_cases

    if args.task is None:
        verifier = as_verifier(resolve("verifiers", args.verifier))
        path = Path(args.cases) if args.cases else shipped_cases(verifier)
        if path is None and verifier.grades == "opinion":
            raise ConfigError(
                f"verifier {args.verifier!r} gives an opinion: it is not verifiable, so it came without golden cases, and "
                "nothing was checked. Write down what your model must say of responses that you know, and give that with "
                "--cases FILE"
            )
        if path is None:
            raise ConfigError(
                f"verifier {args.verifier!r} came without golden cases (golden/{verifier.name}.jsonl beside its module); "
                "give --task TASK or --cases FILE"
            )
        with boundary(ConfigError, f"golden cases in {path}"):
            return {"cases": read_cases(path), "source": f"golden cases of {path.name}"}
    from rlvr.envs.audit import task_samples
    from rlvr.envs.tasks import load_task

    samples = task_samples(load_task(args.task), args.verifier, args.split, args.problems)
    with boundary(ConfigError, f"golden cases in {args.cases}"):
        cases = read_cases(args.cases) if args.cases else []
    return {"samples": samples, "cases": cases, "source": f"task {args.task}, {args.split}"}


def audit_table(report: AuditReport) -> RenderableType:
    """What `--audit` prints without --json."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("", width=1)
    table.add_column("probe", no_wrap=True)
    table.add_column("what must hold", overflow="fold")
    table.add_column("wrong", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    is_unscored = any(row.unscored for row in report.rows)
    if is_unscored:
        table.add_column("no score", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row)[: None if is_unscored else -1])
    return Group(_title(report), "", table, "", _summary(report), *_complaints(report), Text(""), _ending(report))


def _title(report: AuditReport) -> RenderableType:
    from rich.text import Text

    settings = " ".join(f"{key}={json.dumps(value)}" for key, value in report.settings.items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.items())
    about = f"version {report.version} · {report.reference}" + (f" · {settings}" if settings else "")
    return Text.assemble(
        ("Audit of ", "bold"),
        (report.verifier, "bold cyan"),
        (f"  {about}\n", "dim"),
        (f"{report.source}: {report.samples} right responses ({kinds})", "dim"),
        ("\nan opinion, not verifiable: the audit can only find it wrong" if not report.is_verifiable else "", "yellow"),
    )


def _cells(row: Row) -> list[RenderableType]:
    from rich.text import Text

    if not row.wrong.total:
        return [Text("–", "dim"), Text(row.name, "dim"), Text(row.note or row.must, "dim"), *[Text("–", "dim")] * 3, ""]
    mark = Text("✗", "bold red") if row.is_broken else Text("✓", "green") if not row.wrong.count else Text("✓", "yellow")
    style = "bold red" if row.is_broken else ""
    return [
        mark,
        Text(row.name, style),
        Text(row.must),
        Text.assemble((f"{row.wrong.count:,}", style), (f" of {row.wrong.total:,}", "dim")),
        Text(f"{row.wrong.share:.1%}", style),
        Text(_interval(row.wrong), "dim"),
        Text(str(row.unscored) if row.unscored else "", "yellow"),
    ]


def _summary(report: AuditReport) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, rate in (("false positives", report.false_positives), ("false negatives", report.false_negatives)):
        share = Text(f"{rate.share:.2%}" if rate.total else "–", "bold")
        grid.add_row(name, share, Text(f"{_interval(rate)}   {rate.count:,} of {rate.total:,}", "dim"))
    times = report.times
    cpu, wall = (times.cpu_p50_s, times.cpu_p99_s), (times.wall_p50_s, times.wall_p99_s)
    for name, (median, tail) in (("CPU time", cpu), ("wall time", wall)):
        grid.add_row(
            name, Text(_seconds(median), "bold"), Text(f"p50, and {_seconds(tail)} p99 of {times.count:,} verdicts", "dim")
        )
    return grid


def _complaints(report: AuditReport) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    for row in report.broken:
        yield Text.assemble(
            "\n", (row.name, "bold red"), f": {row.wrong.count} of {row.wrong.total}, at most {row.limit:.1%} allowed"
        )
        for example in row.examples[:EXAMPLES_A_RULE]:
            yield Padding(Text(printable(example)), (0, 0, 0, 2))
        if len(row.examples) > EXAMPLES_A_RULE:
            yield Padding(Text("… --json lists more", "dim"), (0, 0, 0, 2))


def _ending(report: AuditReport) -> RenderableType:
    from rich.text import Text

    seconds = f" in {report.elapsed_s:.1f} s"
    if report.broken:
        count = len(report.broken)
        return Text(f"{count} rule{'s' * (count > 1)} broken{seconds}", "bold red")
    return Text(f"every rule holds{seconds}", "bold green")


def _interval(rate: Rate) -> str:
    low, high = rate.interval
    return f"[{low:.1%}, {high:.1%}]"


def _seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"
