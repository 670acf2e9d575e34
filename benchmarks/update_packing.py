"""Forward and backward of one GRPO update on real tokens, packed, against padded loops, on the same rollouts.

The padded side is what trainers commonly do: all sequences padded to the longest, one forward pass, log-softmax over every
position, loss masked afterwards. The sorted side pads less: micro-batches of sequences of similar length, each padded to its own
longest, with a budget of padded tokens; the best of several budgets counts. All sides run in one process, in turn; CPU seconds
decide, because machines are shared.

    python benchmarks/update_packing.py [--repeats 7] [--threads 1] [--shapes skewed,groups,even,long]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.seeding import rng
from rlvr.trainers.model.packing import microbatches
from rlvr.trainers.model.policy import Policy

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]

VOCABULARY = 512
BUDGETS = (1024, 2048, 4096)  # padded tokens in one micro-batch of the sorted side


@dataclass(frozen=True, slots=True)
class Shape:
    """Rollouts of an update: `sequences` of them, `group` to a prompt, whose answers are log-normal with spread `sigma`."""

    sequences: int
    group: int  # rollouts that share a prompt
    prompt: int
    longest: int  # prompt and answer
    mean: int  # tokens of an answer, about
    sigma: float


SHAPES = {
    "skewed": Shape(sequences=64, group=1, prompt=12, longest=140, mean=42, sigma=0.6),
    "groups": Shape(sequences=64, group=16, prompt=96, longest=320, mean=64, sigma=0.6),
    "even": Shape(sequences=64, group=16, prompt=32, longest=128, mean=96, sigma=0.0),  # all of one length
    "long": Shape(sequences=32, group=8, prompt=64, longest=1024, mean=256, sigma=0.8),
}


def model() -> Qwen3ForCausalLM:
    """0.8M parameters, random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def lengths(shape: Shape) -> list[int]:
    """Skewed as sampled answers are: log-normal, the longest at the limit."""
    draw = rng("update packing")
    found = [
        shape.prompt + min(shape.longest - shape.prompt, max(4, round(draw.lognormvariate(0.0, shape.sigma) * shape.mean)))
        for _ in range(shape.sequences)
    ]
    if shape.sigma:
        found[0] = shape.longest
    return found


def batch(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token ids [B, T], lengths [B], the mask of sampled tokens and a weight for each [B, T]."""
    sizes = torch.tensor(lengths(shape))
    columns = torch.arange(int(sizes.max()))[None]
    torch.manual_seed(1)
    input_ids = torch.randint(0, VOCABULARY, (shape.sequences, int(sizes.max())))
    prompts = input_ids[:: shape.group, : shape.prompt].repeat_interleave(shape.group, 0)
    input_ids[:, : shape.prompt] = prompts[: shape.sequences]
    input_ids = input_ids.masked_fill(columns >= sizes[:, None], 0)
    mask = (columns >= shape.prompt) & (columns < sizes[:, None])
    return input_ids, sizes, mask, torch.randn(shape.sequences, 1) * mask / mask.sum()


def padded(policy: Policy, input_ids: Tensor, sizes: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    attention = (torch.arange(input_ids.shape[1])[None] < sizes[:, None]).long()
    logits = policy.model(input_ids=input_ids, attention_mask=attention, use_cache=False).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return -(weights[:, 1:] * logprobs * mask[:, 1:]).sum()


def padded_side(policy: Policy, inputs: Inputs) -> None:
    padded(policy, *inputs).backward()


def packed_side(policy: Policy, inputs: Inputs) -> None:
    """As `Learner` does it: the micro-batches of the default budget of real tokens."""
    input_ids, sizes, mask, weights = inputs
    for part in microbatches(sizes.tolist(), 8192, in_order=True):
        width = int(sizes[part].max())
        scores = policy.score(input_ids[part, :width], sizes[part], mask[part, :width])
        (-(weights[part, :width] * scores.logprobs).sum()).backward()


def sorted_side(policy: Policy, inputs: Inputs, budget: int) -> None:
    input_ids, sizes, mask, weights = inputs
    order = torch.argsort(sizes, descending=True).tolist()
    start = 0
    while start < len(order):
        width = int(sizes[order[start]])
        part = order[start : start + max(1, budget // width)]
        padded(policy, input_ids[part, :width], sizes[part], mask[part, :width], weights[part, :width]).backward()
        start += len(part)


def cpu_seconds(side: Callable[[], None], parameters: list[torch.nn.Parameter]) -> float:
    for parameter in parameters:
        parameter.grad = None
    started = time.process_time()
    side()
    return time.process_time() - started


def compare(name: str, policy: Policy, repeats: int) -> dict[str, float]:
    """The ratios of both padded sides to the packed one; prints the figures."""
    parameters, inputs = policy.parameters(), batch(SHAPES[name])
    sides: dict[str, Callable[[], None]] = {
        "padded": lambda: padded_side(policy, inputs),
        "packed": lambda: packed_side(policy, inputs),
        **{f"sorted, {budget}": functools.partial(sorted_side, policy, inputs, budget) for budget in BUDGETS},
    }
    gradients = {}
    for side, run in sides.items():
        cpu_seconds(run, parameters)
        gradients[side] = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
    whole = gradients["padded"]
    difference = max(((found - whole).norm() / whole.norm()).item() for found in gradients.values())
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, run in sides.items():
            times[side].append(cpu_seconds(run, parameters))
    sizes = inputs[1]
    real = int(sizes.sum())
    print(
        f"{name}: {len(sizes)} sequences, {real} real of {inputs[0].numel()} padded tokens; gradients differ by {difference:.1e}"
    )
    medians = {side: statistics.median(values) for side, values in times.items()}
    for side, seconds in medians.items():
        print(f"  {side}: {seconds:.3f} CPU s, {real / seconds:,.0f} real tokens per CPU second")
    best = min((side for side in medians if side.startswith("sorted")), key=medians.__getitem__)

    def ratio(side: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[side], times["packed"], strict=True)), 2)

    return {"ratio": ratio("padded"), "ratio_to_sorted": ratio(best), "gradient_difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = Policy(model())
    millions = sum(p.numel() for p in policy.parameters()) / 1e6
    print(f"{millions:.2f}M parameters, {args.threads} thread(s), layout {policy.layout(1)}")
    for name in args.shapes.split(","):
        found = compare(name, policy, args.repeats)
        print(json.dumps({"benchmark": "update_packing", "shape": name, **found, "goal": 1.9 if name == "skewed" else 1.0}))


if __name__ == "__main__":
    main()
