"""Verdicts per second of `math`, in this process and through the Grader's worker processes, against math-verify in one process.

Pairs are made from the gold answers in the folder RLVR_DATA: `easy` are GSM8K solutions that end in the gold number or another
one; `hard` are LaTeX answers of contest and textbook problems, boxed as they are, in an equivalent form, or of another problem.

    RLVR_DATA=/data python benchmarks/grader_throughput.py [--pairs 120] [--rounds 5] [--lines 100000]

Every round takes new pairs, and all sides grade the same ones in turn. Medians over rounds; wall times mean little on a busy
machine, CPU seconds are those of all processes of a side. Then `rlvr verify math FILE` grades a file of such pairs (nine easy
ones for each hard one) with one worker and with two, in turn. Exit code 1 when the ratio per CPU-second, both in one process,
is below 5.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlvr.seeding import rng
from rlvr.types import Problem, Rollout
from rlvr.verifiers.api import BlockingGrader
from rlvr.verifiers.runner import WeightedVerifier

GOAL = 5.0
EASY_FACTOR = 8  # easy pairs for each hard one: they take a fraction of the time
HARD_SETS = ("college_math", "olympiadbench", "gaokao_cloze")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
REASONING = "We write down what is given, set up the equation and simplify it step by step. " * 12


@dataclass(frozen=True, slots=True)
class Pair:
    """A gold answer, a response, and whether it was made to be right."""

    gold: str
    response: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """One side on the pairs of one round."""

    wall_s: float
    cpu_s: float
    pairs: int
    agreeing: int
    each_ms: tuple[float, ...]  # CPU time of every pair, for sides that grade in this process


def rows(name: str) -> Iterator[dict[str, object]]:
    with gzip.open(Path(os.environ["RLVR_DATA"]) / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def easy_pairs() -> list[Pair]:
    pairs = []
    for index, row in enumerate(rows("gsm8k")):
        gold = str(row["answer"])
        is_right = index % 2 == 0
        solution = str(row["meta"]["orig"]["answer"]).rpartition("####")[0]  # type: ignore[index]
        final = gold if is_right else str(int(float(gold)) + 1)
        pairs.append(Pair(gold, f"{solution}The answer is \\boxed{{{final}}}.", is_right))
    return shuffled("easy", pairs)


def hard_pairs(distance: int = 1) -> list[Pair]:
    """A wrong answer is that of the problem `distance` further on."""
    golds = [str(row["answer"]).strip("$ ") for name in HARD_SETS for row in rows(name)]
    golds = [gold for gold in golds if "\\" in gold or "^" in gold]
    pairs = []
    for index, gold in enumerate(golds):
        other = golds[(index + distance) % len(golds)]
        final = (gold, equivalent(gold), other)[index % 3]
        pairs.append(Pair(gold, f"{REASONING}So the answer is $\\boxed{{{final}}}$.", index % 3 < 2 or other == gold))
    return shuffled("hard", pairs)


def equivalent(gold: str) -> str:
    """The same answer, written as another author would."""
    text = gold.replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "").replace("\\cdot", "\\times")
    return re.sub(r"\s*([=+])\s*", r" \1 ", text)


def shuffled(name: str, pairs: list[Pair]) -> list[Pair]:
    rng("grader throughput", name).shuffle(pairs)
    return pairs


Side = Callable[[list[Pair]], list[bool]]


@contextmanager
def ours(workers: int) -> Iterator[Side]:
    with BlockingGrader([WeightedVerifier("math")], workers=workers) as grader:

        def grade(pairs: list[Pair]) -> list[bool]:
            rollouts = [Rollout.from_response(Problem("pair", (), pair.gold), pair.response) for pair in pairs]
            grader.grade(rollouts)
            return [rollout.is_correct for rollout in rollouts]

        grade([Pair("1", "\\boxed{1}", True)] * 4 * workers)  # workers start, and load their libraries
        yield grade


def ours_in_process(pairs: list[Pair]) -> list[bool]:
    from rlvr.verifiers.call import call_verifier
    from rlvr.verifiers.math import math

    rollouts = [Rollout.from_response(Problem("pair", (), pair.gold), pair.response) for pair in pairs]
    return [call_verifier(math, rollout, {}).score == 1.0 for rollout in rollouts]


def math_verify_literal(pairs: list[Pair]) -> list[bool]:
    from math_verify import parse, verify

    return [verify(parse(pair.gold), parse(pair.response)) for pair in pairs]


def math_verify_boxed(pairs: list[Pair]) -> list[bool]:
    from math_verify import parse, verify

    return [verify(parse(f"\\boxed{{{pair.gold}}}"), parse(pair.response)) for pair in pairs]


def measure(side: Side, pairs: list[Pair], *, is_here: bool) -> Measured:
    cpu, wall = cpu_seconds(), time.perf_counter()
    found, each_ms = one_by_one(side, pairs) if is_here else (side(pairs), [])
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    agreeing = sum(was == pair.is_right for was, pair in zip(found, pairs, strict=True))
    return Measured(wall, max(cpu, 1 / TICKS_PER_S), len(pairs), agreeing, tuple(each_ms))


def one_by_one(side: Side, pairs: list[Pair]) -> tuple[list[bool], list[float]]:
    found, each_ms = [], []
    for pair in pairs:
        before = time.process_time()
        found += side([pair])
        each_ms.append((time.process_time() - before) * 1e3)
    return found, each_ms


def cpu_seconds() -> float:
    """Of this process and its children, where /proc tells; otherwise of this process alone."""
    total = time.process_time()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    tasks = Path("/proc/self/task").glob("*/children") if children.exists() else ()
    for pid in " ".join(path.read_text() for path in tasks).split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=120, help="hard pairs of a round; easy ones are 8 times as many (120)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lines", type=int, default=100_000, help="of the file for 'rlvr verify' (100,000)")
    args = parser.parse_args()
    if not Path(os.environ.get("RLVR_DATA", "")).joinpath("gsm8k.jsonl.gz").is_file():
        print("set RLVR_DATA to the folder with gsm8k.jsonl.gz and its neighbours", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        sides: dict[str, Side] = {
            "rlvr, in this process": ours_in_process,
            "rlvr, 1 worker": stack.enter_context(ours(1)),
            "rlvr, 2 workers": stack.enter_context(ours(2)),
            "math-verify, gold as it is": math_verify_literal,
            "math-verify, gold boxed": math_verify_boxed,
        }
        for side in sides.values():
            side([Pair("1/2", "\\boxed{0.5}", True)])  # libraries are loaded before the clock runs
        easy = report("easy", easy_pairs(), sides, args.rounds, args.pairs * EASY_FACTOR)
        hard = report("hard", hard_pairs(), sides, args.rounds, args.pairs)
    report_file(args.lines, args.rounds)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(min(easy, hard) < GOAL)


def report(kind: str, pairs: list[Pair], sides: dict[str, Side], rounds: int, pairs_a_round: int) -> float:
    """Print the table of one kind of pairs; returns the lowest ratio per CPU-second of ours to math-verify, in one process."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    supply = itertools.cycle(pairs)
    for _ in range(rounds):
        batch = list(itertools.islice(supply, pairs_a_round))
        for name, side in sides.items():
            found[name].append(measure(side, batch, is_here="worker" not in name))
    per_cpu = {name: [m.pairs / m.cpu_s for m in measured] for name, measured in found.items()}
    per_wall = {name: [m.pairs / m.wall_s for m in measured] for name, measured in found.items()}
    here, _, _, *peers = sides
    print(f"\n{kind}: {rounds} rounds of {pairs_a_round} pairs")
    print(f"{'':<28}{'verdicts/s':>11}{'/CPU-s':>9}{'as made':>9}   ours here / this: wall, CPU   CPU ms: median, p99")
    for name, measured in found.items():
        agreeing = sum(m.agreeing for m in measured) / sum(m.pairs for m in measured)
        line = f"{name:<28}{statistics.median(per_wall[name]):>11.0f}{statistics.median(per_cpu[name]):>9.0f}{agreeing:>9.1%}"
        line += f"   {ratio(per_wall[here], per_wall[name]):>16.1f}x {ratio(per_cpu[here], per_cpu[name]):>9.1f}x"
        each = sorted(ms for m in measured for ms in m.each_ms)
        print(f"{line}   {statistics.median(each):>8.2f} {each[int(len(each) * 0.99)]:>8.1f}" if each else line)
    return min(ratio(per_cpu[here], per_cpu[peer]) for peer in peers)


