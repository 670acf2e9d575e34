"""Whole runs that generate and update at the same time: what stays the same, what is bounded, and what survives."""

from __future__ import annotations

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

from rlvr.config import load_recipe, to_toml
from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import read_rollouts
from rlvr.trainers import reinforce
from rlvr.trainers.overlap.timeline import Lane, read_timeline
from rlvr.trainers.train import Run, dry_run, resume, train

pytestmark = pytest.mark.processes
MakeRecipe = Callable[..., dict[str, Any]]
EVALUATION = {"problems": 4, "n": 2, "k": [1], "every": 2, "split": "train"}


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(run: Run) -> bytes:
    return (run.checkpoint / "model.safetensors").read_bytes()


def stored(run: Path, step: int) -> list[dict[str, Any]]:
    rows = read_rollouts(run / "rollouts" / f"step-{step:06d}.jsonl.gz")
    return [{"rollout": row.rollout, "of": dict(row.provenance)} for row in rows]


def assert_within(run: Path, steps: int, most: int) -> None:
    """No token that was trained on is more than `most` updates old, by the rollouts on record themselves."""
    for step in range(1, steps + 1):
        for row in stored(run, step):
            for turn in row["rollout"].turns:
                assert len(turn.completion.versions) == len(turn.completion.token_ids)
                assert max(turn.completion.versions) <= step - 1
                if row["of"]["advantage"] is not None:
                    assert min(turn.completion.versions) >= step - 1 - most


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(("time_", "staleness_", "groups_", "engine_"))}


