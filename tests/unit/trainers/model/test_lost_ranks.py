"""A rank that dies, fails or hangs ends the run of all within seconds, by name, and the run goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import load_recipe, to_toml

pytestmark = pytest.mark.processes

MakeRecipe = Callable[..., dict[str, Any]]
TrainOn = Callable[..., Any]
Start = Callable[..., Any]


def steps(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize(("victim", "way"), [(0, "ddp"), (1, "ddp"), (0, "deepspeed"), (1, "deepspeed")])
def test_the_death_of_a_rank_ends_the_others_with_its_name_and_the_run_goes_on_from_its_checkpoint(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, ranks: Start, victim: int, way: str
) -> None:
    run = tmp_path / "run"
    started = train_on(2, recipe(steps=400, checkpoint={"every": 2}, load={"parallel": way}, out=str(run)))
    wait_for(lambda: len(steps(run)) >= 3)
    pid = started.processes[victim].pid
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    codes = started.codes()
    assert time.monotonic() - killed < 60
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 3
    said = started.said(1 - victim)
    assert f"rank {victim}" in said
    if victim:
        assert f"process {pid} on" in said
    assert "is gone without a word (killed" in said
    assert f"rlvr train --resume {run}" in said
    assert "Traceback" not in said
    newest = max(path.name for path in (run / "checkpoints").glob("step-*"))
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("steps = 400", f"steps = {int(newest[5:]) + 2}"))
    ranks(2, ["train", "--resume", str(run)]).succeed()
    assert steps(run) == list(range(1, int(newest[5:]) + 3))


def test_a_launcher_that_ends_the_other_rank_does_not_cut_off_what_it_says(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn
) -> None:
    run = tmp_path / "run"
    started = train_on(2, recipe(steps=400, out=str(run)))
    wait_for(lambda: len(steps(run)) >= 2)
    first, second = started.processes
    os.kill(second.pid, signal.SIGKILL)
    while first.is_alive() and "error: " not in started.said(0):
        os.kill(first.pid, signal.SIGTERM)
        time.sleep(0.001)
    assert started.codes() == [3, -signal.SIGKILL]
    assert f"(process {second.pid} on" in started.said(0)
    assert "is gone without a word" in started.said(0)


def test_torchrun_ends_and_says_which_rank_died(tmp_path: Path, recipe: MakeRecipe) -> None:
    run = tmp_path / "run"
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe(steps=400, out=str(run)), ["load.device=cpu"]).model_dump()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rlvr", "train"]
    with subprocess.Popen([*command, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        wait_for(lambda: len(steps(run)) >= 2)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(children) == 2
        victim = max(map(int, children))
        os.kill(victim, signal.SIGKILL)
        _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert f"(process {victim} on" in said or "rank 0 is gone without a word" in said, said
    assert f"rlvr train --resume {run}" in said, said
    assert f"exitcode  : -9 (pid: {victim})" in said, said


def test_accelerate_launch_starts_all_processes_or_is_found_out(tmp_path: Path, recipe: MakeRecipe) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe(steps=1), ["load.device=cpu"]).model_dump()))

    def launch(how: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", how, "--num_processes", "2", "-m", "rlvr", "train"]
        return subprocess.run([*launcher, str(file)], capture_output=True, text=True, timeout=240, check=False)

    alone = launch("--cpu")
    assert alone.returncode != 0
    assert "`accelerate launch --cpu` was asked for several processes, but it starts one alone" in alone.stderr
    assert "torchrun --nproc_per_node N -m rlvr train" in alone.stderr
    both = launch("--multi_gpu")
    assert both.returncode == 0, both.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["world_size"] == 2


# What one rank does while the other waits for it: `{second}` stands for that of rank 1.
MEET = """
import sys, time
from rlvr.errors import EngineError, RlvrError
from rlvr.progress import PROGRESS
from rlvr.trainers.model.distributed import join_world, watched

try:
    joined = join_world("cpu", join_s={join_s})
    with watched(joined, timeout_s={timeout_s}, advice="Do this.") as world:
        world.wait()
        if world.rank:
{second}
        with world.together("adding up gradients"):
            world.wait()
except RlvrError as error:
    sys.stderr.write(str(error))
    sys.exit(3)
"""


@pytest.fixture
def meet(tmp_path: Path, ranks: Start) -> Start:
    def start(second: str, *, timeout_s: float = 60.0, join_s: float = 60.0, **environment: str) -> Any:
        script = tmp_path / "meet.py"
        work = textwrap.indent(textwrap.dedent(second), " " * 12)
        script.write_text(MEET.format(second=work, timeout_s=timeout_s, join_s=join_s))
        return ranks(2, [str(script)], **environment)

    return start


def test_what_a_rank_failed_of_is_what_the_others_say(meet: Start) -> None:
    started = meet("raise EngineError('the engine broke')")
    assert started.codes() == [3, 3]
    assert started.said(1) == "the engine broke"
    assert started.said(0).endswith("failed: the engine broke. Rank 0 was at: waiting for all ranks. Do this.")
    assert started.said(0).startswith("rank 1 (process ")


HANGS_AT_ONCE = "time.sleep(600)"
HANGS_LATER = """
    for _ in range(10):
        time.sleep(0.3)
        PROGRESS.made()
    time.sleep(600)
