"""Where a run's numbers go beside metrics.jsonl: TensorBoard always, Weights & Biases where asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError


def check_writers(wandb_project: str | None) -> None:
    """
    Raises:
        ConfigError: W&B was asked for, but is not installed.
    """
    if wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise ConfigError(f"wandb = {wandb_project!r}, but wandb is not installed: pip install 'rlvr[wandb]'")


class MetricWriters:
    """Numeric metrics to every configured place; `check_writers` says beforehand whether that can be done."""

    def __init__(self, folder: Path, wandb_project: str | None, config: Mapping[str, Any], first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after a resumed checkpoint will be written again; TensorBoard hides the old ones.
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self._wandb: Any = None
        if wandb_project is not None:
            self._wandb = importlib.import_module("wandb").init(
                project=wandb_project, name=folder.name, id=folder.name, dir=str(folder), config=dict(config), resume="allow"
            )

    def write(self, metrics: Mapping[str, Any]) -> None:
        step = int(metrics["step"])
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float) and key != "step"}
        for key, value in numbers.items():
            self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
