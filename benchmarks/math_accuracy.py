"""The math verifier and math-verify on the same pairs of gold answer and answer, one after another in this process.

    python benchmarks/math_accuracy.py pairs.jsonl [--list]

A line of the file is {"gold", "answer", "equal"}: two texts and whether they are equal. Both sides see the answer in a box,
unless it has one, and math-verify the gold answer too. Prints how many verdicts are right, false positives and negatives,
verdicts per CPU second and CPU milliseconds; the ratio of the medians is the claim. Symbolic comparisons of ours run in this
process too, where a worker would have them otherwise, so that CPU time is counted alike. `--list` shows every wrong verdict.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from math_verify import LatexExtractionConfig, parse, verify

import rlvr.verifiers.symbolic  # noqa: F401  imported before the clock starts
from rlvr.types import Problem, Rollout
from rlvr.verifiers.math import math

LIMIT_S = 10


@dataclass(frozen=True)
class Pair:
    gold: str
    answer: str
    equal: bool


@dataclass(frozen=True)
class Result:
    """What one grader said about each pair (None: it failed or ran into the limit), and the CPU time of each, in ms."""

    verdicts: list[bool | None]
    cpu_ms: list[float]


class OutOfTimeError(BaseException):
    """Not an Exception, so that a grader cannot swallow it."""


def ours(gold: str, answer: str) -> bool | None:
    problem = Problem("pair", (), gold)
    verdict = math(problem, Rollout.from_response(problem, answer))
    return None if verdict.score is None else verdict.score == 1.0


def math_verify(gold: str, answer: str) -> bool | None:
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    return bool(
        verify(
            parse(boxed(gold), extraction_config=config, parsing_timeout=None),
            parse(answer, extraction_config=config, parsing_timeout=None),
            timeout_seconds=None,
        )
    )


def boxed(text: str) -> str:
    if "\\boxed" in text:
        return text
    bare = text.strip()
    for begin, end in (("$$", "$$"), ("$", "$")):
        if len(bare) > 2 * len(begin) and bare.startswith(begin) and bare.endswith(end) and bare.count("$") == 2 * len(begin):
            bare = bare[len(begin) : -len(end)]
    return f"\\boxed{{{bare}}}"


def run(grader: Callable[[str, str], bool | None], pairs: Sequence[Pair]) -> Result:
    verdicts: list[bool | None] = []
    cpu_ms: list[float] = []
    for pair in pairs:
        start = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            verdict = grader(pair.gold, boxed(pair.answer))
        except (OutOfTimeError, RecursionError, MemoryError):
            verdict = None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        cpu_ms.append((time.process_time() - start) * 1e3)
        verdicts.append(verdict)
    return Result(verdicts, cpu_ms)


def report(name: str, pairs: Sequence[Pair], result: Result, *, lists: bool) -> None:
    right = sum(verdict == pair.equal for pair, verdict in zip(pairs, result.verdicts, strict=True))
    wrong = [(pair, verdict) for pair, verdict in zip(pairs, result.verdicts, strict=True) if verdict != pair.equal]
    positives = sum(verdict is True for _, verdict in wrong)
    negatives = sum(verdict is False for _, verdict in wrong)
    failed = sum(verdict is None for verdict in result.verdicts)
    times = sorted(result.cpu_ms)
    print(
        f"{name:12s} right {100 * right / len(pairs):6.2f} %   false positives {positives:3d}   false negatives {negatives:3d}   "
        f"failed {failed:3d}   CPU ms: median {percentile(times, 0.5):8.3f}  p99 {percentile(times, 0.99):8.1f}  "
        f"max {times[-1]:8.1f}   "
        f"{1e3 * len(times) / max(sum(times), 1e-9):8.0f} per CPU second"
    )
    for pair, verdict in wrong if lists else ():
        print(f"    {verdict}, but {pair.equal}: {pair.gold[:100]!r} against {pair.answer[:100]!r}")


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "tests" / "golden" / "math_pairs.jsonl"
    parser.add_argument("pairs", type=Path, nargs="?", default=default, help=f"default: {default.name}, the pairs of our tests")
    parser.add_argument("--list", action="store_true", help="show every wrong verdict")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.pairs.read_text(encoding="utf-8").splitlines() if line.strip()]
    pairs = [Pair(str(row["gold"]), str(row["answer"]), bool(row["equal"])) for row in rows]
    signal.signal(signal.SIGALRM, out_of_time)
    print(f"{len(pairs)} pairs, {sum(pair.equal for pair in pairs)} of them equal")
    results = {}
    for name, grader in (("rlvr", ours), ("math-verify", math_verify)):
        results[name] = run(grader, pairs)
        report(name, pairs, results[name], lists=arguments.list)
    medians = {name: percentile(sorted(result.cpu_ms), 0.5) for name, result in results.items()}
    print(f"ratio of medians: rlvr decides {medians['math-verify'] / max(medians['rlvr'], 1e-6):.1f} x as fast")


if __name__ == "__main__":
    main()
