"""Several trainer processes and the actors that they share: here the processes are threads, and once they are real."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvr.config import load_recipe, to_toml
from rlvr.engines.native import NativeEngine
from rlvr.engines.ray.engine import RayEngine
from rlvr.errors import EngineError
from rlvr.trainers.train import train

from ..thread_ranks import TwoRanks
from .test_engine import answers, build, pids, same

pytestmark = pytest.mark.processes


class Two(TwoRanks):
    """Two ranks with a copy of the model each."""

    def __init__(self) -> None:
        super().__init__(timeout_s=120)
        self.models = [copy.deepcopy(build()) for _ in range(2)]
        self.engines: list[RayEngine] = self.both(
            lambda rank: RayEngine(self.models[rank], None, actors=2, max_rows=16, ranks=self.ranks[rank])
        )


@pytest.fixture(scope="module")
def two(cluster: Any) -> Iterator[Two]:
    made = Two()
    yield made
    made.both(lambda rank: asyncio.run(made.engines[rank].close()))


def test_all_ranks_ask_the_actors_that_the_first_one_started(two: Two) -> None:
    first, second = (set(pids(engine)) for engine in two.engines)
    assert first == second
    assert len(first) == 2
    expected = asyncio.run(answers(NativeEngine(two.models[0], None)))
    for found in two.both(lambda rank: asyncio.run(answers(two.engines[rank]))):
        same(found, expected)


def test_the_first_rank_hands_the_weights_over_for_all_and_all_know_their_version(two: Two) -> None:
    with torch.no_grad():
        for model in two.models:
            model.model.norm.weight.mul_(1.3)
    version = two.engines[0].policy_version
    updates = two.both(lambda rank: two.engines[rank].update_weights())
    assert updates[0].gap_mean == updates[1].gap_mean < 1e-4
    assert [engine._store._count for engine in two.engines] == [version + 2, 0]
    expected = asyncio.run(answers(NativeEngine(two.models[0], None)))
    for found in two.both(lambda rank: asyncio.run(answers(two.engines[rank]))):
        same(found, expected)
        assert {one.policy_version for one in found} == {version + 1}


def test_an_actor_that_dies_while_only_the_second_rank_asks_is_replaced_by_the_first(two: Two) -> None:
    expected = asyncio.run(answers(NativeEngine(two.models[1], None), 24, 60))
    victim, restarts = pids(two.engines[0])[0], two.engines[0].restarts

    async def with_a_death() -> Any:
        os.kill(victim, signal.SIGSTOP)  # it answers nothing before it dies
        asked = asyncio.create_task(answers(two.engines[1], 24, 60))
        await asyncio.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        return await asked

    same(asyncio.run(with_a_death()), expected)
    deadline = time.monotonic() + 240.0
    while any(victim in pids(engine) for engine in two.engines):
        assert time.monotonic() < deadline
        same(asyncio.run(answers(two.engines[1], 24, 60)), expected)
    assert two.engines[0].restarts == restarts + 1
    assert set(pids(two.engines[0])) == set(pids(two.engines[1]))


def test_what_one_rank_finds_wrong_is_an_error_on_all_of_them(two: Two) -> None:
    before = copy.deepcopy(two.models[1].state_dict())
    with torch.no_grad():
        two.models[1].model.norm.weight.mul_(1.5)  # the first rank's weights are handed over

    def update(rank: int) -> str:
        with pytest.raises(EngineError) as caught:
            two.engines[rank].update_weights()
        return str(caught.value)

    said = two.both(update)
    assert said[0] == said[1]
    assert "(of rank 1) does not compute what the trainer's model computes" in said[0]
    two.models[1].load_state_dict(before)


@pytest.mark.learning
def test_two_processes_of_torchrun_train_on_a_cluster_as_one_does_without(cluster: Any, nodes: Any, tmp_path: Path) -> None:
    recipe = {
        "kind": "rl",
        "model": "new:tiny",
        "task": "chains",
        "steps": 2,
        "threads": 1,
        "load": {"device": "cpu"},
        "rollout": {"group_size": 4, "problems_per_step": 4, "max_tokens": 12},
        "optim": {"lr": 1e-3, "eps": 1e-3},
        "eval": {"problems": 0},
    }
    alone = train(**{key: value for key, value in recipe.items() if key != "kind"}, out=str(tmp_path / "alone"))
    file = tmp_path / "ranks.toml"
    engine = {"name": "ray", "args": {"actors": 2, "address": nodes.address}}
    file.write_text(to_toml(load_recipe({**recipe, "engine": engine, "out": str(tmp_path / "ranks")}).model_dump()))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "rlvr",
        "train",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (checkpoint(tmp_path / "ranks"), alone.checkpoint))
    assert all(torch.allclose(tensor, theirs[name], atol=1e-4) for name, tensor in ours.items())


def checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoints/*/model.safetensors")).parent
