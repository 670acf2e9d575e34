"""Two processes on gloo train like one."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvr.trainers.model.distributed import World
from rlvr.trainers.train import train

MakeRecipe = Callable[..., dict[str, Any]]
TrainOn = Callable[..., Any]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted(run.glob("checkpoints/step-*"))[-1]
    return load_file(newest / "model.safetensors")


def samples(run: Path) -> list[Any]:
    files = sorted(run.glob("rollouts/*.gz"))
    rows = [json.loads(line) for path in files for line in gzip.decompress(path.read_bytes()).splitlines()]
    return [(row["problem"]["id"], row["turns"][0]["completion"]["token_ids"], row["reward"], row["provenance"]) for row in rows]


def assert_close(found: Path, expected: Path) -> None:
    one, other = weights(found), weights(expected)
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.processes
def test_a_reinforcement_step_on_two_processes_is_that_of_one(tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn) -> None:
    # eps keeps Adam from blowing rounding in near-zero gradients up to whole steps.
    settings = {
        "steps": 1,
        "rollout": {"problems_per_step": 5},
        "algorithm": {"name": "grpo", "kl_coef": 0.05, "entropy_coef": 0.01},
        "optim": {"eps": 1e-3, "tokens_per_microbatch": 40, "epochs": 2},
        "eval": {"problems": 3, "n": 2, "k": [1]},
    }
    train(recipe(**settings, out=str(tmp_path / "one")))
    started = train_on(2, recipe(**settings, out=str(tmp_path / "two")))
    started.succeed()
    assert_close(tmp_path / "two", tmp_path / "one")
    ours, theirs = samples(tmp_path / "two"), samples(tmp_path / "one")
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    assert [row[3]["advantage"] for row in ours] == pytest.approx([row[3]["advantage"] for row in theirs], abs=1e-5)
    one, two = (json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("one", "two"))
    assert two.keys() == one.keys()
    assert [two[key] for key in ("loss", "grad_norm", "entropy", "tokens")] == pytest.approx(
        [one[key] for key in ("loss", "grad_norm", "entropy", "tokens")], rel=1e-3, abs=1e-5
    )
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1  # the first process alone writes
    assert "held-out" in started.said(0)
    assert started.said(1) == ""


@pytest.mark.processes
def test_a_warm_start_on_two_processes_is_that_of_one(tmp_path: Path, train_on: TrainOn) -> None:
    settings = {
        "kind": "sft",
        "model": "new:tiny",
        "task": "chains",
        "steps": 3,
        "sequences_per_step": 5,
        "threads": 1,
        "optim": {"lr": 1e-3, "eps": 1e-3, "tokens_per_microbatch": 90},
        "checkpoint": {"every": 2},
    }
    train({**settings, "out": str(tmp_path / "one")})
    train_on(2, {**settings, "out": str(tmp_path / "two")}).succeed()
    assert_close(tmp_path / "two", tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two" / "checkpoints").iterdir()) == ["step-000002", "step-000003"]


@pytest.mark.processes
def test_a_launcher_that_promised_more_processes_than_joined_is_refused() -> None:
    script = """
        import os
        import torch.distributed as dist
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # alone
        os.environ["WORLD_SIZE"] = "2"
        from rlvr.errors import ConfigError
        from rlvr.trainers.model.distributed import join_world
        try:
            join_world("cpu")
        except ConfigError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert "the launcher set WORLD_SIZE=2, but 1 process(es) joined" in done.stdout, done.stderr
    assert "torchrun --nproc_per_node N -m rlvr train" in done.stdout


def test_shares_hold_every_item_once() -> None:
    items = list(range(7))
    shares = [World(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert World().gather(World().share(items), 7) == items


@pytest.mark.processes
def test_a_port_that_is_in_use_is_said_at_once_with_what_to_do(recipe: MakeRecipe, train_on: TrainOn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        started = train_on(2, recipe(), MASTER_PORT=str(other.getsockname()[1]))
        started.processes[0].join(60)
        codes = started.codes(timeout_s=0)  # the other one waits for a first rank that is not there
    assert codes[0] not in (0, None)
    said = " ".join(started.said(0).split())
    assert re.search(r"MASTER_PORT=\d+ is in use on this machine.*`torchrun --master-port N", said)
