"""The run folder: what was asked for, on what machine, and one line of metrics a step."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlvr.config import Recipe, RunConfig, SftConfig, load_recipe, to_toml
from rlvr.errors import CheckpointError, ConfigError, boundary

_PACKAGES = ("rlvr", "torch", "transformers", "accelerate", "peft", "vllm", "math-verify", "sympy", "numpy")


class RunFolder:
    """Paths and files of one run; everything is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.rollouts = path / "rollouts"
        self.checkpoints = path / "checkpoints"
        self.evaluations = path / "evaluations"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.solve_rates = path / "solve_rates.parquet"
        self.tensorboard = path / "tensorboard"
        self.timeline = path / "timeline.jsonl"  # where generation and update run at the same time

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Start a run.

        Raises:
            ConfigError: the folder already holds a run.
            CheckpointError: it cannot be written.
        """
        folder = cls(path)
        folder.check_is_new()
        try:
            write_text(path / "environment.json", json.dumps(environment(), indent=2) + "\n")
            # Last, because a config is what makes the folder a run.
            write_text(path / "config.toml", to_toml(recipe.model_dump()))
        except OSError as error:
            raise CheckpointError(f"run folder {path} cannot be written: {error.strerror or error}") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, Recipe]:
        """An existing run and the recipe that it was started with.

        Raises:
            ConfigError: there is no run at `path`.
        """
        if not (path / "config.toml").is_file():
            raise ConfigError(f"{path} is not a run folder: it has no config.toml")
        return cls(path), load_recipe(path / "config.toml")

    def check_is_new(self) -> None:
        """
        Raises:
            ConfigError: the folder already holds a run.
        """
        if (self.path / "config.toml").exists():
            raise ConfigError(
                f"{self.path} already holds a run; continue it with `rlvr train --resume {self.path}` or choose another out="
            )

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            CheckpointError: the disk refuses.
        """
        clean = {key: _finite(value) for key, value in metrics.items()}
        with boundary(CheckpointError, f"{self.metrics} cannot be written"), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def rewind(self, step: int) -> None:
        """Forget metrics and rollouts of steps after `step`, which a resumed run will produce again."""
        for file in (self.metrics, self.timeline):
            if file.exists():
                lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
                write_text(file, "".join(line for line in lines if _step_of(line) <= step))
        for pattern, folder in (("step-*.jsonl.gz", self.rollouts), ("step-*.json", self.evaluations)):
            for file in folder.glob(pattern):
                if int(file.name.split(".")[0].removeprefix("step-")) > step:
                    file.unlink()

    def spent_s(self) -> float:
        """Wall-clock seconds of the run so far, over all processes that worked on it."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        spent = [_number(line, "time_total_s") for line in lines[-2:]]  # the last may be cut off
        spent += [_number(self.summary.read_text(encoding="utf-8"), "wall_time_s")] if self.summary.exists() else []
        return max(spent, default=0.0)

    def rollout_file(self, step: int) -> Path:
        return self.rollouts / f"step-{step:06d}.jsonl.gz"

    def evaluation_file(self, step: int) -> Path:
        return self.evaluations / f"step-{step:06d}.json"


def default_path(recipe: RunConfig | SftConfig) -> Path:
    task = Path(recipe.task).name.split(".")[0]
    return Path(recipe.out or f"runs/{task}-{recipe.kind}-{recipe.seed}")


def write_text(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a crash, sees the old or the new text and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions, hardware and commit, for the record."""
    import torch

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "cpu_threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _finite(value: Any) -> Any:
    # JSON has no NaN; a metric that is not a number is null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> float:
    return _number(line, "step", default=math.inf)


def _number(text: str, key: str, default: float = 0.0) -> float:
    """`default` also where a crash cut the text off."""
    try:
        return float(json.loads(text)[key])
    except (json.JSONDecodeError, KeyError, TypeError):
        return default
