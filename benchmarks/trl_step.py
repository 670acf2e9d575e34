"""One GRPO step on the CPU, against TRL's GRPOTrainer: completions per second and peak memory.

    python benchmarks/trl_step.py [--rounds 3] [--steps 6] [--prompts 8] [--group 8] [--threads 2] [--json]

Both sides get the same 0.8M-parameter Qwen3 with random weights, the same character tokenizer, prompts, reward function,
lengths (at most 128 new tokens) and settings (GRPO, group mean and std, clip 0.2, no KL, AdamW at a constant 1e-6, one
update of 64 completions a step, fp32). Each side runs in a process of its own, in turns; a step is timed from the end of
the one before it to its own end, so generation, reward, update and bookkeeping all count. The first step is not counted.

Three lengths, by how likely the model is to end its response at each token, which is a constant of its weights: `random` (as
likely as any other token, what random weights do by themselves: about half of the limit on average), `skewed` (1/40: most are
short, a few run to the limit) and `full` (never: 128 tokens each).

Completions are counted per second of wall time and per second of CPU time (the fairer one on a busy machine), both over the
median step; a ratio is the median over rounds of ours / TRL's, each of the same round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlvr import Problem, Rollout, Verdict, verifier

MAX_TOKENS = 128
ALPHABET = "0123456789+-*=?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!()[]<> \n"
LENGTHS = {"random": 1 / (len(ALPHABET) + 2), "skewed": 1 / 40, "full": 0.0}  # probability of ending at each token
HIDDEN = 128


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
    for name, end_probability in LENGTHS.items():
        write_model(folder / name, end_probability)


def write_model(folder: Path, end_probability: float) -> None:
    """A random Qwen3 whose first hidden channel is a constant that only the logit of the end token reads."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    from rlvr.trainers.model.tiny import tiny_tokenizer

    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer(ALPHABET)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).float()
    with torch.no_grad():
        head = model.lm_head.weight
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        head[:, 0] = 0.0
        head[tokenizer.eos_token_id] = 0.0
        ids = torch.tensor([tokenizer.encode("123+456-789=?\n")])
        constant = model.model(ids).last_hidden_state[0, -1, 0]
        others = math.log(len(tokenizer))  # random logits are near 0, so the rest weighs about one each
        logit = math.log(end_probability / (1 - end_probability)) + others if end_probability else -50.0
        head[tokenizer.eos_token_id, 0] = logit / constant
        head[tokenizer.pad_token_id] = 0.0
        head[tokenizer.pad_token_id, 0] = -50.0 / constant  # padding is never sampled
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "per_s": rollouts / wall,
            "per_cpu_s": rollouts / cpu,
            "peak_mb": peak_kb / (1024 if sys.platform == "linux" else 1024**2),
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
        algorithm={"name": "grpo"},
        optim=rlvr.OptimConfig(lr=1e-6),
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
    clock, lengths = Clock(), []

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
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if answer.returncode:
        raise SystemExit(f"{side} failed:\n{answer.stderr[-4000:]}")
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return result


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
