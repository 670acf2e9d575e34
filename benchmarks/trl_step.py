"""One GRPO step on the CPU, against TRL's GRPOTrainer: completions per second and peak memory.

    python benchmarks/trl_step.py [--rounds 3] [--steps 6] [--prompts 8] [--group 8] [--threads 2] [--json]

Both sides get the same 0.8M-parameter Qwen3 with random weights, the same character tokenizer, prompts, reward function,
lengths (at most 128 new tokens) and settings (GRPO, group mean and std, clip 0.2, no KL, AdamW at a constant 1e-6, one
update of 64 completions a step, fp32). Each side runs in a process of its own, in turns; a step is timed from the end of
the one before it to its own end, so generation, reward, update and bookkeeping all count. The first step is not counted.

Three lengths, which are a property of the model's weights (`length_models.py`): `random` (each token ends a response as likely as
it is any other character, what random weights do by themselves: about half of the limit on average), `skewed` (log-normal with a
mean of a quarter of the limit: most are short, a few run to the limit) and `full` (never: 128 tokens each).

Each side may use `--threads` cores: ours with as many processes that generate with one thread each (`engine.args.processes`), and
an update with that many threads; TRL with that many threads for both. Memory is the largest sum over the side's processes of what
each has for itself and its share of what they have in common (PSS), looked at four times a second.

Completions are counted per second of wall time and per second of CPU time (the fairer one on a busy machine), both over the
median step; a ratio is the median over rounds of ours / TRL's, each of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from length_models import ALPHABET, geometric, log_normal, mean_length, write_model

from rlvr import Problem, Rollout, Verdict, verifier

MAX_TOKENS = 128
LENGTHS = {  # how likely a response ends at each token
    "random": geometric(1 / (len(ALPHABET) + 2), MAX_TOKENS),
    "skewed": log_normal(MAX_TOKENS / 4, MAX_TOKENS),
    "full": geometric(0.0, MAX_TOKENS),
}
LOOK_S = 0.25


def share_of_digits(text: str) -> float:
    """The reward of both sides: how much of the response is digits."""
    return sum(character.isdigit() for character in text) / max(1, len(text))


@verifier("share_of_digits", isolated=False)
def grade(problem: Problem, rollout: Rollout) -> Verdict:
    """The reward function as a verifier; nothing but counting characters, so it runs in the trainer's process."""
    return Verdict.partial(share_of_digits(rollout.response))


