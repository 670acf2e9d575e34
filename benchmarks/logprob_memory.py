"""Log-probabilities of a large vocabulary and their gradient: in chunks, against the whole matrix of logits.

    python benchmarks/logprob_memory.py [--tokens 4096] [--hidden 896] [--vocabulary 151936] [--rounds 3] [--threads 2]

The whole matrix is what a trainer does without care: logits, log-softmax, gather, backward. Peak memory is that of a process of
its own for each side, above what it held before; time is of forward and backward. Both sides must agree on the values.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROWS = (1 << 26) // 2  # elements of a chunk, as in `rlvr.trainers.model.policy`


def run(side: str, tokens: int, hidden: int, vocabulary: int, threads: int) -> dict[str, float]:
    import torch

    from rlvr.trainers.model.head import chunked_logprobs

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    states = torch.randn(tokens, hidden).requires_grad_()
    weight = torch.empty(vocabulary, hidden).normal_(std=0.05).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,))
    states[:1] @ weight[:8].t()  # the first product sets up its threads
    before = _peak_mb()
    started = time.perf_counter()
    if side == "whole":
        logprobs = (states @ weight.t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    else:
        rows = max(1, ROWS // vocabulary)
        logprobs, _ = chunked_logprobs(states, weight, targets, 1.0, rows=rows, entropy=False, dtype=torch.float32)
    logprobs.mean().backward()
    elapsed = time.perf_counter() - started
    peak = _peak_mb() - before
    assert weight.grad is not None
    checksum = float(logprobs.double().mean()) + 1e4 * float(weight.grad.norm())
    return {"peak_mb": peak, "seconds": elapsed, "checksum": checksum}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", choices=["whole", "chunks"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = (args.tokens, args.hidden, args.vocabulary, args.threads)
    if args.side:
        print(json.dumps(run(args.side, *shape)))
        return 0
    found: dict[str, list[dict[str, float]]] = {"whole": [], "chunks": []}
    for index in range(args.rounds):
        for side in list(found) if index % 2 == 0 else list(found)[::-1]:
            command = [sys.executable, __file__, "--side", side, *(f"--{k}={getattr(args, k)}" for k in ("tokens", "hidden"))]
            command += [f"--vocabulary={args.vocabulary}", f"--threads={args.threads}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[side].append(json.loads(done.stdout))
    sums = [one["checksum"] for side in found.values() for one in side]
    if max(sums) - min(sums) > 1e-4 * abs(sums[0]):
        raise SystemExit(f"the sides disagree: {sums}")
    print(f"{args.tokens} tokens, hidden {args.hidden}, vocabulary {args.vocabulary}, {args.threads} threads")
    for side, rounds in found.items():
        peak, seconds = (statistics.median(one[key] for one in rounds) for key in ("peak_mb", "seconds"))
        print(f"{side:<8} peak {peak:>8.0f} MB above the inputs   {seconds:>7.2f} s")
    for key, name in (("peak_mb", "memory"), ("seconds", "time")):
        ratio = statistics.median(c[key] / w[key] for c, w in zip(found["chunks"], found["whole"], strict=True))
        print(f"{name:<8} {ratio:.2f}x of the whole matrix")
    return 0


if __name__ == "__main__":
    sys.exit(main())
