"""A run that is started again: by another trainer, by the same command, after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.main import main
from rlvr.config import load_recipe, to_toml
from rlvr.errors import ConfigError
from rlvr.trainers.run.lock import locked
from rlvr.trainers.train import resume, train, train_or_resume

MakeRecipe = Callable[..., dict[str, Any]]

HOLDER = """
import pathlib, sys
from rlvr.trainers.run.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def file(tmp_path: Path, recipe: MakeRecipe) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(load_recipe(recipe()).model_dump()))
    return path


@pytest.mark.processes
def test_a_second_trainer_is_kept_out_and_told_by_whom(
    tmp_path: Path, recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(recipe()).folder
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = modified(run)
        assert main(["train", "--resume", str(run)]) == 2
        assert f"{run} is being trained by process {holder.pid} on " in capsys.readouterr().err
        assert modified(run) == before
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert main(["train", "--resume", str(run)]) == 0, "a killed trainer leaves no lock behind"


def test_a_trainer_in_this_process_counts_too_and_the_lock_ends_with_its_run(tmp_path: Path, recipe: MakeRecipe) -> None:
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(ConfigError, match=f"being trained by process {os.getpid()} on"):
        train(recipe())
    assert not (folder / "config.toml").exists()
    train(recipe())
    with locked(folder):
        pass


def test_wall_time_adds_up_over_interruptions(recipe: MakeRecipe) -> None:
    run = train(recipe(steps=3)).folder
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [row["time_total_s"] for row in metrics]
    assert 0 < times[0] < times[1] < times[2] < json.loads((run / "summary.json").read_text())["wall_time_s"]
    metrics[-1]["time_total_s"] = 1_000.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics) + '{"step": 4, "ti')
    (run / "summary.json").unlink()
    first, second = (resume(run).summary["wall_time_s"] for _ in range(2))
    assert 1_000 < first < second < 2_000


def test_the_same_command_starts_a_run_goes_on_with_it_and_shows_it_when_it_is_finished(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(file), "--continue"]) == 0
    whole = (run / "checkpoints/step-000002/model.safetensors").read_bytes()
    for path in (run / "checkpoints").glob("step-*/trainer.pt"):
        path.unlink()
    (run / "summary.json").unlink()
    assert main(["train", str(file), "--continue"]) == 0
    assert (run / "checkpoints/step-000002/model.safetensors").read_bytes() == whole
    before = modified(run)
    capsys.readouterr()
    assert main(["train", str(file), "--continue"]) == 0
    captured = capsys.readouterr()
    assert f"{run} holds this run already, finished" in captured.err
    assert "wall time" in captured.out
    assert modified(run) == before


def test_a_run_of_another_recipe_is_not_continued(recipe: MakeRecipe) -> None:
    train(recipe())
    with pytest.raises(ConfigError, match=r"holds a run with optim\.lr = 0\.001, but optim\.lr = 0\.002 is asked for.*--resume"):
        train_or_resume(load_recipe(recipe(optim={"lr": 2e-3})))
