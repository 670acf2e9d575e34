"""The time of a step that `rlvr train --dry-run` estimates, against real steps on the CPU.

    python benchmarks/time_estimate.py [--shape tiny] [--shape deep] [--threads 1] [--steps 4]

The models have random weights and never end a response, so that every rollout takes all the tokens that it may: that is what is
estimated. Both sides of a model run one after the other, on equally many threads; of the real steps the median counts, without
the first. The ratio is estimate over measurement: 1 is exact. What the estimate leaves out (grading, files, the weights' way into
the engine) is in the whole step.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # must be set before torch is imported

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from length_models import ALPHABET, CONSTANT, NEVER

FACTOR = 2.0  # how far the estimate of a whole step may be off
GRADER = """
from rlvr import Problem, Rollout, Verdict, verifier

@verifier("by_turns", isolated=False)
def grade(problem: Problem, rollout: Rollout) -> Verdict:
    return Verdict.partial(rollout.sample_index % 2 / 2)  # a group of equal rewards would not be trained on
"""
PARTS = ("generation", "update", "step")


@dataclass(frozen=True, slots=True)
class Case:
    """A Qwen3, and what a step asks of it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    prompts: int
    group: int
    tokens: int  # of each response


CASES = {
    "tiny": Case(128, 352, 6, 4, 2, 32, 4096, prompts=8, group=8, tokens=128),
    "wide": Case(896, 2432, 4, 14, 2, 64, 32768, prompts=2, group=8, tokens=48),
    "deep": Case(256, 704, 16, 4, 2, 64, 16384, prompts=4, group=8, tokens=96),
    "135M": Case(576, 1536, 30, 9, 3, 64, 49152, prompts=2, group=8, tokens=64),
}


def write(case: Case, folder: Path) -> Path:
    """The recipe, with its model and its problems beside it."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    from rlvr.trainers.model.tiny import tiny_tokenizer

    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer(ALPHABET)
    config = Qwen3Config(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():  # a channel that is the same for all tokens, of which the end token's logit is made
        model.model.embed_tokens.weight[:, CONSTANT] = 1.0
        model.model.embed_tokens.weight[tokenizer.eos_token_id, CONSTANT] = NEVER
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[CONSTANT] = 0.0
            layer.mlp.down_proj.weight[CONSTANT] = 0.0
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    problems = [{"id": f"p{i}", "prompt": f"{100 + i}+{900 - i}=?", "answer": "0", "split": "train"} for i in range(64)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (folder / "grader.py").write_text(GRADER)
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"""
model = "{folder}/model"
task = "{folder}/problems.jsonl"
template = "plain"
load = {{precision = "fp32", device = "cpu"}}
verifiers = [{{name = "{folder}/grader.py:grade"}}]
rollout = {{group_size = {case.group}, problems_per_step = {case.prompts}, max_tokens = {case.tokens}}}
algorithm = {{name = "grpo"}}
optim = {{lr = 1e-6, tokens_per_microbatch = 2048}}
eval = {{problems = 0}}
checkpoint = {{every = 10000}}
"""
    )
    return recipe


def estimated(recipe: Path, threads: int) -> dict[str, float]:
    """Seconds by part, as the command line says them."""
    found = json.loads(command(["train", str(recipe), "--dry-run", "--json"], threads))["estimate"]["time"]
    return {"generation": found["generation_s"], "update": found["update_s"], "step": found["total_s"]}


def measured(recipe: Path, case: Case, threads: int, steps: int) -> dict[str, float]:
    """The same of real steps."""
    out = recipe.parent / "run"
    command(["train", str(recipe), f"out={out}", f"steps={steps + 1}", f"threads={threads}"], threads)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()][1:]
    idle = [line["step"] for line in lines if line["tokens_mean"] != case.tokens or line["groups_without_signal"]]
    if idle or len(lines) != steps:
        raise SystemExit(f"{len(lines)} steps were measured; in {idle} some responses were cut short, or not trained on")
    names = {"generation": "time_generate_s", "update": "time_update_s", "step": "time_step_s"}
    return {part: statistics.median(line[name] for line in lines) for part, name in names.items()}


def command(words: list[str], threads: int) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-m", "rlvr", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", action="append", choices=list(CASES), help="several may be given; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="that are measured, after one that is not")
    args = parser.parse_args()
    ratios: dict[str, Any] = {}
    for name in args.shape or CASES:
        with tempfile.TemporaryDirectory() as folder:
            recipe = write(CASES[name], Path(folder))
            guess = estimated(recipe, args.threads)
            found = measured(recipe, CASES[name], args.threads, args.steps)
        for part in PARTS:
            ratios[f"{name}, {part}"] = ratio = guess[part] / found[part]
            print(
                f"{name:<6} {part:<12} estimate {guess[part]:>7.3f} s   measured {found[part]:>7.3f} s   ratio {ratio:.2f}",
                flush=True,
            )
    print(json.dumps({"benchmark": "time_estimate", "ratios": ratios, "goal": f"steps within a factor of {FACTOR:g}"}))
    steps = [ratio for name, ratio in ratios.items() if name.endswith(" step")]
    return 0 if all(1 / FACTOR <= ratio <= FACTOR for ratio in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
