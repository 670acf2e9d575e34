"""`rlvr shortest`: the shortest correct response of each problem, as demonstrations for a supervised stage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlvr.errors import ConfigError

HELP = 'From stored rollouts, write the shortest correct response of each problem as a file that `kind = "sft"` trains on.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN_OR_FILE", help="a run folder, a folder of `rlvr eval --split train --out`, or a file"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON lines of prompt and response")
    parser.add_argument("--step", type=int, help="only this training step of a run")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def run(args: argparse.Namespace) -> int:
    """Exit code 1 when no problem was solved: there is nothing to write then."""
    from rlvr.evaluation.rollout_files import read_all, trained_files
    from rlvr.evaluation.shortest import shortest_correct, write_demonstrations

    out = Path(args.out)
    if out.exists():
        raise ConfigError(f"{out} exists already; give --out a new file")
    files = trained_files(Path(args.source), args.step)
    found = shortest_correct(stored.rollout for stored in read_all(files))
    if found.chosen:
        write_demonstrations(out, found.chosen)
    if args.json:
        print(json.dumps(found.to_json()))
    else:
        print(
            f"{len(found.chosen)} of {found.problems} problems have a correct response ({found.rollouts} rollouts); the shortest "
            f"have {found.tokens_chosen:.1f} tokens on average, all correct ones {found.tokens_correct:.1f}"
        )
        if found.several_turns:
            print(f"{found.several_turns} correct rollouts with several turns were left out")
        print(str(out) if found.chosen else "nothing was written")
    return 0 if found.chosen else 1
