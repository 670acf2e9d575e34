"""Several processes that each generate and update at the same time: real ones, as `torchrun` starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import load_recipe, to_toml
from rlvr.evaluation.ledger import read_rollouts
from rlvr.trainers.train import resume, train

pytestmark = pytest.mark.processes
MakeRecipe = Callable[..., dict[str, Any]]
Start = Callable[..., Any]

# The whole machinery (processes, queues, threads, pushed weights) with the bound at 0.
FORCED = """
import sys
from rlvr.cli.main import main
from rlvr.trainers import reinforce

reinforce._overlaps = lambda recipe: True
sys.exit(main(["train", {recipe!r}]))
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(run: Path) -> bytes:
    return sorted(run.glob("checkpoints/step-*"))[-1].joinpath("model.safetensors").read_bytes()


def stored(run: Path, step: int) -> list[dict[str, Any]]:
    rows = read_rollouts(run / "rollouts" / f"step-{step:06d}.jsonl.gz")
    return [{"rollout": row.rollout, "of": dict(row.provenance)} for row in rows]


def tokens(run: Path, steps: int) -> list[Any]:
    return [
        (row["rollout"].problem.id, [turn.completion.token_ids for turn in row["rollout"].turns])
        for step in range(1, steps + 1)
        for row in stored(run, step)
    ]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(("time_", "staleness_", "groups_", "engine_"))}


def ages(run: Path, step: int) -> list[int]:
    """Of the tokens that a step was trained on."""
    return [
        step - 1 - version
        for row in stored(run, step)
        if row["of"]["advantage"] is not None
        for turn in row["rollout"].turns
        for version in turn.completion.versions
    ]


def wait_for(condition: Callable[[], Any], seconds: float = 200.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def workers_of(pid: int) -> list[int]:
    """The processes that generate for `pid`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"rlvr.engines.aside.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("parallel", [{"name": "ddp"}, {"name": "fsdp"}, {"name": "deepspeed", "stage": 3}], ids=str)
def test_with_staleness_0_ranks_that_generate_in_other_processes_change_no_bit(
    recipe: MakeRecipe, train_on: Start, ranks: Start, tmp_path: Path, parallel: dict[str, Any]
) -> None:
    settings = {
        "steps": 3,
        "rollout": {"problems_per_step": 5},
        "algorithm": {"name": "grpo", "kl_coef": 0.1},
        "optim": {"tokens_per_microbatch": 60},
        "eval": {"problems": 3, "n": 2, "k": [1], "every": 2},
        "load": {"parallel": parallel, "device": "cpu"},
    }
    plain, aside = (recipe(**settings, out=str(tmp_path / name)) for name in ("plain", "aside"))
    train_on(2, plain).succeed()
    (tmp_path / "aside.toml").write_text(to_toml(load_recipe(aside).model_dump()))
    script = tmp_path / "forced.py"
    script.write_text(FORCED.format(recipe=str(tmp_path / "aside.toml")))
    ranks(2, [str(script)]).succeed()
    assert tokens(tmp_path / "aside", 3) == tokens(tmp_path / "plain", 3)
    assert weights(tmp_path / "aside") == weights(tmp_path / "plain")
    rows = metrics(tmp_path / "aside")
    assert [without_times(row) for row in rows] == [without_times(row) for row in metrics(tmp_path / "plain")]
    assert {row["staleness_max"] for row in rows} == {0}
    assert all(row["engine_gap_mean"] < 1e-4 for row in rows)
    if parallel == "ddp":
        train(recipe(**settings, out=str(tmp_path / "one")))
        assert tokens(tmp_path / "one", 1) == tokens(tmp_path / "aside", 1)


AHEAD = {
    "steps": 400,
    "rollout": {"max_staleness": 1, "max_tokens": 16, "problems_per_step": 5, "group_size": 4, "probe": 2},
    "algorithm": {"name": "dapo", "overlong": False},
    "checkpoint": {"every": 1},
    "data": {"problems": 30},
}


def go_on(run: Path, steps: int) -> None:
    """The run is to end after so many steps."""
    file = run / "config.toml"
    file.write_text(re.sub(r"(?m)^steps = \d+", f"steps = {steps}", file.read_text()))


def test_ranks_generate_ahead_within_the_bound_survive_their_workers_and_go_on_after_one_of_them_died(
    recipe: MakeRecipe, train_on: Start, ranks: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    started = train_on(2, recipe(**AHEAD, out=str(run)))
    wait_for(lambda: len(metrics(run)) >= 2)
    [worker] = workers_of(started.processes[1].pid)
    os.kill(worker, signal.SIGKILL)
    died_at = len(metrics(run))
    wait_for(lambda: len(metrics(run)) >= died_at + 4)
    os.kill(started.processes[1].pid, signal.SIGKILL)
    assert started.codes() == [3, -signal.SIGKILL]
    assert "rank 1" in started.said(0)
    assert "Traceback" not in started.said(0)
    done = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    go_on(run, done + 3)
    ranks(2, ["train", "--resume", str(run)]).succeed()
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, done + 4))
    for step, row in enumerate(rows, start=1):
        found = ages(run, step)
        assert max(found, default=0) <= 1
        assert [row["staleness_0"], row.get("staleness_1", 0)] == [found.count(0), found.count(1)]
        assert row["groups_stale"] == 0
        sizes = [len(group) for group in groups(run, step)]
        assert set(sizes) <= {2, 4}  # those that ended with their probe, and whole ones
        assert sizes.count(2) == row.get("groups_dropped_probed", 0)
    assert any(row["staleness_max"] == 1 for row in rows)
    assert any(row.get("groups_dropped_probed", 0) for row in rows)


def groups(run: Path, step: int) -> list[list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in stored(run, step):
        found.setdefault(row["of"]["group"], []).append(row)
    return list(found.values())


def test_a_run_in_parts_that_is_interrupted_on_one_rank_is_saved_with_all_queues_and_goes_on_alone(
    recipe: MakeRecipe, train_on: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    started = train_on(2, recipe(**{**AHEAD, "checkpoint": {"every": 0}}, load={"parallel": "fsdp"}, out=str(run)))
    wait_for(lambda: len(metrics(run)) >= 3)
    os.kill(started.processes[1].pid, signal.SIGTERM)
    assert started.codes() == [130, 130], started.said(0) + started.said(1)
    [saved] = (run / "checkpoints").glob("step-*")
    done = int(saved.name.removeprefix("step-"))
    assert done == len(metrics(run))
    go_on(run, done + 2)
    resume(run)  # in this process
    assert [row["step"] for row in metrics(run)] == list(range(1, done + 3))
    assert all(max(ages(run, step), default=0) <= 1 for step in range(1, done + 3))


def test_a_probe_on_two_ranks_ends_the_same_groups_as_in_one_process(recipe: MakeRecipe, train_on: Start, tmp_path: Path) -> None:
    settings = {**AHEAD, "steps": 2, "rollout": {**AHEAD["rollout"], "max_staleness": 0, "max_tokens": 4}}
    settings["optim"] = {"eps": 1e-3}
    train(recipe(**settings, out=str(tmp_path / "one")))
    train_on(2, recipe(**settings, out=str(tmp_path / "two"))).succeed()
    assert tokens(tmp_path / "two", 2) == tokens(tmp_path / "one", 2)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert sum(row["groups_dropped_probed"] for row in one) > 0
    assert [row["groups_dropped_probed"] for row in two] == [row["groups_dropped_probed"] for row in one]
    assert [row["rounds"] for row in two] == [row["rounds"] for row in one]
