"""`rlvr compare`: which of these is better, and may that be claimed?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.evaluation.export import Line

HELP = (
    "Hold stored evaluations against the first of them: paired tests on the problems that they share, at equal samples and at "
    "equal tokens. A run stands for what it measured before training and last."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="RUN_OR_EVAL",
        help="runs, folders of `rlvr eval`, files of rollouts, lm-eval's samples",
    )
    parser.add_argument("-k", default="", help="sizes to show, e.g. 1,4,16 (powers of 4 up to the samples)")
    parser.add_argument(
        "--metric", action="append", default=[], help="to test: pass@1 (default), pass@4, maj@4, pass^4, best@4, greedy"
    )
    parser.add_argument(
        "--scorer", default="", help="verifier whose score ranks samples, for best@k; its verdicts must be stored"
    )
    parser.add_argument("--export", metavar="FILE", help="write what was found: .json, .csv, .md for a model card, .lm-eval.json")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def run(args: argparse.Namespace) -> int:
    """Exit code 3 when something could not be read; what could is shown."""
    from rlvr.cli.eval import sizes_of
    from rlvr.cli.live import console_for_tables
    from rlvr.cli.study_table import study_table
    from rlvr.evaluation.comparison import compare
    from rlvr.evaluation.evaluations import load_all
    from rlvr.evaluation.export import check_export, export, lines

    if args.export:
        check_export(args.export)
    loaded = load_all(args.paths)
    found = loaded.evaluations
    most = max(one.n for one in found)
    k = sizes_of(args.k) if args.k else tuple(size for size in (1, 4, 16, 64, 256) if size <= most)
    study = compare(found, args.metric or ("pass@1",), scorer=args.scorer, k=k if args.k else ())
    if args.export:
        export(args.export, study, k)
    if args.json:
        shown = [{"label": one.label, "task": one.task, "estimates": _estimates(lines(one, k))} for one in found]
        print(json.dumps({"evaluations": shown, **study.to_json(), "failures": list(loaded.failures)}, indent=2))
    else:
        from rich.text import Text

        from rlvr.evaluation.printable import printable

        console = console_for_tables()
        console.print(study_table(study, k))
        for failure in loaded.failures:
            console.print(Text(f"not read: {printable(failure)}", style="bold red"))
    return 3 if loaded.failures else 0


def _estimates(rows: Sequence[Line]) -> dict[str, dict[str, float | None]]:
    return {row.metric: {"mean": row.mean, "low": row.low, "high": row.high} for row in rows}
