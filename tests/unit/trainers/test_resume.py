"""A run that is killed at any moment and resumed ends exactly like one that was never interrupted."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.config import load_recipe, to_toml
from rlvr.filtering.posterior import read_solve_rates
from rlvr.trainers.run.checkpoint import load_state
from rlvr.trainers.run.health import HealthWatch
from rlvr.trainers.train import resume, train

pytestmark = pytest.mark.processes

MakeRecipe = Callable[..., dict[str, Any]]
# torch is imported once, in a server from which the processes are forked: a process starts in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rlvr.trainers.train", "rlvr.trainers.reinforce", "rlvr.engines.native", "transformers"])

RL = {
    "steps": 6,
    "data": {"problems": 12, "half_life": 2.5},
    "eval": {"problems": 4, "n": 2, "k": [1], "every": 3, "split": "train"},  # so that it feeds the solve rates too
    "checkpoint": {"every": 2},
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "plain": {"name": "grpo"},
    "frozen reference": {"name": "grpo", "kl_coef": 0.1, "entropy_coef": 0.01},
    "refreshed reference, two updates": {"name": "rloo", "kl_coef": 0.1},
    "groups that wait": {"name": "dapo", "overlong": False},
}
SECTIONS: dict[str, dict[str, Any]] = {
    # The warm-up ends in the step in which the run is killed.
    "frozen reference": {"shapes": [{"name": "kimi_length", "warmup_steps": 4}, "overlong_filter"]},
    "groups that wait": {
        "curriculum": {"name": "retire", "within": {"name": "mixture", "by": "terms", "weights": "progress"}},
        "rollout": {"oversample": 1.5},
        "filters": ["too_easy"],
    },
}
OPTIM: dict[str, dict[str, Any]] = {"refreshed reference, two updates": {"reference_every": 2, "epochs": 2}}

# When to kill: the run is at this point as soon as the condition on its folder holds.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "evaluation before training": lambda run: (run / "config.toml").exists(),
    "generation of step 2": lambda run: lines(run) == 1,
    "update of step 2": lambda run: (run / "rollouts/step-000002.jsonl.gz").exists(),
    "writing of the first checkpoint": lambda run: any(run.glob("checkpoints/.step-*.tmp")),
    "evaluation after step 3": lambda run: lines(run) == 3,
    "generation of step 5": lambda run: lines(run) == 4,
    "evaluation after training": lambda run: (run / "checkpoints/step-000006").exists(),
}


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def kill_when(condition: Callable[[], bool], process: BaseProcess) -> bool:
    """Kill -9 as soon as the condition holds; False if the process ended before."""
    process.start()
    while process.is_alive():
        if condition():
            process.kill()
            process.join()
            return process.exitcode == -signal.SIGKILL
        process.join(0.001)
    return False


def process_of(function: Callable[..., Any], argument: Any) -> BaseProcess:
    return PROCESSES.Process(target=function, args=(argument,))


def result_of(run: Path) -> dict[str, Any]:
    """Everything that a run leaves behind, times, paths and process ids aside."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    stored = sorted([*run.glob("rollouts/*.gz"), *run.glob("evaluations/*.gz")])
    return {
        "checkpoints": sorted(path.name for path in (run / "checkpoints").glob("step-*")),
        "weights": (newest / "model.safetensors").read_bytes(),
        "trainer's state": plain(load_state(newest)),
        "solve rates": read_solve_rates(run / "solve_rates.parquet") if (run / "rollouts").exists() else [],
        "metrics": [without_times(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "rollouts": {
            path.name: [without_times(json.loads(row)) for row in gzip.decompress(path.read_bytes()).splitlines()]
            for path in stored
        },
        "evaluations": {p.name: without_times(json.loads(p.read_text())) for p in run.glob("evaluations/*.json")},
        "summary": without_times(json.loads((run / "summary.json").read_text().replace(str(run), "RUN"))),
    }


def plain(value: Any) -> Any:
    """Tensors as numbers, so that == compares every bit of them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if not re.search(r"time_|elapsed_s|tokens_per_s", key)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        is_same = found[name] == value  # on its own line: pytest would print megabytes
        assert is_same, f"{name} differ"


def interrupted(recipe: dict[str, Any], moments: dict[str, Callable[[Path], bool]]) -> list[str]:
    """Run to the end, killed at each moment; returns the moments that were hit.

    Some last only milliseconds: after one that was missed the run is at its end, and begins again for those that are left.
    """
    run = Path(recipe["out"])
    hit: list[str] = []
    for _ in range(20):
        left = [name for name in moments if name not in hit]
        if not left:
            break
        shutil.rmtree(run, ignore_errors=True)
        for name in left:
            process = process_of(resume, run) if (run / "config.toml").exists() else process_of(train, recipe)
            if kill_when(lambda name=name: moments[name](run), process):
                hit.append(name)
            elif process.exitcode == 0:
                break
    last = process_of(resume, run)
    last.start()
    last.join()
    assert last.exitcode == 0
    return hit


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_killed_at_any_moment_ends_bit_for_bit_the_same(tmp_path: Path, recipe: MakeRecipe, algorithm: str) -> None:
    settings = {**RL, "algorithm": ALGORITHMS[algorithm], "optim": OPTIM.get(algorithm, {}), **SECTIONS.get(algorithm, {})}
    whole = recipe(**settings, out=str(tmp_path / "whole"))
    train(whole)
    chosen = MOMENTS if algorithm == "plain" else {name: MOMENTS[name] for name in ("generation of step 5",)}
    broken = recipe(**settings, out=str(tmp_path / "broken"))
    hit = interrupted(broken, chosen)
    assert len(hit) >= 0.7 * len(chosen), f"only {hit} were hit"
    assert_same(result_of(tmp_path / "broken"), result_of(tmp_path / "whole"))
    assert not list((tmp_path / "broken").glob("checkpoints/.*.tmp"))


def test_a_killed_warm_start_ends_bit_for_bit_the_same(tmp_path: Path, recipe: MakeRecipe) -> None:
    settings = {
        "kind": "sft",
        "model": "new:tiny",
        "task": "chains",
        "steps": 7,
        "sequences_per_step": 8,
        "max_tokens": 40,  # some demonstrations are longer
        "threads": 1,
        "checkpoint": {"every": 2},
        "optim": {"schedule": "cosine", "warmup_steps": 3, "lr": 1e-3, "weight_decay": 0.1},
    }
    run = train({**settings, "out": str(tmp_path / "whole")})
    moments = {
        "first steps": lambda run: lines(run) == 1,
        "writing": lambda run: any(run.glob("checkpoints/.step-000004*.tmp")),
        "last steps": lambda run: lines(run) == 5,
        "the end": lambda run: (run / "checkpoints/step-000007").exists(),
    }
    assert len(interrupted({**settings, "out": str(tmp_path / "broken")}, moments)) >= 2
    assert_same(result_of(tmp_path / "broken"), result_of(tmp_path / "whole"))
    assert sum(row["left_out"] for row in result_of(run.folder)["metrics"]) > 0


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, recipe: MakeRecipe) -> None:
    run = train(recipe(**RL))
    before = result_of(run.folder)
    again = resume(run.folder)
    assert again.checkpoint == run.checkpoint
    assert_same(result_of(run.folder), before)


def test_a_half_written_checkpoint_is_never_used(tmp_path: Path, recipe: MakeRecipe) -> None:
    run = train(recipe(**RL))
    expected = result_of(run.folder)
    (run.checkpoint / "trainer.pt").unlink()
    (run.checkpoint / "model.safetensors").write_bytes(b"half")
    draft = run.folder / "checkpoints/.step-000005.1.tmp"
    draft.mkdir()
    (draft / "trainer.pt").write_bytes(b"half")
    (run.folder / "summary.json").unlink()
    resume(run.folder)
    assert_same(result_of(run.folder), expected)
    assert not draft.exists()


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_says_how_to_go_on_and_does(
    tmp_path: Path, recipe: MakeRecipe, interrupt: signal.Signals
) -> None:
    settings = {**RL, "checkpoint": {"every": 0}, "steps": 30}
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe(**settings, out=str(tmp_path / "broken"))).model_dump()))
    run = tmp_path / "broken"
    command = [sys.executable, "-m", "rlvr", "train", str(file)]
    # Started by a background job, the tests inherit an ignored SIGINT, and so would the run.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:
        while lines(run) < 2 and process.poll() is None:
            pass
        process.send_signal(interrupt)
        _, said = process.communicate()
    assert process.returncode == 130, said
    assert f"continue with: rlvr train --resume {run}" in said
    assert "Traceback" not in said
    [saved] = (run / "checkpoints").glob("step-*")
    assert int(saved.name.removeprefix("step-")) == lines(run)
    if interrupt is signal.SIGINT:
        train(recipe(**settings, out=str(tmp_path / "whole")))
        resume(run)
        found, expected = result_of(run), result_of(tmp_path / "whole")
        del found["checkpoints"], expected["checkpoints"]  # one more was saved at the interruption
        assert_same(found, expected)


def test_an_interruption_between_an_update_and_the_end_of_its_step_falls_back_to_the_last_checkpoint(
    tmp_path: Path, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the weights are those of a step that has no line yet: they must not be saved as those of the step before."""
    looks = HealthWatch.look

    async def interrupted_in_step_2(self: HealthWatch, rollouts: Any, metrics: Any, step: int) -> Any:
        if step == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return await looks(self, rollouts, metrics, step)

    settings = {"steps": 3, "checkpoint": {"every": 1, "keep": 9}}
    train(recipe(**settings, out=str(tmp_path / "whole")))
    monkeypatch.setattr(HealthWatch, "look", interrupted_in_step_2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(**settings, out=str(tmp_path / "broken")))
    assert [path.name for path in (tmp_path / "broken/checkpoints").iterdir()] == ["step-000001"]
    monkeypatch.undo()
    resume(tmp_path / "broken")
    assert_same(result_of(tmp_path / "broken"), result_of(tmp_path / "whole"))
