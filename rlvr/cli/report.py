"""`rlvr report`: write the page about a run."""

from __future__ import annotations

import argparse
import json

HELP = "Write RUN/report.html: one page that opens offline, with the gain, the curves and sample rollouts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, finished or not")
    parser.add_argument("--json", action="store_true", help='print {"report": path}')


def run(args: argparse.Namespace) -> int:
    from rlvr.evaluation.report import write_report

    path = write_report(args.run)
    print(json.dumps({"report": str(path)}) if args.json else path)
    return 0
