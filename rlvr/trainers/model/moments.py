"""AdamW's moments in checkpoints: every process writes the parts that it has, and any number of processes reads them again.

The files are safetensors, written with torch.distributed.checkpoint; nothing in them is unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from rlvr.errors import CheckpointError, boundary

MOMENTS = "moments"  # the folder in a checkpoint
_KINDS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Moments:
    """An optimizer's state by the names of its parameters; a tensor is whole or, of a sharded parameter, in parts."""

    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]  # in the optimizer's order

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> Moments:
        names = {id(parameter): name for name, parameter in named}
        return cls(optimizer, tuple(names[id(parameter)] for parameter in _parameters(optimizer)))

    def steps(self) -> dict[str, float]:
        """How often each parameter was updated; those that never were are left out."""
        state, own = self.optimizer.state, zip(self.names, _parameters(self.optimizer), strict=True)
        return {name: float(state[parameter]["step"]) for name, parameter in own if parameter in state}

    def save(self, folder: Path) -> None:
        """Called by all ranks.

        Raises:
            CheckpointError: it could not be written.
        """
        with boundary(CheckpointError, f"{folder} could not be written"):
            save(self._tensors(self.steps()), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))

    def load(self, folder: Path, steps: dict[str, float]) -> None:
        """What any number of ranks have saved; called by all ranks.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        for name, parameter in zip(self.names, _parameters(self.optimizer), strict=True):
            if name in steps:
                self._fill(parameter, steps[name], {kind: torch.zeros_like(parameter) for kind in _KINDS})
        with boundary(CheckpointError, f"the optimizer's state in {folder} cannot be read"), warnings.catch_warnings():
            alone = not dist.is_initialized()
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as is meant here
            load(self._tensors(steps), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)

    def spread(self, state: dict[str, Any]) -> None:
        """Take over the state of an optimizer of whole parameters; of sharded ones each rank keeps its part."""
        for index, parameter in enumerate(_parameters(self.optimizer)):
            if (found := state["state"].get(index)) is not None:
                self._fill(parameter, float(found["step"]), {kind: _part(found[kind], parameter) for kind in _KINDS})

    def _tensors(self, steps: dict[str, float]) -> dict[str, Tensor]:
        own = zip(self.names, _parameters(self.optimizer), strict=True)
        return {f"{name}.{kind}": self.optimizer.state[one][kind] for name, one in own if name in steps for kind in _KINDS}

    def _fill(self, parameter: nn.Parameter, step: float, moments: dict[str, Tensor]) -> None:
        # Where torch's fused AdamW wants the step to be.
        self.optimizer.state[parameter] = {"step": torch.tensor(step, device=parameter.device), **moments}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _part(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """What belongs to `parameter` of a tensor that every rank has whole."""
    data: Any = parameter.data
    if not isinstance(data, DTensor):
        return value.to(data.device)
    there = value.to(data.device_mesh.device_type)
    return distribute_tensor(there, data.device_mesh, data.placements, src_data_rank=None).to(parameter.device)
