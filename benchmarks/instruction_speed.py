"""How many constraint checks a second `ifeval` and `ifbench` make in one process, against the reference where it is importable.

    python benchmarks/instruction_speed.py [--reference FOLDER]

FOLDER holds the reference's package `ifbench` (the repository allenai/IFBench), whose dependencies must be installed, its NLTK
data included; both sides then check the same responses alternately. Constraints that detect a language are timed apart. Times are
CPU time. Exit code 1 below 1,000 checks a second without language detection.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlvr.seeding import rng
from rlvr.verifiers.instruction.base import Bound
from rlvr.verifiers.instruction.generate import sample_constraints
from rlvr.verifiers.instruction.registry import read_constraints

LIMIT_PER_S = 1_000
LANGUAGE = ("language:", "change_case:english")
GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
LONG_WORDS = 400
REPETITIONS = 5

Case = tuple[Bound, str]


def cases() -> list[Case]:
    """Every constraint of the golden cases on its own short response and on a text of about 400 words."""
    found = []
    for name in ("ifeval", "ifbench"):
        for line in (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").split("\n"):
            row: dict[str, Any] = json.loads(line) if line else {"outcome": "verifier_error"}
            if row["outcome"] not in ("correct", "incorrect") or "settings" in row:
                continue
            bound = read_constraints(row["answer"])
            found += [(one, text) for one in bound for text in (row["response"], long_text(len(found)))]
    return found


def long_text(index: int) -> str:
    text = ""
    for draw in range(LONG_WORDS):
        if len(text.split()) >= LONG_WORDS:
            break
        text += sample_constraints(rng("speed", index % 7, draw), 2).witness + "\n"
    return text


def cpu_s(check: Callable[[Bound, str], object], batch: list[Case]) -> float:
    started = time.process_time()
    for bound, text in batch:
        check(bound, text)
    return time.process_time() - started


def reference_check(folder: str) -> Callable[[Bound, str], bool]:
    sys.path.insert(0, folder)
    registry = importlib.import_module("ifbench.instructions_registry").INSTRUCTION_DICT

    def check(bound: Bound, text: str) -> bool:
        instruction = registry[bound.constraint.id](bound.constraint.id)
        instruction.build_description(**bound.kwargs)
        return bool(text.strip() and instruction.check_following(text))

    return check


def runs_in_reference(check: Callable[[Bound, str], bool], case: Case) -> bool:
    try:
        check(*case)
    except Exception as error:  # noqa: BLE001  whatever the reference raises, the case is left out on both sides
        print(f"left out: {case[0].constraint.id}: {type(error).__name__}", file=sys.stderr)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", metavar="FOLDER")
    args = parser.parse_args()
    batch = cases()
    reference = reference_check(args.reference) if args.reference else None
    if reference is not None:
        batch = [case for case in batch if runs_in_reference(reference, case)]
    groups = {
        "without language detection": [case for case in batch if not case[0].constraint.id.startswith(LANGUAGE)],
        "with language detection": [case for case in batch if case[0].constraint.id.startswith(LANGUAGE)],
    }
    rates = {}
    for name, group in groups.items():
        ours, theirs = [], []
        cpu_s(Bound.follows, group)
        for _ in range(REPETITIONS):
            ours.append(cpu_s(Bound.follows, group))
            if reference is not None:
                theirs.append(cpu_s(reference, group))
        rates[name] = len(group) / min(ours)
        peer = f"; reference {len(group) / min(theirs):,.0f}/s, ratio {min(theirs) / min(ours):.1f}x" if theirs else ""
        print(f"{name}: {len(group)} checks, {rates[name]:,.0f}/s a core{peer}")
    return int(rates["without language detection"] < LIMIT_PER_S)


if __name__ == "__main__":
    sys.exit(main())
