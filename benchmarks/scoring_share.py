"""What the math verifier costs of a GRPO step with 256 rollouts: the same run with it, and with a verifier that does nothing.

    RLVR_DATA=... python benchmarks/scoring_share.py [--rounds 3] [--steps 5] [--set gsm8k|college_math]

The 0.8M-parameter model of `trl_step.py` generates 32 groups of 8 with 128 tokens each, and is updated with them. Random weights
write nothing that could be graded, so before each verdict the text of a rollout is replaced by one about its problem: the data
set's own solution where it has one, or a sentence, with the right answer in a box for every second sample and another problem's
for the others. Both sides do that; one grades with `math`, as in any run (quick comparisons in the trainer's process, others in
workers), the other says 0 or 1 by the sample's number. A large model takes far longer for its step and no longer for verdicts.

Share: (step with `math` - step without) / step with it, of medians; by the clock and in CPU seconds, workers included. A few
percent are lost in what the machine does otherwise, so the same 256 verdicts are timed alone, too: after a first round, in which
workers start, the median of four, over the step's seconds. In a step they overlap with generation, and hide behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from length_models import geometric, write_model

from rlvr import Message, Problem, Rollout, Verdict, verifier
from rlvr.verifiers.math import math
from rlvr.verifiers.runner import Grader, WeightedVerifier

GOAL = 0.03
GROUPS, GROUP_SIZE, TOKENS, PROBLEMS = 32, 8, 128, 400


@verifier("by_number", isolated=False)
def by_number(problem: Problem, rollout: Rollout) -> Verdict:
    """Right for every second sample, without a look at it."""
    return Verdict.correct() if rollout.sample_index % 2 == 0 else Verdict.incorrect()


def write_inputs(folder: Path, data: Path, name: str) -> None:
    """Problems with prompts of one length for the model, and a right and a wrong response for each."""
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if _can_be_graded(row)][:PROBLEMS]
    problems, responses = [], {}
    for index, (row, other) in enumerate(zip(rows, rows[1:] + rows[:1], strict=True)):
        problems.append({"id": row["id"], "prompt": f"{index + 100}+{index + 100}-{index + 100}=?", "answer": row["answer"]})
        solution = str(row["meta"]["orig"].get("answer") or "Solving this step by step gives the result.").partition("####")[0]
        responses[row["id"]] = [f"{solution}The answer is \\boxed{{{text}}}." for text in (row["answer"], other["answer"])]
    lines = [json.dumps({**problem, "split": "train"}) + "\n" for problem in problems]
    (folder / "problems.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "responses.json").write_text(json.dumps(responses), encoding="utf-8")
    write_model(folder / "model", geometric(0.0, TOKENS))


def _can_be_graded(row: dict[str, Any]) -> bool:
    """Right and wrong responses: a reference that cannot be read is right where a response repeats it, and unscored elsewhere."""
    problem = Problem(row["id"], (), row["answer"])
    rollouts = [Rollout.from_response(problem, f"\\boxed{{{answer}}}") for answer in (row["answer"], "-7")]
    return all(math(problem, rollout).score is not None for rollout in rollouts)


async def verdicts_alone(folder: Path) -> tuple[float, float]:
    """Seconds by the clock and of CPU for the verdicts of one step, with nothing beside them."""
    responses = json.loads((folder / "responses.json").read_text(encoding="utf-8"))
    problems = [json.loads(line) for line in (folder / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
    times = []
    async with Grader([WeightedVerifier("math")]) as grader:
        for round_ in range(5):
            chosen = [Problem(row["id"], (), row["answer"]) for row in problems[round_ * GROUPS : (round_ + 1) * GROUPS]]
            rollouts = [Rollout.from_response(one, responses[one.id][k % 2]) for one in chosen for k in range(GROUP_SIZE)]
            wall, cpu = time.perf_counter(), _cpu_s()
            await asyncio.gather(*map(grader.grade, rollouts))
            times.append((time.perf_counter() - wall, _cpu_s() - cpu))
    return statistics.median(wall for wall, _ in times[1:]), statistics.median(cpu for _, cpu in times[1:])


def run(folder: Path, name: str, steps: int, seed: int) -> dict[str, float]:
    """Seconds of a step, by the clock and of CPU, of this process and its workers."""
    import rlvr
    from rlvr.evaluation.observer import SilentObserver

    responses = json.loads((folder / "responses.json").read_text(encoding="utf-8"))
    grade = Grader.grade

    async def grade_real_text(self: Grader, rollout: Rollout, **options: Any) -> None:
        text = responses[rollout.problem.id][rollout.sample_index % 2]
        last = replace(rollout.turns[-1], message=Message("assistant", text))
        rollout.turns = [*rollout.turns[:-1], last]
        await grade(self, rollout, **options)

    alone_wall, alone_cpu = asyncio.run(verdicts_alone(folder)) if name == "math" else (0.0, 0.0)
    Grader.grade = grade_real_text  # type: ignore[method-assign]
    marks: list[tuple[float, float]] = []

    class Watch(SilentObserver):
        def advance(self, n: int = 1, **fields: float) -> None:
            if n and fields:
                marks.append((time.perf_counter(), _cpu_s()))

    made = rlvr.train(
        observer=Watch(),
        model=str(folder / "model"),
        task=str(folder / "problems.jsonl"),
        template="plain",
        out=str(folder / f"{name}-{os.getpid()}"),
        steps=steps + 1,
        seed=seed,
        threads=2,
        verifiers=[{"name": "math" if name == "math" else f"{Path(__file__).resolve()}:by_number"}],
        rollout=rlvr.RolloutConfig(group_size=GROUP_SIZE, problems_per_step=GROUPS, max_tokens=TOKENS),
        algorithm={"name": "grpo"},
        optim=rlvr.OptimConfig(lr=1e-6),
        eval={"problems": 0},
        checkpoint={"every": 10_000},
    )
    right = [json.loads(line)["reward_mean"] for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    pairs = list(pairwise(marks))
    return {
        "wall_s": statistics.median(after[0] - before[0] for before, after in pairs),
        "cpu_s": statistics.median(after[1] - before[1] for before, after in pairs),
        "right": statistics.mean(right),
        "alone_wall_s": alone_wall,
        "alone_cpu_s": alone_cpu,
    }


def _cpu_s() -> float:
    """Of this process and those that it started and that still run."""
    total = time.process_time()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="counted steps of each run")
    parser.add_argument("--set", default="gsm8k", choices=["gsm8k", "college_math"])
    parser.add_argument("--data", type=Path, default=os.environ.get("RLVR_DATA"))
    parser.add_argument("--side", choices=["math", "nothing"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run(args.folder, args.side, args.steps, args.seed)))
        return 0
    if args.data is None:
        raise SystemExit("this needs the public data sets: set RLVR_DATA, or give --data")
    found: dict[str, list[dict[str, float]]] = {"math": [], "nothing": []}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), args.data, args.set)
        for index in range(args.rounds):
            for side in ("math", "nothing") if index % 2 == 0 else ("nothing", "math"):
                command = [sys.executable, __file__, "--side", side, "--folder", folder, "--steps", str(args.steps)]
                command += ["--seed", str(index)]
                environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{args.set}, {GROUPS} x {GROUP_SIZE} rollouts of {TOKENS} tokens; {args.rounds} rounds of {args.steps} steps")
    for side, runs in found.items():
        wall, cpu, right = (statistics.median(one[key] for one in runs) for key in ("wall_s", "cpu_s", "right"))
        print(f"{side:<8} {wall:6.2f} s a step, {cpu:6.2f} CPU-s, {100 * right:.1f} % of the rollouts right")
    for key, name in (("wall_s", "the clock"), ("cpu_s", "CPU")):
        shares = [1 - without[key] / with_math[key] for with_math, without in zip(found["math"], found["nothing"], strict=True)]
        share = statistics.median(shares)
        each = ", ".join(f"{100 * one:.1f}" for one in shares)
        print(f"share of scoring by {name}: {100 * share:.1f} % ({each})  goal: under {100 * GOAL:.0f} %")
    for key, name in (("wall_s", "the clock"), ("cpu_s", "CPU")):
        alone = statistics.median(one[f"alone_{key}"] for one in found["math"])
        step = statistics.median(one[key] for one in found["math"])
        print(f"the same verdicts alone, by {name}: {1e3 * alone:.0f} ms, {100 * alone / step:.1f} % of the step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
