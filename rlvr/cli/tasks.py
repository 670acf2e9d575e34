"""`rlvr tasks`: list, show and validate tasks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.envs.tasks import Task
    from rlvr.envs.validate import SplitReport
    from rlvr.types import Problem

HELP = "List tasks, show one, validate one (every gold answer must pass its own verifier), or look for leaks and duplicates."
PIPE_WIDTH = 240  # characters
SHOWN = 3  # problems without --limit
MAX_LISTED = 50  # findings of a split that are printed without --json


ACTIONS = ("list", "show", "validate", "leakage")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, help="validate, leakage: exit code 1 if a problem fails or leaks")
    parser.add_argument("task", nargs="?", help="name, folder with task.toml, or .jsonl, .jsonl.gz or .parquet file")
    parser.add_argument("args", nargs="*", metavar="KEY=VALUE", help="arguments of the task, e.g. terms=[6,8]")
    parser.add_argument("--split", help="show: the first by default; validate: all; leakage: train")
    parser.add_argument("--limit", type=int, help="problems of each split (show: 3; validate: all, of endless tasks 500)")
    parser.add_argument(
        "--against",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK:SPLIT",
        help="leakage: held-out problems (the task's own)",
    )
    parser.add_argument("--workers", type=int, default=2, help="validate: processes for verifiers that run apart (2)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.action != "list" and args.task is None:
        raise ConfigError(
            f"rlvr tasks {args.action} needs a task, e.g. rlvr tasks {args.action} gsm8k; `rlvr tasks list` names them"
        )
    return {"list": _list, "show": _show, "validate": _validate, "leakage": _leakage}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from rlvr.envs.tasks import load_task, task_names

    tasks = [load_task(name) for name in task_names()]
    if args.json:
        _print_json([_summary(task) for task in tasks])
        return 0
    table = _table("task", "kind", "splits", "verifier", "description")
    for task in tasks:
        verifiers = ", ".join(verifier.name for verifier in task.verifiers)
        table.add_row(
            task.name, "endless" if task.is_endless else "data set", ", ".join(task.splits), verifiers, task.description
        )
    _console().print(table)
    return 0


def _show(args: argparse.Namespace) -> int:
    task = _load(args)
    split = args.split or task.splits[0]
    problems = task.problems(split, limit=SHOWN if args.limit is None else args.limit)
    if args.json:
        _print_json({**_summary(task), "problems": [_problem_json(problem) for problem in problems], "notes": list(task.notes)})
        return 0
    console = _console()
    console.print(f"[bold]{task.name}[/bold]  {_escape(task.description)}")
    for key, value in _summary(task).items():
        if key not in ("name", "description"):
            console.print(f"  {key:<12} {_escape(_compact(value))}")
    for problem in problems:
        console.print(f"\n[bold]{_escape(problem.id)}[/bold]")
        for message in problem.prompt:
            console.print(f"  [dim]{message.role}:[/dim] {_escape(message.content)}")
        console.print(f"  [dim]answer:[/dim] {_escape(_compact(problem.answer))}")
    _print_notes(task)
    return 0


def _validate(args: argparse.Namespace) -> int:
    import asyncio

    from rlvr.envs.validate import validate

    task = _load(args)
    only = [args.split] if args.split else []
    with _progress() as progress:
        bars: dict[str, Any] = {}

        def on_problem(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(f"{task.name} {split}", total=total)
            progress.update(bars[split], completed=done)

        reports = asyncio.run(validate(task, only, limit=args.limit, workers=args.workers, on_problem=on_problem))
    failed = any(report.findings for report in reports)
    if args.json:
        _print_json(
            {"task": task.name, "valid": not failed, "splits": [_report_json(r) for r in reports], "notes": list(task.notes)}
        )
    else:
        _print_reports(task, reports)
    return 1 if failed else 0


def _leakage(args: argparse.Namespace) -> int:
    from rlvr.cli.tasks_leakage import report
    from rlvr.envs.leakage import clean, held_out_problems

    task, split = _load(args), args.split or "train"
    held_out = held_out_problems(task, split, args.against)
    return report(task, split, clean(task.problems(split), held_out), args)


def _load(args: argparse.Namespace) -> Task:
    from rlvr.envs.tasks import load_task

    return load_task(args.task, dict(_argument(text) for text in args.args))


def _argument(text: str) -> tuple[str, Any]:
    """`terms=[6,8]` as TOML; what is no TOML value is text."""
    import tomllib

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"task argument {text!r} is not of the form key=value, e.g. terms=[6,8]")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _print_reports(task: Task, reports: list[SplitReport]) -> None:
    console = _console()
    for report in reports:
        count = len(report.findings)
        verdict = f"[red]{count} fault{'s' * (count > 1)}[/red]" if count else "[green]all pass[/green]"
        console.print(f"{task.name} {report.split}: {report.problems} problems, {verdict}")
        if report.without_gold:
            console.print(f"  for {report.without_gold} of them no response is known that must pass: only checked to be gradable")
        for finding in report.findings[:MAX_LISTED]:
            console.print(f"  {_escape(finding.problem_id)}  [bold]{finding.fault}[/bold]  {_escape(finding.detail)}")
        if len(report.findings) > MAX_LISTED:
            console.print(f"  ... and {len(report.findings) - MAX_LISTED} more; --json prints all")
    _print_notes(task)


def _print_notes(task: Task) -> None:
    for note in task.notes:
        _console().print(f"[yellow]note:[/yellow] {_escape(note)}")


def _kind(task: Task) -> str:
    return "endless" if task.is_endless else "data set"


def _summary(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "description": task.description,
        "kind": _kind(task),
        "folder": str(task.folder),
        "splits": list(task.splits),
        "args": dict(task.args),
        "verifiers": [verifier.model_dump() for verifier in task.verifiers],
        "max_tokens": task.max_tokens,
        "stop": list(task.stop),
    }


def _problem_json(problem: Problem) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(problem)


def _report_json(report: SplitReport) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(report)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def _compact(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _console() -> Any:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    # What reads a pipe wants one line a row.
    return console if console.is_terminal else Console(soft_wrap=True, highlight=False, width=PIPE_WIDTH)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _table(*columns: str) -> Any:
    from rich.table import Column, Table

    *narrow, wide = columns
    return Table(*(Column(name, no_wrap=True) for name in narrow), wide, box=None, header_style="bold", padding=(0, 2, 0, 0))


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
