"""The memory that `rlvr train --dry-run` estimates, against the peak memory of real updates and real generation on the CPU.

    python benchmarks/memory_estimate.py [--shape tiny] [--shape wide] [--threads 1] [--ways]

Each figure is that of a process of its own: its peak resident memory above what it held before the model was made. An update is
two optimizer steps of two micro-batches each; generation decodes all rows to their full length in the native engine. The ratio is
estimate over measurement: 1 is exact, above 1 is on the safe side. The C library is told to give freed blocks back to the system,
so that what is measured is what is in use; `--gaps` leaves it as it is, and shows what the gaps between blocks cost.

`--ways` measures updates of two processes instead, which share a model in each way that a recipe has (`load.parallel`); the one
that took more counts. What they hold while they load the model, whole, is not in it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # must be set before torch is imported

import argparse
import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class Case:
    """A model and what it is asked to do."""

    kind: str  # qwen2 or qwen3
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tokens: int  # of a micro-batch
    rows: int
    length: int


CASES = {
    "tiny": Case("qwen3", 128, 352, 6, 4, 2, 32, 4096, tokens=2048, rows=128, length=192),
    "wide": Case("qwen2", 896, 2432, 4, 14, 2, 64, 32768, tokens=1024, rows=64, length=192),
    "deep": Case("qwen3", 256, 704, 16, 4, 2, 64, 16384, tokens=2048, rows=64, length=192),
    "135M": Case("qwen2", 576, 1536, 30, 9, 3, 64, 49152, tokens=2048, rows=128, length=512),
}
WARM_UP = Case("qwen3", 16, 32, 1, 1, 1, 16, 64, tokens=32, rows=2, length=20)
SIDES = ("update", "checkpointed update", "generation")
WAYS = ("ddp", "fsdp", "zero-1", "zero-2", "zero-3")
RANKS = 2


def build(case: Case) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config_type, model_type = (Qwen2Config, Qwen2ForCausalLM) if case.kind == "qwen2" else (Qwen3Config, Qwen3ForCausalLM)
    torch.manual_seed(0)
    config = config_type(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        max_position_embeddings=max(4096, case.length),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return model_type(config).eval()


def update(case: Case, *, checkpointed: bool) -> int:
    """Bytes that two updates took at their peak."""
    import torch

    from rlvr.config import OptimConfig
    from rlvr.trainers.model.distributed import World
    from rlvr.trainers.model.policy import Policy
    from rlvr.trainers.model.update import Updater

    lengths, mask, batches = inputs(case)
    before = resident()
    policy = Policy(build(case), checkpoint_layers=checkpointed)
    updater = Updater(policy, OptimConfig(lr=1e-5), steps=2, world=World())

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        return -policy.score(ids, lengths, mask, entropy=True).logprobs.sum() / mask.sum()

    for step in range(2):
        updater.step([lambda ids=ids: loss_of(ids) for ids in batches], step)
    return peak() - before


def parallel_of_way(way: str) -> Any:
    from rlvr.trainers.model.parallel import Parallel, Way

    return Parallel(Way.DEEPSPEED, stage=int(way[-1])) if way.startswith("zero") else Parallel(Way(way))


def shared_update(way: str, case: Case) -> int:
    """Bytes that two updates took at their peak in this process, one of `RANKS`."""
    import torch

    from rlvr.config import OptimConfig
    from rlvr.trainers.model.distributed import join_world, watched
    from rlvr.trainers.model.fsdp import shard
    from rlvr.trainers.model.parallel import Way
    from rlvr.trainers.model.policy import Policy
    from rlvr.trainers.model.update import Updater

    parallel = parallel_of_way(way)

    with watched(join_world("cpu"), timeout_s=300.0, advice="") as world:

        def once(case: Case) -> int:
            lengths, mask, batches = inputs(case)
            before = resident()
            policy = Policy(build(case))
            if parallel.way is Way.FSDP:
                shard(policy, parallel, "fp32", world)
            updater = Updater(policy, OptimConfig(lr=1e-5), steps=2, world=world, parallel=parallel)
            resident()

            def loss_of(ids: torch.Tensor) -> torch.Tensor:
                return -policy.score(ids, lengths, mask, entropy=True).logprobs.sum() / mask.sum()

            for step in range(2):
                updater.step([lambda ids=ids: loss_of(ids) for ids in batches], step)
            world.wait()
            return peak() - before

        once(WARM_UP)
        return once(case)


def inputs(case: Case) -> tuple[Any, Any, list[Any]]:
    """Lengths, mask and two micro-batches."""
    import torch

    length = min(256, case.tokens)
    rows = case.tokens // length
    torch.manual_seed(1)
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[:, : length // 16] = False
    return torch.full((rows,), length), mask, [torch.randint(0, case.vocabulary, (rows, length)) for _ in range(2)]


def generation(case: Case) -> int:
    """Bytes that decoding took at its peak."""
    from rlvr.engines.native import NativeEngine
    from rlvr.types import Sampling

    before = resident()
    engine = NativeEngine(build(case), None, max_rows=case.rows)

    async def everything() -> None:
        requests = (engine.generate([row + 1] * 16, Sampling(max_tokens=case.length - 16, seed=row)) for row in range(case.rows))
        await asyncio.gather(*requests)

    asyncio.run(everything())
    return peak() - before


def resident() -> int:
    """Bytes that this process holds now; its peak counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def estimated(case: Case, side: str) -> int:
    from rlvr.trainers.sizing.memory import Workload, estimate_memory
    from rlvr.trainers.sizing.shape import ModelShape

    shape = ModelShape(
        case.hidden,
        case.intermediate,
        case.layers,
        case.heads,
        case.kv_heads,
        case.head_dim,
        case.vocabulary,
        has_query_key_norm=case.kind == "qwen3",
        is_tied=True,
        has_bias=case.kind == "qwen2",
    )
    work = Workload(
        tokens=case.tokens,
        trained=shape.parameters,
        rows=case.rows,
        length=case.length,
        prefilled=16 * case.rows,
        element=4,
        is_checkpointed=side.startswith("checkpointed"),
        is_native=side == "generation",
        **sharing(side),
    )
    memory = estimate_memory(shape, work)
    if side == "generation":  # nothing was trained in that process
        return memory.weights + memory.engine_weights + memory.kv_cache + memory.decoding
    return memory.update