def test_with_staleness_0_generation_in_another_process_changes_no_bit(
    recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole machinery (process, queue, thread, pushed weights) with the bound at 0, against the plain loop."""
    settings = {"steps": 4, "eval": EVALUATION, "algorithm": {"name": "grpo", "kl_coef": 0.1}, "optim": {"minibatches": 2}}
    plain = train(recipe(**settings, out=str(tmp_path / "plain")))
    assert "staleness_mean" not in metrics(plain.folder)[0]
    monkeypatch.setattr(reinforce, "_overlaps", lambda recipe: True)
    aside = train(recipe(**settings, out=str(tmp_path / "aside")))
    assert weights(aside) == weights(plain)
    assert [without_times(row) for row in metrics(aside.folder)] == [without_times(row) for row in metrics(plain.folder)]
    for step in range(1, 5):
        assert [row["rollout"].turns for row in stored(aside.folder, step)] == [
            row["rollout"].turns for row in stored(plain.folder, step)
        ]
        assert metrics(aside.folder)[step - 1]["staleness_max"] == 0
    assert (aside.folder / "evaluations/step-000004.json").exists()


@pytest.fixture(scope="module")
def module_recipe(tmp_path_factory: pytest.TempPathFactory, sevens: str) -> dict[str, Any]:
    return {
        "kind": "rl",
        "model": "new:tiny",
        "task": "chains",
        "steps": 8,
        "threads": 1,
        "out": str(tmp_path_factory.mktemp("overlap") / "run"),
        "verifiers": [{"name": sevens}],
        "rollout": {"group_size": 4, "problems_per_step": 4, "max_tokens": 24, "max_staleness": 2},
        "algorithm": {"name": "dapo", "overlong": False},
        "optim": {"lr": 1e-3},
        "data": {"problems": 12},
        "eval": EVALUATION,
        "checkpoint": {"every": 0},
    }


@pytest.fixture(scope="module")
def overlapped(module_recipe: dict[str, Any]) -> Run:
    return train(module_recipe)


def test_no_token_is_older_than_the_bound(overlapped: Run) -> None:
    assert_within(overlapped.folder, 8, most=2)
    rows = metrics(overlapped.folder)
    assert all(row["staleness_max"] <= 2 for row in rows)
    assert any(row["staleness_max"] > 0 for row in rows)
    assert all(row["groups_stale"] == 0 for row in rows)  # generation waits; nothing is thrown away


def test_the_histogram_counts_the_tokens_that_were_trained_on(overlapped: Run) -> None:
    for step, row in enumerate(metrics(overlapped.folder), start=1):
        ages = [
            step - 1 - version
            for one in stored(overlapped.folder, step)
            if one["of"]["advantage"] is not None
            for turn in one["rollout"].turns
            for version in turn.completion.versions
        ]
        assert [row["staleness_0"], row["staleness_1"], row["staleness_2"]] == [ages.count(age) for age in range(3)]
        assert row["staleness_mean"] == pytest.approx(sum(ages) / max(1, len(ages)))


def test_every_step_says_how_long_trainer_and_engine_waited(overlapped: Run) -> None:
    for row in metrics(overlapped.folder):
        assert row["time_wait_s"] >= 0
        assert 0 <= row["time_generate_idle_s"] <= row["time_step_s"]
        assert row["time_update_s"] > 0
        assert row["time_weights_s"] > 0
        assert row["engine_gap_mean"] < 1e-4
        assert "corrected_share" in row or row["groups"] == row["groups_dropped"]


def test_the_timeline_shows_generation_during_updates(overlapped: Run) -> None:
    spans = read_timeline(overlapped.folder / "timeline.jsonl")
    updates = [span for span in spans if span.lane is Lane.UPDATE]
    assert [span.name for span in updates] == list(range(1, 9))
    groups = [span for span in spans if span.lane is Lane.GENERATE]
    assert any(group.begin < update.end and group.end > update.begin for group in groups for update in updates)


def test_evaluations_on_the_way_have_the_weights_of_their_step_alone(overlapped: Run) -> None:
    for step in (2, 4, 6, 8):
        [file] = overlapped.folder.glob(f"evaluations/step-{step:06d}*.jsonl.gz")
        for row in read_rollouts(file):
            for turn in row.rollout.turns:
                assert set(turn.completion.versions) == {step}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


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


def start(folder: Path, settings: dict[str, Any]) -> subprocess.Popen[str]:
    file = folder / "recipe.toml"
    file.write_text(to_toml(load_recipe(settings).model_dump()))
    # Started by a background job, the tests inherit an ignored SIGINT, and so would the run.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from rlvr.cli.main import main; "
    command = [sys.executable, "-c", f"{code}sys.exit(main(['train', {str(file)!r}]))"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], Any], seconds: float = 200.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("waited in vain")


LONG = {"steps": 400, "checkpoint": {"every": 1}, "eval": {"problems": 0}, "rollout": {"max_staleness": 2, "max_tokens": 24}}


def test_a_run_whose_process_is_killed_goes_on_and_one_that_is_killed_itself_leaves_nothing_and_can_be_resumed(
    recipe: MakeRecipe, tmp_path: Path
) -> None:
    settings = recipe(**LONG)
    run = Path(settings["out"])
    with start(tmp_path, settings) as process:
        wait_for(lambda: len(metrics(run)) >= 2)
        [worker] = workers_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        died_at = len(metrics(run))
        wait_for(lambda: len(metrics(run)) >= died_at + 4)
        assert metrics(run)[-1]["engine_restarts"] == 1
        [second] = workers_of(process.pid)
        process.kill()
    wait_for(lambda: not is_running(second))
    done = len(metrics(run))
    assert done < 400
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("steps = 400", f"steps = {done + 3}"))
    finished = resume(run)
    assert [row["step"] for row in metrics(run)] == list(range(1, done + 4))
    assert sorted({json.loads(line)["step"] for line in (run / "timeline.jsonl").read_text().splitlines()}) == list(
        range(1, done + 4)
    )
    assert finished.checkpoint.name == f"step-{done + 3:06d}"
    assert_within(run, done + 3, most=2)
    ids = [(row["of"]["step"], row["of"]["group"]) for step in range(1, done + 4) for row in stored(run, step)]
    assert len(ids) == (done + 3) * 16  # every group once, whoever sampled it


def test_an_interrupted_run_saves_its_last_step_and_its_queue_and_ends_its_process(recipe: MakeRecipe, tmp_path: Path) -> None:
    settings = recipe(**{**LONG, "checkpoint": {"every": 0}})
    run = Path(settings["out"])
    with start(tmp_path, settings) as process:
        wait_for(lambda: len(metrics(run)) >= 2)
        [worker] = workers_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert re.search(r"continue\s+with: rlvr train --resume", said)
    assert "Traceback" not in said
    assert not is_running(worker)
    [saved] = (run / "checkpoints").glob("step-*")
    assert int(saved.name.removeprefix("step-")) == len(metrics(run))


EMPTIED = """
import asyncio
from rlvr.types import Completion, FinishReason


class Emptied:
    # Generates elsewhere, as vLLM does, and refuses weights while it has something to do.
    runs_beside = True

    def __init__(self, model, tokenizer, *, max_rows=256, precision="fp32"):
        self.policy_version, self.max_context, self.in_flight = 0, 512, 0
        self.digit = tokenizer.convert_tokens_to_ids("7")

    async def generate(self, prompt_ids, sampling):
        self.in_flight += 1
        version = self.policy_version
        await asyncio.sleep(0.002 * (sampling.seed % 10))
        assert self.policy_version == version
        self.in_flight -= 1
        tokens = (self.digit,) * (1 + sampling.seed % 3)
        return Completion(tokens, (-2.0,) * len(tokens), FinishReason.LENGTH, version)

    def update_weights(self):
        assert self.in_flight == 0
        self.policy_version += 1

    async def close(self):
        pass
"""


def test_an_engine_that_takes_no_weights_while_it_generates_is_emptied_for_them(recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "emptied.py").write_text(EMPTIED)
    run = train(recipe(engine={"name": f"{tmp_path}/emptied.py:Emptied"}, rollout={"max_staleness": 1}, steps=6))
    rows = metrics(run.folder)
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert {row["staleness_max"] for row in rows} == {0, 1}
    assert_within(run.folder, 6, most=1)


def test_a_dry_run_says_how_far_ahead_and_what_is_done_about_it(recipe: MakeRecipe) -> None:
    _, counted = dry_run(load_recipe(recipe(rollout={"max_staleness": 2})))
    assert counted["max_groups_ahead"] == 12
    assert "min(π_old / π_sampling, tis_cap or 2)" in counted["stale_tokens"]
    assert "max_groups_ahead" not in dry_run(load_recipe(recipe()))[1]


def test_an_engine_of_the_trainers_own_process_is_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from rlvr.engines.native import NativeEngine\n\nclass Own:\n    __init__ = NativeEngine.__init__\n"
    )
    with pytest.raises(ConfigError, match=r"computes in the trainer's process.*rollout.max_staleness = 0"):
        train(recipe(engine={"name": f"{tmp_path}/own.py:Own"}, rollout={"max_staleness": 1}))
    assert not (tmp_path / "run").exists()
