"""Generation on a GPU: the native engine against transformers' `generate`, and against the bandwidth of the device's memory.

    python benchmarks/gpu_rollout.py [--shape qwen3-0.6b] [--rows 256] [--prompt-tokens 128] [--tokens 512] [--repetitions 3]

Both generate the same number of tokens for the same prompts from the same bf16 weights (random, of a real shape), temperature 1
and without end-of-sequence tokens. The bound is the time in which the weights and the rows' keys and values can be read once for
every token, at the data sheet's bandwidth. Goals: 8 times `generate` at 256 sequences, 40 % of the bound. Without a GPU a tiny
model runs on the CPU; no goal holds there. `--skip-generate` leaves the peer out, which takes most of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import Any

from gpu_shapes import Place, add_arguments, build, chosen, place

GENERATE_GOAL, BOUND_GOAL = 8.0, 0.40


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--rows", type=int, default=256, help="sequences (default 256; small: at most 8)")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="small: at most 16")
    parser.add_argument("--tokens", type=int, default=512, help="new tokens of each (small: at most 16)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--skip-generate", action="store_true")
    args = parser.parse_args(words)
    here = place(args)
    if here.is_small:
        args.rows, args.prompt_tokens, args.tokens = min(args.rows, 8), min(args.prompt_tokens, 16), min(args.tokens, 16)
    found = measure(args, here)
    print(json.dumps(found))
    if here.is_small:
        return 0
    ratios = ((found["over_generate"], GENERATE_GOAL), (found["of_bound"], BOUND_GOAL))
    return 0 if all(ratio is None or ratio >= goal for ratio, goal in ratios) else 1


def measure(args: argparse.Namespace, here: Place) -> dict[str, Any]:
    import torch

    from rlvr.engines.native import NativeEngine
    from rlvr.types import Sampling

    shape = chosen(args, here)
    context = args.prompt_tokens + args.tokens
    model = build(shape, here, context)
    torch.manual_seed(1)
    prompts = torch.randint(0, shape.vocabulary, (args.rows, args.prompt_tokens)).tolist()
    if here.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(here.device)
    engine = NativeEngine(model, None, max_rows=args.rows, precision=here.precision)  # type: ignore[arg-type]

    def native(tokens: int) -> None:
        async def everything() -> list[Any]:
            asked = (engine.generate(p, Sampling(max_tokens=tokens, seed=i)) for i, p in enumerate(prompts))
            return await asyncio.gather(*asked)

        completions = asyncio.run(everything())
        assert all(len(completion.token_ids) == tokens for completion in completions)

    seconds = timed(native, args, here)
    peak = torch.cuda.max_memory_allocated(here.device) if here.device.type == "cuda" else None
    total = args.rows * args.tokens
    limit = bound(shape, args, here)
    print(f"{shape.parameters / 1e6:.0f}M parameters in {here.precision} on {here.hardware.name}, decoder {engine.decoder_name}")
    print(f"native    {total / seconds:>12,.0f} tokens/s   {seconds:.3f} s for {args.rows} sequences of {args.tokens} tokens")
    of_bound = limit / seconds if limit else None
    if of_bound is not None:
        print(f"bound     {total / limit:>12,.0f} tokens/s   native reaches {of_bound:.1%} (goal {BOUND_GOAL:.0%} on a GPU)")
    over_generate = None
    if not args.skip_generate:
        asyncio.run(engine.close())
        peer_seconds = timed(peer(model, prompts, here), args, here)
        over_generate = peer_seconds / seconds
        print(f"generate  {total / peer_seconds:>12,.0f} tokens/s   native: {over_generate:.2f} times (goal {GENERATE_GOAL:.0f})")
    return {
        "benchmark": "gpu_rollout",
        "device": here.hardware.name,
        "is_small": here.is_small,
        "parameters": shape.parameters,
        "decoder": engine.decoder_name,
        "tokens_per_second": total / seconds,
        "of_bound": of_bound,
        "over_generate": over_generate,
        "goals": {"of_bound": BOUND_GOAL, "over_generate": GENERATE_GOAL},
        "memory_peak": peak,
    }


def timed(run: Any, args: argparse.Namespace, here: Place) -> float:
    """Median seconds, after a whole run that is not counted: steps are recorded and kernels chosen in it."""
    run(args.tokens)
    found = []
    for _ in range(args.repetitions):
        here.wait()
        began = time.perf_counter()
        run(args.tokens)
        here.wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def peer(model: Any, prompts: list[list[int]], here: Place) -> Any:
    """`generate` in the engine's precision; the model is not needed in another one afterwards."""
    import torch

    model = model.to(torch.bfloat16) if here.precision == "bf16" else model
    tokens = torch.tensor(prompts, device=here.device)

    def generate(count: int) -> None:
        output = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )
        assert output.shape[1] == tokens.shape[1] + count

    return generate


def bound(shape: Any, args: argparse.Namespace, here: Place) -> float:
    """Seconds for all tokens of all rows, if reading weights and cache were all there is; 0: the bandwidth is not known."""
    if not here.hardware.bandwidth:
        return 0.0
    element = 2 if here.precision == "bf16" else 4
    weights = element * (shape.linear + shape.embedding)
    cached = args.rows * shape.kv_bytes(element)
    lengths = range(args.prompt_tokens, args.prompt_tokens + args.tokens)
    return sum(weights + cached * length for length in lengths) / here.hardware.bandwidth


if __name__ == "__main__":
    sys.exit(main())