def sharing(side: str) -> dict[str, Any]:
    """How the estimate says that processes share the model."""
    from rlvr.trainers.model.parallel import Way

    if side not in WAYS or side == "ddp":
        return {}
    parallel = parallel_of_way(side)
    stage = 3 if parallel.shares_weights else parallel.stage
    return {"shards": RANKS, "stage": stage, "is_deepspeed": parallel.way is Way.DEEPSPEED}


def measured(name: str, side: str, threads: int, *, with_gaps: bool = False) -> int:
    """In a process of its own."""
    allocator = {} if with_gaps else {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--shape", name, "--side", side, "--threads", str(threads)]
    ranks = range(RANKS if side in WAYS else 1)
    world = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if side in WAYS else {}
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **allocator, **world, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {})},
        )
        for rank in ranks
    ]
    ended = [(process, *process.communicate()) for process in started]
    for process, _, said in ended:
        if process.returncode:
            raise SystemExit(said)
    return max(int(json.loads(out.splitlines()[-1])) for _, out, _ in ended)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(side: str, case: Case, threads: int) -> int:
    import torch

    torch.set_num_threads(threads)
    if side in WAYS:
        return shared_update(side, case)

    def once(case: Case) -> int:
        return generation(case) if side == "generation" else update(case, checkpointed=side.startswith("checkpointed"))

    once(WARM_UP)  # imports, threads and kernels take memory of their own, once
    return once(case)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", action="append", choices=list(CASES), help="several may be given; default: tiny, wide, deep")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gaps", action="store_true", help="with the allocator as it is by default")
    parser.add_argument("--ways", action="store_true", help=f"updates of {RANKS} processes, instead")
    parser.add_argument("--side", choices=SIDES + WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.shape or ["tiny", "wide", "deep"]
    if args.side:
        print(json.dumps(run(args.side, CASES[names[0]], args.threads)))
        return 0
    ratios = {}
    for name in names:
        for side in WAYS if args.ways else SIDES:
            guess, found = estimated(CASES[name], side), measured(name, side, args.threads, with_gaps=args.gaps)
            ratios[f"{name}, {side}"] = ratio = guess / found
            print(
                f"{name:<6} {side:<20} estimate {guess / 1e6:>7.0f} MB   measured {found / 1e6:>7.0f} MB   ratio {ratio:.2f}",
                flush=True,
            )
    print(json.dumps({"benchmark": "memory_estimate", "ratios": ratios, "goal": f"within {TOLERANCE:.0%}"}))
    return 0 if all(abs(ratio - 1) <= TOLERANCE for ratio in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
