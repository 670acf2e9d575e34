"""Several trainer processes and vLLM: real ones, started by `torchrun`, with a server that they share or with one vLLM each."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rlvr.config import load_recipe, to_toml
from rlvr.trainers.train import train

from .conftest import Served, stop

VERIFIER = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("share_of_digits", isolated=False)
def share_of_digits(problem, rollout):
    share = sum(one.isdigit() for one in rollout.response) / max(1, len(rollout.response))
    return Verdict.correct() if share == 1 else Verdict.partial(share) if share else Verdict.incorrect()
"""


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("digits") / "digits.py"
    file.write_text(VERIFIER)
    return f"{file}:share_of_digits"


@pytest.fixture
def recipe(tmp_path: Path, server: Served, verifier: str) -> Callable[..., dict[str, Any]]:
    def build(**changes: Any) -> dict[str, Any]:
        default: dict[str, Any] = {
            "kind": "rl",
            "model": str(server.model),
            "task": "chains",
            "steps": 2,
            "threads": 1,
            "engine": {"name": "vllm", "url": server.url, "max_rows": 32},
            "load": {"device": "cpu", "precision": "fp32"},
            "verifiers": [{"name": verifier}],
            "rollout": {"group_size": 4, "problems_per_step": 5, "max_tokens": 12},
            "algorithm": {"name": "grpo"},
            "optim": {"lr": 1e-3, "eps": 1e-3},
            "data": {"problems": 50},
            "eval": {"problems": 0},
            "checkpoint": {"every": 1},
            "out": str(tmp_path / "run"),
        }
        return {**default, **changes}

    return build


class Launched:
    """Two ranks, and what they say."""

    def __init__(self, *argv: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rlvr", "train"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [*command, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    @property
    def ranks(self) -> list[int]:
        """Their process ids, by rank."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sorted(map(int, children))

    def said(self, timeout_s: float = 200.0) -> str:
        """All of it, when they have ended."""
        try:
            return self.process.communicate(timeout=timeout_s)[0]
        finally:
            if self.process.poll() is None:
                self.process.terminate()  # torchrun then ends its ranks
                self.process.communicate(timeout=60)


def launch(settings: dict[str, Any]) -> Launched:
    file = Path(settings["out"]).with_suffix(".toml")
    file.write_text(to_toml(load_recipe(settings).model_dump()))
    return Launched(str(file))


def descendants(pid: int) -> list[int]:
    """The processes that it started, and those that they started."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [*children, *(one for child in children for one in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def answers(run: Path, step: int) -> list[dict[str, Any]]:
    rows = gzip.decompress((run / "rollouts" / f"step-{step:06d}.jsonl.gz").read_bytes()).splitlines()
    return [turn["completion"] for row in map(json.loads, rows) for turn in row["turns"]]


def wait_for(condition: Callable[[], Any], launched: Launched, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert launched.process.poll() is None, launched.said()
        assert time.monotonic() < deadline, launched.said(1.0)
        time.sleep(0.02)


def newest(run: Path) -> Path:
    return sorted(run.glob("checkpoints/step-*"))[-1]


def assert_same_run(found: Path, expected: Path, steps: int) -> None:
    """The same tokens, and weights that rounding alone tells apart."""
    for step in range(1, steps + 1):
        ours, theirs = answers(found, step), answers(expected, step)
        assert [one["token_ids"] for one in ours] == [one["token_ids"] for one in theirs]
        assert {one["policy_version"] for one in ours} == {step - 1}
    one, other = (load_file(run / f"checkpoints/step-{steps:06d}/model.safetensors") for run in (found, expected))
    assert max(float((one[name] - other[name]).abs().max()) for name in other) < 1e-5
    assert all(row["engine_gap_mean"] < 1e-5 for row in metrics(found)[:steps])
    assert metrics(found)[steps - 1]["grad_norm"] > 0


def test_two_ranks_in_parts_with_a_vllm_each_train_like_one_process_with_a_server_and_leave_nothing_when_they_are_killed(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "two"
    settings = {"load": {"device": "cpu", "precision": "fp32", "parallel": "fsdp"}, "checkpoint": {"every": 2, "keep": 1000}}
    launched = launch(recipe(**settings, engine={"name": "vllm", "max_rows": 32}, steps=1000, out=str(run)))
    train(recipe(out=str(tmp_path / "one")))  # meanwhile
    wait_for(lambda: len(metrics(run)) >= 3, launched)
    ranks = launched.ranks
    theirs = [pid for rank in ranks for pid in descendants(rank)]
    assert len(theirs) >= 2
    for rank in ranks:
        os.kill(rank, signal.SIGKILL)
    launched.said(60)
    assert_same_run(run, tmp_path / "one", 2)
    deadline = time.monotonic() + 120
    while any(map(is_running, theirs)):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_text() for pid in theirs if is_running(pid)]
        time.sleep(0.05)


def test_two_ranks_of_deepspeed_whose_weights_lie_in_parts_train_like_one_process_with_the_same_server(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    train(recipe(out=str(tmp_path / "one")))
    load = {"device": "cpu", "precision": "fp32", "parallel": {"name": "deepspeed", "stage": 3}}
    launched = launch(recipe(load=load, out=str(tmp_path / "two")))
    said = launched.said()
    assert launched.process.returncode == 0, said
    assert_same_run(tmp_path / "two", tmp_path / "one", 2)


def test_ranks_that_generate_ahead_end_with_one_that_dies_and_with_their_server_and_go_on_from_their_checkpoint(
    recipe: Callable[..., dict[str, Any]], server: Served, tmp_path: Path
) -> None:
    """One after the other, because a server takes a minute to start. It is gone afterwards."""
    run = tmp_path / "run"
    rollout = {"group_size": 4, "problems_per_step": 5, "max_tokens": 100, "max_staleness": 1}
    engine = {"name": "vllm", "url": server.url, "max_rows": 32, "args": {"start_s": 1.0, "weights": "gloo"}}
    launched = launch(recipe(rollout=rollout, engine=engine, steps=500))
    wait_for(lambda: len(metrics(run)) >= 4, launched)
    os.kill(launched.ranks[1], signal.SIGKILL)
    said = launched.said(60)
    assert launched.process.returncode != 0
    assert "is gone without a word" in said
    assert f"rlvr train --resume {run}" in re.sub(r"\s+", " ", said)
    done = len(list((run / "checkpoints").glob("step-*"))) and int(newest(run).name.removeprefix("step-"))
    launched = Launched("--resume", str(run))
    wait_for(lambda: len(metrics(run)) >= done + 3, launched)
    stop(server.process)
    said = launched.said(60)
    assert launched.process.returncode != 0
    assert "cannot be reached" in said
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["engine_gap_mean"] < 1e-4 for row in rows)
    assert max(row["staleness_max"] for row in rows) <= 1
    assert any(row["staleness_max"] == 1 for row in rows)
