"""What each part of an algorithm, of the choice of problems and of the reward is worth: ablations on the quickstart's tiny base.

    python benchmarks/ablations.py --work runs/ablations                       all comparisons; hours on one core
    python benchmarks/ablations.py --work runs/ablations --only dr_grpo,kl     some of them
    python benchmarks/ablations.py --from runs/ablations --docs docs           tables and plots of the finished runs alone

One base a seed, then every arm from it: the same problems, seeds, steps and learning rate, one setting changed. Every run is a
run folder of `rlvr.train`, so nothing is measured here that a run does not record, and finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ablation_pages import write_pages
from ablation_results import Comparison, Series, read_series

from rlvr.config import Recipe, load_recipe
from rlvr.engines.subject import Subject
from rlvr.filtering.filter import FilterRequest, filter_task
from rlvr.filtering.window import Window
from rlvr.trainers.train import train_or_resume

CHAINS = Path(__file__).parents[1] / "tasks" / "chains"
BASE_OF_QUICKSTART = ("checkpoint.every=0", "checkpoint.keep=1", "threads=1")
BASE = ("task_args={terms=[2,6]}", "steps=900", *BASE_OF_QUICKSTART)
TRAINING_PROBLEMS, FILTER_SAMPLES, KEEP = 256, 8, Window(0.2, 0.8)
COMMON = (
    "threads=1",
    "checkpoint.every=0",
    "checkpoint.keep=1",
    "rollout.group_size=8",
    "rollout.problems_per_step=16",
    f"data.problems={TRAINING_PROBLEMS}",
    "optim.lr=3e-4",
    "optim.schedule=constant",
    "eval.n=8",
    "eval.k=[1,8]",
    "eval.greedy=false",
    "eval.variants=false",
)
DYNAMIC = ("algorithm=dapo", "algorithm.overlong=false", "algorithm.clip_high=0.2", "algorithm.aggregate=sequence_mean")
LEARNABILITY = 'curriculum={name="learnability",sharpness=2.0}'
MIXTURE = 'curriculum={name="mixture",by="terms",weights="learnability"}'
SHARP = 'curriculum={name="mixture",by="terms",weights="learnability",sharpness=2.0,explore=0.1}'
PROBED = ("rollout.probe=4", "rollout.max_refills=0")
LASTING = ("optim.lr=auto", "data.problems=10000")
SHAPES = f"{Path(__file__).parent / 'ablation_shapes.py'}"
POOL = f"task={Path(__file__).parent / 'ablation_pool.py'}:pool"
POOLED = (*LASTING, "rollout.group_size=16", "eval.n=4", "eval.k=[1,4]", "algorithm.aggregate=token_mean")  # the quickstart's
HALF = "rollout.problems_per_step=8"
REUSE = ("optim.epochs=2", "optim.minibatches=2")  # four optimizer steps a batch


@dataclass(frozen=True, slots=True)
class Setting:
    """The problems that are trained and measured on, and for how long. Runs start from a base that saw 2 to 6 digits.

    With `never` from the quickstart's own base instead, and that share of the training problems is out of its reach.
    """

    terms: tuple[int, int]
    steps: int
    every: int  # steps between two measurements
    held_out: int  # problems of a measurement
    never: float | None = None


WITHIN_REACH = Setting((2, 6), steps=40, every=10, held_out=64)
# Chains of seven digits and more are out of reach, those of two and three soon always solved: choosing can save something.
MIXED = Setting((2, 9), steps=60, every=10, held_out=64)
# The same from all problems of the task, with the quickstart's own learning rate, until little is gained any more.
LONG, LONG_CHOSEN = Setting((2, 9), steps=60, every=10, held_out=64), Setting((2, 9), steps=25, every=5, held_out=64)
# A mixed data set around the quickstart's own problems, measured often, for a target is a moment. Arms are compared by tokens.
MOST_OUT_OF_REACH, THIRD_OUT_OF_REACH = 0.6, 0.35  # as in filter_savings.py


def pooled(never: float, steps: int, every: int = 5) -> Setting:
    return Setting((4, 5), steps=steps, every=every, held_out=150, never=never)


CHOSEN = Setting((2, 9), steps=40, every=10, held_out=64)  # the same for arms that choose; compared by tokens, not by steps


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train: what it is called in tables, and its settings on top of the common ones, as on the command line."""

    name: str
    words: str
    overrides: tuple[str, ...]
    setting: Setting = WITHIN_REACH
    is_filtered: bool = False  # trains on the offline window of its base's pass rates, whose tokens and time count