"""


@pytest.mark.parametrize(("second", "waited_s"), [(HANGS_AT_ONCE, 2), (HANGS_LATER, 5)])
def test_a_rank_that_does_nothing_more_is_named_after_the_time_that_is_set(meet: Start, second: str, waited_s: int) -> None:
    started = meet(second, timeout_s=2.0)
    assert started.codes() == [3, 3]
    said = started.said(0)
    found = re.search(
        r"rank 0 \(process \d+ on .*\) has been at 'waiting for all ranks' for (\d+) s, and nothing moved on any rank for "
        r"(\d+) s \(load\.parallel\.timeout_s = 2\)\. rank 1 \(process \d+ on .*\) is at: its own work, and did nothing "
        r"more for (\d+) s",
        said,
    )
    assert found, said
    waited, still, silent = map(int, found.groups())
    assert waited >= waited_s
    assert 2 <= still <= silent <= waited
    assert said.removeprefix("error: ").strip() == started.said(1).removeprefix("error: ").strip()


def test_a_first_rank_that_is_stopped_whole_is_noticed_by_the_others(tmp_path: Path, meet: Start) -> None:
    here = tmp_path / "here"
    started = meet(f"open({str(here)!r}, 'w').close()\ntime.sleep(600)", timeout_s=2.0)
    first, second = started.processes
    wait_for(here.exists)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not second.is_alive())
    finally:
        first.kill()
    assert started.codes() == [-signal.SIGKILL, 3]
    said = started.said(1)
    assert re.search(r"rank 0 has said nothing for \d+ s \(load\.parallel\.timeout_s = 2\)", said), said
    assert "its process was stopped" in said
    assert "Do this." in said


WORKS = """
    for _ in range(20):
        time.sleep(0.3)
        PROGRESS.made()
"""
LOADS = """
    with PROGRESS.uncounted():
        time.sleep(6)
"""


@pytest.mark.parametrize("second", [WORKS, LOADS])
def test_a_rank_that_still_works_is_waited_for_beyond_that_time(meet: Start, second: str) -> None:
    started = meet(second, timeout_s=4.0)
    assert started.codes() == [0, 0], started.said(0) + started.said(1)


HANGS = """
import os, time
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier

SEEN = []


@verifier("hangs", isolated=False)
def hangs(problem, rollout):
    SEEN.append(rollout)
    if os.environ["RANK"] == "1" and len(SEEN) > 20:
        time.sleep(600)
    return Verdict.correct() if "7" in rollout.response else Verdict.incorrect()
"""


def test_a_training_rank_that_hangs_ends_the_run_and_is_named(tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    asked = recipe(
        steps=400,
        verifiers=[{"name": f"{tmp_path / 'hangs.py'}:hangs"}],
        checkpoint={"every": 1},
        load={"parallel": {"name": "ddp", "timeout_s": 4}},
    )
    started = train_on(2, asked)
    assert started.codes() == [3, 3]
    said = started.said(0)
    assert re.search(r"nothing moved on any rank for \d+ s \(load\.parallel\.timeout_s = 4\)\. rank 1 \(process", said), said
    assert f"rlvr train --resume {tmp_path / 'run'}" in said
    assert any((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_rank_that_never_comes_is_named_within_the_time_to_join(meet: Start) -> None:
    started = meet("pass", join_s=2.0, WORLD_SIZE="3", TORCHELASTIC_USE_AGENT_STORE="False")
    assert started.codes() == [3, 3]
    for rank in (0, 1):
        assert "of 3 processes not all came within 2 s (load.parallel.join_s)" in started.said(rank)
    assert "2/3 clients joined" in started.said(0)


@pytest.mark.parametrize(("interrupt", "hears_it"), [(signal.SIGTERM, (0, 1)), (signal.SIGINT, (0, 1)), (signal.SIGTERM, (1,))])
def test_interrupted_ranks_save_the_step_that_they_finished_together(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, interrupt: signal.Signals, hears_it: tuple[int, ...]
) -> None:
    run = tmp_path / "run"
    started = train_on(2, recipe(steps=400, out=str(run)))
    wait_for(lambda: len(steps(run)) >= 2)
    for rank in hears_it:
        os.kill(started.processes[rank].pid, interrupt)
    assert started.codes() == [130, 130]
    assert f"continue with: rlvr train --resume {run}" in started.said(0)
    assert "Traceback" not in started.said(0) + started.said(1)
    [saved] = (run / "checkpoints").glob("step-*")
    assert int(saved.name.removeprefix("step-")) == len(steps(run))
