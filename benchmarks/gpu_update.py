"""The update on a GPU: which share of its arithmetic is reached (MFU), and how much memory it takes against the estimate.

    python benchmarks/gpu_update.py [--shape qwen3-0.6b] [--tokens 16384] [--length 2048] [--checkpointing] [--steps 5]

Random weights of a real shape in bf16 with float32 masters, gradients and moments; one micro-batch of sequences of one length is
a step: forward, backward, clipping and AdamW. MFU counts the arithmetic of a forward and a backward pass (three forward passes;
what checkpointing computes again does not count) over the peak of the data sheet. Goal: 40 % at 16,384 tokens. Without
a GPU a tiny model runs on the CPU, whose measured speed is the peak; no goal holds there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from gpu_shapes import Place, add_arguments, build, chosen, place

GOAL = 0.40


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--tokens", type=int, default=16_384, help="of a step (default 16384; small: at most 512)")
    parser.add_argument("--length", type=int, default=2048, help="of a sequence (default 2048; small: at most 64)")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="that are measured, after two that are not")
    args = parser.parse_args(words)
    here = place(args)
    if here.is_small:
        args.tokens, args.length = min(args.tokens, 512), min(args.length, 64)
    found = measure(args, here)
    print(json.dumps(found))
    if here.is_small or found["mfu"] is None:
        return 0
    return 0 if found["mfu"] >= GOAL else 1


def measure(args: argparse.Namespace, here: Place) -> dict[str, float | str | bool | None]:
    import torch

    from rlvr.config import OptimConfig
    from rlvr.trainers.model.distributed import World
    from rlvr.trainers.model.policy import Policy
    from rlvr.trainers.model.update import Updater
    from rlvr.trainers.sizing.memory import Workload, estimate_memory
    from rlvr.trainers.sizing.speed import forward_flops

    shape = chosen(args, here)
    rows = max(1, args.tokens // args.length)
    if here.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(here.device)
    policy = Policy(build(shape, here, args.length), autocast=here.autocast, checkpoint_layers=args.checkpointing)
    updater = Updater(policy, OptimConfig(lr=1e-6), steps=args.steps + 2, world=World())
    torch.manual_seed(1)
    ids = torch.randint(0, shape.vocabulary, (rows, args.length))
    ids[:, 0] = torch.arange(rows) % shape.vocabulary  # no two sequences begin alike, or they would share work
    lengths, mask = torch.full((rows,), args.length), torch.ones(rows, args.length, dtype=torch.bool)
    mask[:, 0] = False

    def loss() -> torch.Tensor:
        return -policy.score(ids, lengths, mask, entropy=True).logprobs.sum() / mask.sum()

    seconds = []
    for step in range(args.steps + 2):
        here.wait()
        began = time.perf_counter()
        updater.step([loss], step)
        here.wait()
        seconds.append(time.perf_counter() - began)
    tokens, median = rows * args.length, statistics.median(seconds[2:])
    flops = 3 * forward_flops(shape, tokens, args.length)
    mfu = flops / median / here.hardware.flops if here.hardware.flops else None
    work = Workload(
        tokens=tokens,
        trained=shape.parameters,
        rows=1,
        length=1,
        prefilled=1,
        element=2 if here.precision == "bf16" else 4,
        is_checkpointed=args.checkpointing,
        is_native=False,
    )
    estimate = estimate_memory(shape, work).update
    peak = torch.cuda.max_memory_allocated(here.device) if here.device.type == "cuda" else None
    print(
        f"{shape.parameters / 1e6:.0f}M parameters in {here.precision} on {here.hardware.name}, {policy.layout(args.length)} rows"
    )
    print(f"{tokens} tokens in {rows} sequences: {median:.3f} s a step, {tokens / median:,.0f} tokens/s")
    if mfu is not None:
        print(f"{flops / median / 1e12:.2f} TFLOP/s, {mfu:.1%} of the peak (goal {GOAL:.0%} on a GPU)")
    print(f"memory: estimate {estimate / 1e9:.2f} GB" + ("" if peak is None else f", allocated at the peak {peak / 1e9:.2f} GB"))
    return {
        "benchmark": "gpu_update",
        "device": here.hardware.name,
        "is_small": here.is_small,
        "parameters": shape.parameters,
        "tokens": tokens,
        "seconds": median,
        "mfu": mfu,
        "goal": GOAL,
        "memory_estimate": estimate,
        "memory_peak": peak,
    }


if __name__ == "__main__":
    sys.exit(main())
