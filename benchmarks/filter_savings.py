"""`rlvr filter` with early stopping against all 16 samples: rollouts saved, and decisions that stay the same.

Claim: at least 40 % fewer rollouts at 98 % or more equal decisions, where most problems are solved never or always (the first
three mixes; exit code 1 if one of them misses it at the default epsilon).
The samples are simulated: problem i is solved with its own chance, and its first samples are the same on both sides. It is the
filter's own code that decides (`measure_pass_rates`), one file a mix. No model, no GPU; seconds.

    python benchmarks/filter_savings.py [--problems 1500] [--epsilon 0 0.01 0.03 0.05]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rlvr.filtering.difficulty import measure_pass_rates
from rlvr.filtering.pass_rates import PassRates
from rlvr.filtering.window import EPSILON, Window
from rlvr.seeding import Part, rng
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

N = 16
KEEP = Window(0.2, 0.8)
SAMPLING = Sampling(max_tokens=8)


def spiked(never: float, always: float) -> Callable[[random.Random], float]:
    """Shares of problems that are beyond the model and beneath it; the rest spread evenly over all solve rates."""

    def draw(generator: random.Random) -> float:
        place = generator.random()
        return 0.0 if place < never else 1.0 if place < never + always else generator.random()

    return draw


MIXES: dict[str, Callable[[random.Random], float]] = {
    "35 % never, 25 % always, rest even": spiked(0.35, 0.25),
    "20 % never, 35 % always, rest even": spiked(0.20, 0.35),
    "60 % never, 5 % always, rest even": spiked(0.60, 0.05),
    "U-shaped without spikes, Beta(1/2, 1/2)": lambda generator: generator.betavariate(0.5, 0.5),
    "even, Beta(1, 1)": lambda generator: generator.random(),
    "all in the middle, Beta(2, 2)": lambda generator: generator.betavariate(2, 2),
}
CLAIMED = list(MIXES)[:3]


class Coins:
    """Stands for the rollout loop: problem `id` is solved with the chance `rates[id]`."""

    def __init__(self, rates: dict[str, float]) -> None:
        self._rates = rates
        self._turn = Turn((1,), Completion((5,), (0.0,), FinishReason.STOP), Message("assistant", ""))

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: Part) -> Rollout:
        is_solved = rng(*seed_parts, problem.id, sample_index).random() < self._rates[problem.id]
        verdict = Verdict.correct() if is_solved else Verdict.incorrect()
        return Rollout(problem, sample_index, [self._turn], Stop.STOP, {"coin": verdict})


def measure(rates: dict[str, float], folder: Path, epsilon: float | None) -> PassRates:
    problems = [Problem(id, (Message("user", id),), "") for id in rates]
    out = folder / f"{epsilon}.jsonl"
    work = measure_pass_rates(
        Coins(rates), problems, out, n=N, sampling=SAMPLING, settings={"task": "coins"}, keep=KEEP, epsilon=epsilon
    )
    return asyncio.run(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1500)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.0, 0.01, EPSILON, 0.05])
    args = parser.parse_args()
    print(f"{args.problems} problems a mix, {N} samples, window {KEEP}; default epsilon {EPSILON}\n")
    missed = False
    print(f"{'mix':<42}{'kept':>6}  " + "".join(f"{f'epsilon {epsilon:g}':>22}" for epsilon in args.epsilon))
    print(f"{'':<48}  " + f"{'saved':>12}{'equal':>10}" * len(args.epsilon))
    for name, draw in MIXES.items():
        generator = rng("filter savings", name)
        rates = {f"p{index}": draw(generator) for index in range(args.problems)}
        with tempfile.TemporaryDirectory() as folder:
            full = set(measure(rates, Path(folder), None).kept(KEEP))
            cells = []
            for epsilon in args.epsilon:
                found = measure(rates, Path(folder), epsilon)
                equal = 1 - len(full.symmetric_difference(found.kept(KEEP))) / args.problems
                cells.append(f"{found.saved_share:>12.1%}{equal:>10.2%}")
                if name in CLAIMED and epsilon == EPSILON:
                    missed |= found.saved_share < 0.4 or equal < 0.98
        print(f"{name:<42}{len(full) / args.problems:>6.0%}  " + "".join(cells))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