def write_inputs(folder: Path, prompts: int) -> None:
    """The model of each length, and the prompts."""
    import random

    numbers = random.Random(0)
    rows = [
        f"{numbers.randrange(100, 999)}+{numbers.randrange(100, 999)}-{numbers.randrange(100, 999)}=?"
        for _ in range(16 * prompts)
    ]
    lines = [{"id": f"p{i}", "prompt": row, "answer": "0", "split": "train"} for i, row in enumerate(rows)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, ending in LENGTHS.items():
        found = write_model(folder / name, ending)
        if abs(found / mean_length(ending) - 1) > 0.03:
            raise SystemExit(f"the model for {name} lengths has a mean of {found:.1f} tokens, not {mean_length(ending):.1f}")


class Clock:
    """Wall and CPU seconds between the ends of steps."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def report(self, mean_tokens: float, rollouts: int) -> dict[str, float]:
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        wall = statistics.median(after[0] - before[0] for before, after in pairs)
        cpu = statistics.median(after[1] - before[1] for before, after in pairs)
        return {
            "per_s": rollouts / wall,
            "per_cpu_s": rollouts / cpu,
            "mean_tokens": mean_tokens,
        }


def run_ours(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    import rlvr
    from rlvr.evaluation.observer import SilentObserver

    clock = Clock()

    class Watch(SilentObserver):
        def advance(self, n: int = 1, **fields: float) -> None:
            if n and fields:
                clock.mark()

    out = folder / f"ours-{os.getpid()}"
    rlvr.train(
        observer=Watch(),
        model=str(folder / args.lengths),
        task=str(folder / "prompts.jsonl"),
        template="plain",
        out=str(out),
        steps=args.steps + 1,
        seed=args.seed,
        threads=args.threads,
        load={"precision": "fp32", "device": "cpu"},
        verifiers=[{"name": f"{Path(__file__).resolve()}:grade"}],
        rollout=rlvr.RolloutConfig(group_size=args.group, problems_per_step=args.prompts, max_tokens=MAX_TOKENS),
        engine={"args": {"processes": args.threads}},
        algorithm={"name": "grpo"},
        optim=rlvr.OptimConfig(lr=1e-6, tokens_per_microbatch=4096),
        eval={"problems": 0},
        checkpoint={"every": 10_000},
    )
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return clock.report(statistics.mean(line["tokens_mean"] for line in metrics), args.prompts * args.group)


def run_trl(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(args.threads)
    clock = Clock()
    lengths: list[int] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *unused: Any, **also_unused: Any) -> None:
            clock.mark()

    def reward(completions: list[str], completion_ids: list[list[int]], **unused: Any) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [share_of_digits(text) for text in completions]

    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    completions = args.prompts * args.group
    config = GRPOConfig(
        output_dir=str(folder / f"trl-{os.getpid()}"),
        max_steps=args.steps + 1,
        per_device_train_batch_size=completions,
        generation_batch_size=completions,
        num_generations=args.group,
        gradient_accumulation_steps=1,
        num_iterations=1,
        max_completion_length=MAX_TOKENS,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.2,
        loss_type="grpo",
        scale_rewards="group",
        mask_truncated_completions=False,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        use_cpu=True,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        use_vllm=False,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        seed=args.seed,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / args.lengths, dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"] + "\n"} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(folder / args.lengths),
        callbacks=[Watch()],
    )
    trainer.train()
    return clock.report(statistics.mean(lengths), completions)


def measure(side: str, lengths: str, folder: Path, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--lengths", lengths, "--folder", str(folder), "--seed", str(seed)]
    command += [f"--{name}={getattr(args, name)}" for name in ("steps", "prompts", "group", "threads")]
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(args.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        memory = Memory(process.pid)
        output, errors = process.communicate()
        peak_mb = memory.stop()
    if process.returncode:
        raise SystemExit(f"{side} failed:\n{errors[-4000:]}")
    return {**json.loads(output.splitlines()[-1]), "peak_mb": peak_mb}


class Memory:
    """Watches how much memory a process and those that it started use together, at the most."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak_kb = pid, 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """MB."""
        self._is_over.set()
        self._thread.join()
        return self._peak_kb / 1024

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_S):
            self._peak_kb = max(self._peak_kb, sum(map(_share_kb, _family(self._pid))))


def _family(pid: int) -> list[int]:
    """A process and those that it started, with all of theirs. /proc lists them by the thread that started them."""
    try:
        children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _share_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def compare(lengths: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    rounds: list[dict[str, dict[str, float]]] = []
    for index in range(args.rounds):
        sides = ("ours", "trl") if index % 2 == 0 else ("trl", "ours")
        rounds.append({side: measure(side, lengths, folder, args, seed=index) for side in sides})
    medians = {
        side: {key: statistics.median(one[side][key] for one in rounds) for key in rounds[0][side]} for side in ("ours", "trl")
    }
    ratios = {
        key: statistics.median(one["ours"][key] / one["trl"][key] for one in rounds) for key in ("per_s", "per_cpu_s", "peak_mb")
    }
    return {"lengths": lengths, **medians, "ratio": ratios}


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['lengths']} lengths", flush=True)
    print(f"{'':<6} {'completions/s':>14} {'completions/CPU-s':>18} {'peak MB':>8} {'mean tokens':>12}")
    for side in ("ours", "trl"):
        r = result[side]
        print(f"{side:<6} {r['per_s']:>14.1f} {r['per_cpu_s']:>18.1f} {r['peak_mb']:>8.0f} {r['mean_tokens']:>12.1f}")
    ratio = result["ratio"]
    print(f"ratio  {ratio['per_s']:>13.2f}x {ratio['per_cpu_s']:>17.2f}x {ratio['peak_mb']:>7.2f}x")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="counted steps of each run")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", choices=LENGTHS, help="one setting only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        result = run_ours(args.folder, args) if args.side == "ours" else run_trl(args.folder, args)
        print(json.dumps(result))
        return 0
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), args.prompts)
        for lengths in [args.lengths] if args.lengths else LENGTHS:
            results.append(compare(lengths, Path(folder), args))
            if not args.json:
                show(results[-1])
    if args.json:
        print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
