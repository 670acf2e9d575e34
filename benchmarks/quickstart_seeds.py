"""The quickstart over several seeds: how much does pass@1 on held-out problems rise, how often, and does it ever collapse?

Each seed builds its own base from its own random weights and trains it, exactly as `make quickstart SEED=n` does. Seeds
100 to 110 and the first 200 held-out problems were used for tuning: other seeds are run here, and 400 other problems
count. Prints one row a seed and one JSON line.

    python benchmarks/quickstart_seeds.py --seeds 200 201 202 [--jobs 2] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.evaluation.passk import pass_at_k

TUNED_ON, FRESH = 200, 400  # held-out problems: the first were seen while tuning
GAIN_GOAL, FINAL_GOAL, BASE_RANGE = 0.45, 0.90, (0.15, 0.45)


@dataclass(frozen=True)
class Result:
    """One seed: measurements by step (first and last) and by problem set, on fresh problems alone."""

    seed: int
    before: dict[str, Any]
    after: dict[str, Any]
    wall_s: float

    def mean(self, when: str, metric: str, problems: str = "held-out") -> float:
        measured = self.before if when == "before" else self.after
        rows = measured[problems]["results"][TUNED_ON:]
        if metric == "greedy":
            return sum(row["greedy_correct"] for row in rows) / len(rows)
        if metric == "tokens":
            return sum(row["tokens_mean"] for row in rows) / len(rows)
        k = int(metric.removeprefix("pass@"))
        return sum(pass_at_k(row["scored"], row["correct"], k) for row in rows) / len(rows)

    @property
    def gain(self) -> float:
        return self.mean("after", "pass@1") - self.mean("before", "pass@1")

    @property
    def reaches_goal(self) -> bool:
        return self.gain >= GAIN_GOAL and self.mean("after", "pass@1") >= FINAL_GOAL


def run(seed: int, folder: Path, threads: int) -> Result:
    started = time.perf_counter()
    common = [f"seed={seed}", f"threads={threads}"]
    base, trained = folder / f"{seed}/base", folder / f"{seed}/run"
    rlvr("train", "chains/base", f"out={base}", *common)
    rlvr("train", "chains/quickstart", f"model={newest(base)}", f"out={trained}", f"eval.problems={TUNED_ON + FRESH}", *common)
    first, *_, last = sorted((trained / "evaluations").glob("step-??????.json"))
    return Result(seed, json.loads(first.read_text()), json.loads(last.read_text()), time.perf_counter() - started)


def newest(run_folder: Path) -> Path:
    return max((run_folder / "checkpoints").glob("step-*"))


def rlvr(*arguments: str) -> None:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "rlvr", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"rlvr {' '.join(arguments)} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def table(results: list[Result]) -> str:
    metrics = ("pass@1", "pass@4", "pass@8", "greedy", "tokens")
    lines = ["seed   " + "  ".join(f"{metric:>15}" for metric in metrics) + "   longer pass@1   wall s   goal"]
    for result in results:
        cells = [f"{result.mean('before', m):6.3f} ->{result.mean('after', m):6.3f}" for m in metrics]
        harder = f"{result.mean('before', 'pass@1', 'longer'):.3f} -> {result.mean('after', 'pass@1', 'longer'):.3f}"
        reached = "yes" if result.reaches_goal else "no"
        lines.append(f"{result.seed:<6} {'  '.join(cells)}   {harder:>14}   {result.wall_s:6.0f}   {reached}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(200, 210)))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each run; 0: all cores")
    parser.add_argument("--keep", type=Path, help="folder for the runs; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as executor:
        folder = args.keep or Path(scratch)
        results = list(executor.map(lambda seed: run(seed, folder, args.threads), args.seeds))
    print(table(results))
    low, high = BASE_RANGE
    report = {
        "benchmark": "quickstart_seeds",
        "seeds": len(results),
        "reached_goal": sum(result.reaches_goal for result in results),
        "least_gain": round(min(result.gain for result in results), 3),
        "least_final": round(min(result.mean("after", "pass@1") for result in results), 3),
        "base_in_range": sum(low <= result.mean("before", "pass@1") <= high for result in results),
        "longest_wall_s": round(max(result.wall_s for result in results)),
        "goal": f"gain >= {GAIN_GOAL} and final >= {FINAL_GOAL} in 9 of 10 seeds, base within {low}..{high}",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
