"""`rlvr report`: write the page about a run."""

from __future__ import annotations

import argparse
import json
import sys

HELP = (
    "Write RUN/report.html: one page that opens offline, with the gain, the curves, what went wrong and sample rollouts. Of "
    "several runs, e.g. seeds: one page with their mean and spread."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="+", metavar="RUN", help="a run folder, finished or not; several make one page together")
    parser.add_argument("--out", metavar="FILE", help="of several runs: where the page goes (runs-report.html)")
    parser.add_argument("--json", action="store_true", help='print {"report": path, "problems": [...]}')


def run(args: argparse.Namespace) -> int:
    """What cannot be read is said on stderr and on the page; the rest is shown."""
    from rlvr.evaluation.report.run import write_report
    from rlvr.evaluation.report.runs import write_runs_report

    if len(args.run) == 1 and args.out is None:
        written = write_report(args.run[0])
    else:
        written = write_runs_report(args.run, args.out or "runs-report.html")
    for problem in written.problems:
        print(f"note: {problem}", file=sys.stderr)
    print(json.dumps({"report": str(written.path), "problems": list(written.problems)}) if args.json else written.path)
    return 0
