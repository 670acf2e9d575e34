"""What `rlvr eval` adds to the time in which the engine generates and the verifiers grade: counting, storing, estimating.

A random model of task `chains` answers the task's problems; that is the time to compare with. Then the evaluation itself runs on
those rollouts, answered from memory: every sample counted, stored in full with its tokens and logprobs, and all estimates made.
CPU time of the process counts. The smaller the model, the harder: each of its tokens costs little. Goal: under 2 % at 12M
parameters, which is far smaller than what anybody evaluates.

    python benchmarks/eval_overhead.py [--problems 100] [-n 8] [--tokens 128]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # must be set before torch is imported

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rlvr.engines.subject import Subject, open_subject
from rlvr.evaluation.evaluate import SAMPLES, _report, _Store
from rlvr.evaluation.measure import measure
from rlvr.types import Group, Problem, Rollout, Sampling

GOAL = 0.02
SEED = 0


class Remembered:
    """Answers from what was drawn before, so that only the evaluation's own work is left."""

    def __init__(self, groups: list[Group]) -> None:
        self._groups = {group.problem.id: group for group in groups}

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: object) -> Rollout:
        return self._groups[problem.id].rollouts[sample_index]

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: object) -> Group:
        return self._groups[problem.id]


def checkpoint(folder: Path, size: int) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlvr.envs.tasks import load_task
    from rlvr.trainers.model.tiny import tiny_model

    tiny = load_task("chains").tiny
    assert tiny is not None
    _, tokenizer = tiny_model(tiny, seed=SEED)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=3 * size,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


async def run(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    subject = Subject(checkpoint(folder / "model", args.size), "chains", max_tokens=args.tokens)
    task = subject.open_task()
    problems, sampling = task.problems("test", limit=args.problems), subject.sampling(task)
    async with open_subject(subject, task, problems, sampling) as ready:
        await ready.runner.run_group(problems[0], args.n, sampling, "warm up", SEED)
        began = time.process_time()
        drawn = [ready.runner.run_group(problem, args.n, sampling, "evaluate", SEED) for problem in problems]
        groups = list(await asyncio.gather(*drawn))
        engine_s = time.process_time() - began
        about = {"model": subject.model, "task": task.name, **ready.provenance}
    tokens = sum(rollout.completion_tokens for group in groups for rollout in group.rollouts)
    k = tuple(size for size in (1, 4, 16, 64) if size <= args.n)
    began = time.process_time()
    with ExitStack() as stack:
        store = _Store(stack, folder / SAMPLES, about).of_seed(SEED)
        found = await measure(Remembered(groups), problems, n=args.n, k=k, sampling=sampling, store=store)
    _report([found], about, k, "").to_json()
    added_s = time.process_time() - began
    return {"tokens": tokens, "engine_s": engine_s, "added_s": added_s, "added_share": added_s / engine_s}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--size", type=int, default=512, help="hidden size; 512 gives 12M parameters, 128 gives 0.8M")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(args, Path(folder)))
    print(
        f"{args.problems} problems x {args.n} samples, {found['tokens']:,} tokens: engine and graders {found['engine_s']:.2f} s, "
        f"the evaluation adds {found['added_s']:.3f} s of CPU time ({found['added_share']:.2%}; goal: under {GOAL:.0%})"
    )
    print(json.dumps(found))
    return 0 if found["added_share"] < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
