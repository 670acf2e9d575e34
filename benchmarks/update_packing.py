"""Forward and backward of one GRPO update on real tokens, packed, against the padded loop, on the same rollouts.

The padded side is what trainers commonly do: all sequences padded to the longest, one forward pass, log-softmax over every
position, loss masked afterwards. Both sides run in one process, in turn; CPU seconds decide, because machines are shared.

    python benchmarks/update_packing.py [--repeats 7] [--threads 1]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.seeding import rng
from rlvr.trainers.model.policy import Policy

SEQUENCES, PROMPT, LONGEST, MEAN_COMPLETION = 64, 12, 140, 49


def model() -> Qwen3ForCausalLM:
    """0.8M parameters, random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def lengths() -> list[int]:
    """Skewed as sampled answers are: log-normal, the longest at the limit."""
    draw = rng("update packing")
    found = [
        PROMPT + min(LONGEST - PROMPT, max(4, round(draw.lognormvariate(0.0, 0.6) * MEAN_COMPLETION * 0.85)))
        for _ in range(SEQUENCES)
    ]
    found[0] = LONGEST
    return found


def padded(policy: Policy, input_ids: Tensor, sizes: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    attention = (torch.arange(input_ids.shape[1])[None] < sizes[:, None]).long()
    logits = policy.model(input_ids=input_ids, attention_mask=attention, use_cache=False).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return -(weights[:, 1:] * logprobs * mask[:, 1:]).sum()


def packed(policy: Policy, input_ids: Tensor, sizes: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    return -(weights * policy.score(input_ids, sizes, mask).logprobs).sum()


def cpu_seconds(loss: Callable[[], Tensor], parameters: list[torch.nn.Parameter]) -> float:
    for parameter in parameters:
        parameter.grad = None
    started = time.process_time()
    loss().backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    policy = Policy(model())
    parameters = policy.parameters()
    sizes = torch.tensor(lengths())
    columns = torch.arange(int(sizes.max()))[None]
    torch.manual_seed(1)
    input_ids = torch.randint(0, 512, (SEQUENCES, int(sizes.max()))).masked_fill(columns >= sizes[:, None], 0)
    mask = (columns >= PROMPT) & (columns < sizes[:, None])
    weights = torch.randn(SEQUENCES, 1) * mask / mask.sum()
    inputs = (input_ids, sizes, mask, weights)

    gradients = []
    for side in (padded, packed):
        cpu_seconds(lambda side=side: side(policy, *inputs), parameters)
        gradients.append(torch.cat([parameter.grad.reshape(-1) for parameter in parameters]))
    difference = ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item()

    times: dict[str, list[float]] = {"padded": [], "packed": []}
    for _ in range(args.repeats):
        times["padded"].append(cpu_seconds(lambda: padded(policy, *inputs), parameters))
        times["packed"].append(cpu_seconds(lambda: packed(policy, *inputs), parameters))
    real, total = int(sizes.sum()), input_ids.numel()
    medians = {side: statistics.median(values) for side, values in times.items()}
    millions = sum(p.numel() for p in parameters) / 1e6
    print(f"{millions:.2f}M parameters, {SEQUENCES} sequences, {real} real of {total} padded tokens, {args.threads} thread(s)")
    print(f"gradients differ by {difference:.1e} (relative)")
    for side, seconds in medians.items():
        print(f"{side}: {seconds:.3f} CPU s, {real / seconds:,.0f} real tokens per CPU second")
    ratio = statistics.median(a / b for a, b in zip(times["padded"], times["packed"], strict=True))
    print(json.dumps({"benchmark": "update_packing", "ratio": round(ratio, 2), "goal": 1.9, "gradient_difference": difference}))


if __name__ == "__main__":
    main()
