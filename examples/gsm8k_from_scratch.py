"""The whole path on real data without downloading a model: tokenizer, model, warm start, validate, filter, train, evaluate.

GSM8K's training problems are read from RLVR_DATA (or from the hub). A tokenizer of 2,048 tokens is trained on them, a
Qwen3 model of a few million parameters is made and warmed up on the gold rationales, problems are filtered, and GRPO
trains on them. Nobody should expect a good score of such a model: what counts is that every step is the one that a real
model takes. It solves next to nothing, so the filter's window begins at 0 here (0.2:0.8 is the default), and a small reward
for a boxed answer gives it something to learn. Every command is printed before it runs.

    python examples/gsm8k_from_scratch.py runs/gsm8k-scratch [--warm-steps 600] [--steps 20]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rlvr.envs.tasks import load_task

VOCABULARY, HIDDEN, LAYERS, CONTEXT = 2048, 192, 6, 768


def make_model(folder: Path) -> None:
    """A byte-level BPE tokenizer trained on the task's own text, and a random model that fits it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    task = load_task("gsm8k")
    count = len(task.problems("train"))
    shown = [task.demonstration("train", index, seed=0) for index in range(count)]
    tokenizer = Tokenizer(models.BPE())
    # Digits stand alone, so that numbers are spelled the same way everywhere.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{d.problem.prompt[-1].content}\n{d.response}" for d in shown), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(fast),
            hidden_size=HIDDEN,
            intermediate_size=3 * HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def recipe(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def rlvr(*arguments: str) -> None:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, "-m", "rlvr", *arguments], env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"exit code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--warm-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--filtered", type=int, default=400, help="problems that the filter looks at")
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)

    make_model(out / "random")
    rlvr("tasks", "validate", "gsm8k")
    warm = f'kind = "sft"\nmodel = "{out}/random"\ntask = "gsm8k"\nsteps = {args.warm_steps}\nsequences_per_step = 16\n'
    warm += '[optim]\nlr = 2e-3\nschedule = "cosine"\nwarmup_steps = 50\nweight_decay = 0.1\n'
    rlvr("train", recipe(out / "warm.toml", warm), f"out={out}/warm", f"threads={args.threads}")
    rates = f"{out}/pass-rates.jsonl"
    rlvr("filter", "gsm8k", "--model", f"{out}/warm", "-n", "16", "--keep", "0:0.95", "--limit", str(args.filtered),
         "--max-tokens", "192", "--out", rates)  # fmt: skip
    train = f'kind = "rl"\nmodel = "{out}/warm"\ntask = "gsm8k"\nsteps = {args.steps}\n'
    train += '[rollout]\ngroup_size = 16\nproblems_per_step = 8\nmax_tokens = 192\n[algorithm]\nname = "grpo"\n'
    train += f'[data]\npass_rates = "{rates}"\nkeep = [0, 0.95]\n[eval]\nproblems = 40\nn = 4\nk = [1, 4]\n'
    train += '[[verifiers]]\nname = "math"\n'
    train += '[[verifiers]]\nname = "format"\nweight = 0.1\nargs = {family = "boxed", mode = "lenient"}\n'
    rlvr("train", recipe(out / "train.toml", train), f"out={out}/run", f"threads={args.threads}")
    rlvr(*f"eval {out}/run --task gsm8k --split test --problems 40 -n 4 -k 1,4 --max-tokens 192".split())
    rlvr("view", f"{out}/run", "--limit", "2")


if __name__ == "__main__":
    main()
