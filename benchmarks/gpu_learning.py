"""A learning run on a GPU, in minutes and without network: a small model learns chains of sums, in bf16, with the native engine.

    python benchmarks/gpu_learning.py [--hidden 512] [--layers 8] [--steps 150] [--warm-up 600] [--folder runs/gpu-learning]

A random model with the task's tokenizer is warmed up on demonstrations that often guess or err (`chains/base`), then trained with
verifiable rewards (`chains/quickstart`), and measured on held-out problems before and after. The claim: pass@1 rises, and the
interval of the gain lies above 0. `--small`, and a machine without a GPU, run a few steps of the tiny model on the CPU, which
shows that the script runs and claims nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_shapes import Place, add_arguments, place

ROOT = Path(__file__).parents[1]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150, help="with verifiable rewards")
    parser.add_argument("--warm-up", type=int, default=600, help="supervised steps before")
    parser.add_argument("--folder", type=Path, help="where the runs stay; default: a folder that is removed")
    args = parser.parse_args(words)
    here = place(args)
    if args.folder is not None:
        return report(learn(args, here, args.folder), here)
    with tempfile.TemporaryDirectory() as folder:
        return report(learn(args, here, Path(folder)), here)


def learn(args: argparse.Namespace, here: Place, folder: Path) -> dict[str, Any]:
    from rlvr.config import load_recipe
    from rlvr.trainers.train import train

    began = time.perf_counter()
    common = [f"load.device={here.device.type}", f"load.precision={here.precision}", "checkpoint.keep=1"]
    small = ["rollout.group_size=4", "rollout.problems_per_step=4", "eval.problems=4", "eval.variants=false", "threads=1"]
    base = [f"model={seedling(args, here, folder)}", f"out={folder}/base", f"steps={2 if here.is_small else args.warm_up}"]
    if here.is_small:
        base += ["sequences_per_step=8", "threads=1"]
    warm = train(load_recipe(ROOT / "tasks/chains/base.toml", [*base, *common, "optim.lr=1e-3"]))
    taught = [f"model={warm.checkpoint}", f"out={folder}/run", f"steps={2 if here.is_small else args.steps}"]
    run = train(load_recipe(ROOT / "tasks/chains/quickstart.toml", [*taught, *common, *(small if here.is_small else [])]))
    return {"summary": dict(run.summary), "seconds": time.perf_counter() - began}


def seedling(args: argparse.Namespace, here: Place, folder: Path) -> Path:
    """A random model with the task's tokenizer."""
    from rlvr.envs.tasks import load_task
    from rlvr.trainers.model.tiny import tiny_model

    spec = load_task("chains").tiny
    assert spec is not None
    if not here.is_small:
        heads = args.hidden // 64
        larger = {"hidden": args.hidden, "layers": args.layers, "heads": heads, "kv_heads": max(1, heads // 4), "head_dim": 64}
        spec = spec.model_copy(update={**larger, "intermediate": args.hidden * 3})
    model, tokenizer = tiny_model(spec)
    path = folder / "random"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def report(found: dict[str, Any], here: Place) -> int:
    gain = found["summary"]["gain"]["pass@1"]
    seconds = found["seconds"]
    print(f"pass@1 on held-out problems: {gain} ({seconds:.0f} s on {here.hardware.name})")
    line = {
        "benchmark": "gpu_learning",
        "is_small": here.is_small,
        "device": here.hardware.name,
        "gain": gain,
        "seconds": seconds,
    }
    print(json.dumps(line))
    if here.is_small:
        return 0
    return 0 if gain["low"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