def report_file(lines: int, rounds: int) -> None:
    """Print what a second process brings `rlvr verify math FILE`, start-up included."""
    easy = itertools.cycle(easy_pairs())
    hard = itertools.chain.from_iterable(hard_pairs(distance) for distance in itertools.count(1))
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "responses.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for index in range(lines):
                pair = next(hard if index % 10 == 9 else easy)
                print(json.dumps({"id": index, "answer": pair.gold, "response": pair.response}), file=out)
        for _ in range(rounds):
            for workers, measured in found.items():
                measured.append(verify_file(file, workers))
    wall = {workers: [each[0] for each in measured] for workers, measured in found.items()}
    print(f"\nrlvr verify math, {lines:,} lines")
    for workers, measured in found.items():
        cpu = statistics.median(each[1] for each in measured)
        print(f"--workers {workers}: {lines / statistics.median(wall[workers]):>8,.0f} lines/s, {cpu:.1f} CPU-seconds")
    print(f"2 workers / 1 worker, lines per wall second: {ratio(wall[1], wall[2]):.2f}x")


def verify_file(file: Path, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds."""
    command = [sys.executable, "-m", "rlvr", "verify", "math", str(file), "--workers", str(workers)]
    before, wall = os.times(), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        if run.wait() != 0:
            raise SystemExit(f"{' '.join(command)} ended with exit code {run.returncode}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - wall, cpu


def ratio(mine: list[float], theirs: list[float]) -> float:
    """The median over rounds of mine / theirs."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
