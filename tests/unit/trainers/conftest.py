"""A recipe small enough to run many times: the tiny model of `chains`, rewarded for writing the digit 7."""

from __future__ import annotations

import multiprocessing
import runpy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import load_recipe, to_toml

from ...ports import free_port

SEVENS = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("sevens", isolated=False)
def sevens(problem, rollout):
    share = rollout.response.count("7") / max(1, len(rollout.response))
    return Verdict.correct() if share == 1 else Verdict.partial(share) if share else Verdict.incorrect()
"""


@pytest.fixture(scope="session")
def sevens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference to the verifier; one file for all tests, because a name belongs to one file."""
    file = tmp_path_factory.mktemp("verifier") / "sevens.py"
    file.write_text(SEVENS)
    return f"{file}:sevens"


@pytest.fixture
def recipe(tmp_path: Path, sevens: str) -> Callable[..., dict[str, Any]]:
    """Builds recipes; sections given as keywords replace single keys of the default's sections."""
    default: dict[str, Any] = {
        "kind": "rl",
        "model": "new:tiny",
        "task": "chains",
        "steps": 2,
        "threads": 1,
        "out": str(tmp_path / "run"),
        "verifiers": [{"name": sevens}],
        "rollout": {"group_size": 4, "problems_per_step": 4, "max_tokens": 8},
        "optim": {"lr": 1e-3},
        "eval": {"problems": 0},
        "checkpoint": {"every": 0},
    }

    def build(**changes: Any) -> dict[str, Any]:
        made = dict(default)
        for key, value in changes.items():
            made[key] = {**made[key], **value} if isinstance(value, dict) and isinstance(made.get(key), dict) else value
        return made

    return build


# torch is imported once, in a server from which the processes are forked: a rank starts in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["rlvr.cli.train", "rlvr.trainers.reinforce", "rlvr.engines.native", "rlvr.trainers.model.fsdp", "peft"]
AS_RANK = str(Path(__file__).parent / "model" / "as_rank.py")


class Ranks:
    """Processes that train together, as `torchrun` would start them on this machine."""

    def __init__(self, size: int, argv: Sequence[str], folder: Path, **environment: str) -> None:
        PROCESSES.set_forkserver_preload(PRELOADED)
        port = free_port()
        shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        folder.mkdir(parents=True, exist_ok=True)
        self._logs = [folder / f"rank-{rank}-{port}.log" for rank in range(size)]
        self.processes = []
        for rank, log in enumerate(self._logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
            names = {"ENVIRONMENT": {**shared, **own, **environment}, "LOG": str(log), "ARGV": list(argv)}
            self.processes.append(PROCESSES.Process(target=runpy.run_path, args=(AS_RANK,), kwargs={"init_globals": names}))
        for process in self.processes:
            process.start()

    def codes(self, timeout_s: float = 120.0) -> list[int | None]:
        """Exit codes when all have ended; None for one that has not after `timeout_s`, and is killed."""
        until = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        found = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        return found

    def said(self, rank: int) -> str:
        return self._logs[rank].read_text()

    def succeed(self) -> None:
        codes = self.codes()
        assert codes == [0] * len(codes), "\n".join(self.said(rank) for rank in range(len(codes)))


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[..., Ranks]:
    """Starts ranks: `ranks(2, ["train", recipe])`, or `ranks(2, ["script.py"])`."""
    return lambda size, argv, **environment: Ranks(size, argv, tmp_path / "logs", **environment)


@pytest.fixture
def train_on(tmp_path: Path, ranks: Callable[..., Ranks]) -> Callable[..., Ranks]:
    """Starts the training of a recipe on so many ranks, each on the CPU."""

    def start(size: int, recipe: dict[str, Any], **environment: str) -> Ranks:
        file = tmp_path / f"{Path(recipe['out']).name}.toml"
        file.write_text(to_toml(load_recipe(recipe, ["load.device=cpu"]).model_dump()))
        return ranks(size, ["train", str(file)], **environment)

    return start