def _shaped(name: str, words: str, shape: str, **arguments: float | list[int]) -> Arm:
    settings = "".join(f", {key}={value}" for key, value in arguments.items())
    return Arm(name, words, ("algorithm=grpo", f'shapes=[{{name="{shape}"{settings}}}]'))


ARMS = {
    arm.name: arm
    for arm in (
        Arm("grpo", "GRPO", ("algorithm=grpo",)),
        Arm("dr_grpo", "Dr.GRPO", ("algorithm=dr_grpo",)),
        Arm("token_mean", "GRPO, token mean", ("algorithm=grpo", "algorithm.aggregate=token_mean")),
        Arm("kl", "GRPO, KL 0.04", ("algorithm=grpo", "algorithm.kl_coef=0.04")),
        Arm("clip_symmetric", "clip 0.2 / 0.2", ("algorithm=grpo", *REUSE)),
        Arm("clip_higher", "clip 0.2 / 0.28", ("algorithm=grpo", "algorithm.clip_high=0.28", *REUSE)),
        Arm("mixed", "GRPO, all problems alike", ("algorithm=grpo",), MIXED),
        Arm("dynamic", "dynamic sampling", DYNAMIC, CHOSEN),
        Arm("window", "offline window", ("algorithm=grpo",), CHOSEN, is_filtered=True),
        Arm("dynamic_window", "both", DYNAMIC, CHOSEN, is_filtered=True),
        Arm("window_online", "window", ("algorithm=grpo", "curriculum=window"), CHOSEN),
        Arm("learnability", "learnability", ("algorithm=grpo", LEARNABILITY), CHOSEN),
        Arm("easy_to_hard", "easy_to_hard", ("algorithm=grpo", "curriculum=easy_to_hard"), CHOSEN),
        Arm("learnability_dynamic", "learnability and dynamic sampling", (*DYNAMIC, LEARNABILITY), CHOSEN),
        Arm("long", "GRPO, all problems alike", ("algorithm=grpo", *LASTING), LONG),
        Arm("long_mixture_probe", "mixture and probes", ("algorithm=grpo", MIXTURE, *PROBED, *LASTING), LONG),
        Arm("long_mixture_dynamic", "mixture and dynamic sampling", (*DYNAMIC, MIXTURE, *LASTING), LONG_CHOSEN),
        Arm("pool", "GRPO, all problems alike", POOLED, pooled(MOST_OUT_OF_REACH, 140)),
        Arm("pool_half", "GRPO, half the problems a step", (*POOLED, HALF), pooled(MOST_OUT_OF_REACH, 170, every=10)),
        Arm("pool_dynamic", "mixture and dynamic sampling", (*DYNAMIC, *POOLED, SHARP), pooled(MOST_OUT_OF_REACH, 50)),
        Arm("pool_probe", "mixture and probes", (*POOLED, SHARP, *PROBED), pooled(MOST_OUT_OF_REACH, 110)),
        Arm("third", "GRPO, all problems alike", POOLED, pooled(THIRD_OUT_OF_REACH, 110)),
        Arm("third_dynamic", "mixture and dynamic sampling", (*DYNAMIC, *POOLED, SHARP), pooled(THIRD_OUT_OF_REACH, 45)),
        Arm("third_probe", "mixture and probes", (*POOLED, SHARP, *PROBED), pooled(THIRD_OUT_OF_REACH, 80)),
        _shaped("kimi", "kimi_length, weight 0.5", "kimi_length", weight=0.5),
        _shaped("cosine", "cosine_length, limit 64", "cosine_length"),
        _shaped("overlong", "overlong_penalty, 16 to 40", "overlong_penalty", max_tokens=40, buffer=24),
        _shaped("lcpo_max", "lcpo_max, target 20", f"{SHAPES}:most", target=20, alpha=0.02),
        _shaped("token_cost", "token_cost, 0.01 a token", "token_cost", alpha=0.01),
        _shaped("lcpo_exact", "lcpo_exact, target 20", f"{SHAPES}:exact", target=20, alpha=0.02),
        _shaped("growing", "growing_limit, 24 to 48", "growing_limit", limits=[24, 32, 40, 48], stage_steps=10, buffer=16),
    )
}
# The claim about `pool`, as it was written down before its runs: the highest of the targets that plain GRPO reaches with all five
# seeds takes each of the two arms that choose at most 0.6 times its tokens (median of five seeds). `third` is reported beside it.
COMPARISONS = (
    Comparison(
        "dr_grpo",
        "Dr.GRPO against GRPO",
        ("grpo", "dr_grpo"),
        curve="wrong_tokens",
        metrics=("wrong_tokens", "mean wrong_tokens", "tokens", "mean pass@1"),
    ),
    Comparison(
        "aggregation",
        "Token mean against sequence mean",
        ("grpo", "token_mean"),
        curve="pass@1",
        metrics=("pass@1", "mean pass@1", "pass@8", "tokens", "entropy"),
    ),
    Comparison(
        "clip",
        "Clip-higher against symmetric clipping",
        ("clip_symmetric", "clip_higher"),
        curve="entropy",
        metrics=("entropy", "pass@8", "mean pass@8", "pass@1", "clip_share"),
    ),
    Comparison(
        "kl", "KL against none", ("grpo", "kl"), curve="entropy", metrics=("pass@1", "mean pass@1", "pass@8", "entropy", "tokens")
    ),
    Comparison(
        "sampling",
        "Dynamic sampling and the offline window",
        ("mixed", "dynamic", "window", "dynamic_window"),
        curve="pass@1",
        over="sampled_tokens",
        metrics=("to_target_tokens", "budget pass@1", "at budget pass@1"),
    ),
    Comparison(
        "curricula",
        "Curricula against uniform draws",
        ("mixed", "window_online", "learnability", "easy_to_hard"),
        curve="pass@1",
        over="sampled_tokens",
        metrics=("to_target_tokens", "budget pass@1", "at budget pass@1"),
    ),
    Comparison(
        "headline",
        "Curriculum and dynamic sampling against plain GRPO",
        ("mixed", "learnability_dynamic"),
        curve="pass@1",
        over="sampled_tokens",
        metrics=("to_target_tokens", "to_target_s", "budget pass@1", "at budget pass@1"),
    ),
    Comparison(
        "long",
        "A mixture by difficulty and dynamic sampling against plain GRPO",
        ("long", "long_mixture_dynamic", "long_mixture_probe"),
        curve="pass@1",
        over="sampled_tokens",
        metrics=(
            *("to_target_tokens", "to_15_tokens", "to_20_tokens", "to_0.30_tokens", "to_0.35_tokens", "to_0.40_tokens"),
            *("budget pass@1", "at budget pass@1"),
        ),
    ),
    *(
        Comparison(
            name,
            f"A mixture by difficulty against plain GRPO, {never:.0%} of the problems out of reach",
            arms,
            curve="pass@1",
            over="sampled_tokens",
            metrics=tuple(f"to_{value}_twice_tokens" for value in ("0.70", "0.80", "0.85", "0.90")),
        )
        for name, never, arms in (
            ("pool", MOST_OUT_OF_REACH, ("pool", "pool_dynamic", "pool_probe", "pool_half")),
            ("third", THIRD_OUT_OF_REACH, ("third", "third_dynamic", "third_probe")),
        )
    ),
    Comparison(
        "length",
        "Length penalties",
        ("grpo", "kimi", "cosine", "overlong", "lcpo_max", "token_cost", "lcpo_exact", "growing"),
        curve="pass@1",
        over="tokens",
        metrics=("tokens", "pass@1", "mean pass@1"),
    ),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One run to make. `steps` None: as the arm's setting says."""

    arm: Arm
    seed: int
    work: Path
    steps: int | None = None

    @property
    def folder(self) -> Path:
        return self.work / "runs" / self.arm.name / str(self.seed)

    @property
    def base(self) -> Path:
        return self.work / ("base" if self.arm.setting.never is None else "base-quickstart") / str(self.seed)

    @property
    def pass_rates(self) -> Path:
        """What the offline filter found about the base; its cost lies beside it."""
        return self.work / "pass_rates" / f"{self.seed}.jsonl"


def make(job: Job) -> str:
    """Train one arm from its base, which is made first where it is not there; a finished run is left alone."""
    started = time.perf_counter()
    own = BASE if job.arm.setting.never is None else BASE_OF_QUICKSTART
    train_or_resume(load_recipe(CHAINS / "base.toml", [*own, f"out={job.base}", f"seed={job.seed}"]))
    if job.arm.is_filtered:
        measure_pass_rates(job)
    train_or_resume(recipe_of(job))
    return f"{job.arm.name} {job.seed}: {time.perf_counter() - started:.0f} s"


def recipe_of(job: Job) -> Recipe:
    setting = job.arm.setting
    own = [f"task_args={{terms={list(setting.terms)}}}"]
    given = [
        *COMMON,
        *(own if setting.never is None else (POOL, f"task_args={{never={setting.never}}}")),
        f"model={job.base}",
        f"out={job.folder}",
        f"seed={job.seed}",
        f"steps={job.steps or setting.steps}",
        f"eval.every={setting.every}",
        f"eval.problems={setting.held_out}",
    ]
    if job.arm.is_filtered:
        given += [f"data.pass_rates={job.pass_rates}", f"data.keep=[{KEEP.low},{KEEP.high}]"]
    return load_recipe(CHAINS / "quickstart.toml", [*given, *job.arm.overrides])


def measure_pass_rates(job: Job) -> None:
    """The offline filter on the base, once; what it cost is written last, so that it says that the filter is finished."""
    cost = cost_file(job.pass_rates)
    if cost.exists():
        return
    started = time.perf_counter()
    recipe = recipe_of(job)
    subject = Subject(model=recipe.model, task=recipe.task, task_args=recipe.task_args)
    job.pass_rates.parent.mkdir(parents=True, exist_ok=True)
    found = filter_task(
        FilterRequest(subject, n=FILTER_SAMPLES, keep=KEEP, limit=TRAINING_PROBLEMS, seed=job.seed, out=job.pass_rates)
    )
    spent = {
        "tokens": round(sum(rate.n * rate.mean_tokens for rate in found.rates.by_id.values())),
        "wall_s": time.perf_counter() - started,
        "kept": len(found.rates.kept(KEEP)),
    }
    cost.write_text(json.dumps(spent) + "\n", encoding="utf-8")


def cost_file(pass_rates: Path) -> Path:
    return pass_rates.with_suffix(".cost.json")


def jobs(
    comparisons: Sequence[Comparison], work: Path, seeds: Sequence[int], steps: int | None, arms: Sequence[str] = ()
) -> Iterator[Job]:
    """Every run once, comparison by comparison, the arms of a seed one after the other, so that they meet the same machine."""
    seen: set[tuple[str, int]] = set()
    for comparison in comparisons:
        for seed in seeds:
            for name in comparison.arms:
                if (name, seed) not in seen and (not arms or name in arms):
                    seen.add((name, seed))
                    yield Job(ARMS[name], seed, work, steps)


def finished(work: Path) -> dict[str, list[Series]]:
    """The finished runs below `work`, arm by arm, in the order of their seeds."""
    found: dict[str, list[Series]] = {}
    for name, arm in ARMS.items():
        folders = sorted((path.parent for path in (work / "runs" / name).glob("*/summary.json")), key=lambda path: int(path.name))
        found[name] = []
        for folder in folders:
            job = Job(arm, int(folder.name), work)
            cost = cost_file(job.pass_rates) if arm.is_filtered else None
            found[name].append(read_series(folder, seed=job.seed, cost=cost))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the runs; default: a temporary one")
    parser.add_argument("--from", type=Path, dest="rebuild", metavar="WORK", help="train nothing, read the finished runs there")
    parser.add_argument("--docs", type=Path, help="write ablations.md and its plots there; default: print the tables")
    parser.add_argument("--only", help=f"comparisons, with commas between: {', '.join(c.name for c in COMPARISONS)}")
    parser.add_argument("--arms", help="train these arms alone, with commas between; default: all of the comparisons")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 305)))
    parser.add_argument("--steps", type=int, help="of every run; default: 40, or 60 where the problems are of mixed difficulty")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    args = parser.parse_args()
    chosen = [c for c in COMPARISONS if args.only is None or c.name in args.only.split(",")]
    if args.only is not None and len(chosen) != len(set(args.only.split(","))):
        parser.error(f"--only {args.only}: known are {', '.join(c.name for c in COMPARISONS)}")
    if unknown := set(args.arms.split(",") if args.arms else ()) - {name for c in chosen for name in c.arms}:
        parser.error(f"--arms {args.arms}: {', '.join(sorted(unknown))} is in none of {', '.join(c.name for c in chosen)}")
    with tempfile.TemporaryDirectory() as scratch:
        work = args.rebuild or args.work or Path(scratch)
        if args.rebuild is None:
            arms = args.arms.split(",") if args.arms else []
            planned = list(jobs(chosen, work.resolve(), args.seeds, args.steps, arms))
            with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as executor:
                for line in executor.map(make, planned):
                    print(line, flush=True)
        write_pages(chosen, {name: arm.words for name, arm in ARMS.items()}, finished(work), args.docs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
