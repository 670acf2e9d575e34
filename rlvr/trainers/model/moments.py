"""AdamW's moments in checkpoints: every process writes the parts that it has, and any number of processes reads them again.

The files are safetensors, written with torch.distributed.checkpoint; nothing in them is unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from rlvr.errors import CheckpointError, boundary

MOMENTS = "moments"  # the folder in a checkpoint
KINDS = ("exp_avg", "exp_avg_sq")


class MomentsInParts(Protocol):
    """An optimizer's state that several processes hold together; every method but `steps` is called by all of them."""

    def steps(self) -> dict[str, float]:
        """How often each parameter was updated; those that never were are left out."""
        ...

    def save(self, folder: Path) -> None:
        """
        Raises:
            CheckpointError: it could not be written.
        """
        ...

    def load(self, folder: Path, steps: dict[str, float]) -> None:
        """What any number of processes have saved.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        ...

    def spread(self, state: dict[str, Any]) -> None:
        """Take over the state of an optimizer of whole parameters; each process keeps its part."""
        ...


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
        state, own = self.optimizer.state, zip(self.names, _parameters(self.optimizer), strict=True)
        return {name: float(state[parameter]["step"]) for name, parameter in own if parameter in state}

    def save(self, folder: Path) -> None:
        write(self._tensors(self.steps()), folder)

    def load(self, folder: Path, steps: dict[str, float]) -> None:
        for name, parameter in zip(self.names, _parameters(self.optimizer), strict=True):
            if name in steps:
                self._fill(parameter, steps[name], {kind: torch.zeros_like(parameter) for kind in KINDS})
        read(self._tensors(steps), folder, is_alone=not dist.is_initialized())

    def spread(self, state: dict[str, Any]) -> None:
        for index, parameter in enumerate(_parameters(self.optimizer)):
            if (found := state["state"].get(index)) is not None:
                self._fill(parameter, float(found["step"]), {kind: _part(found[kind], parameter) for kind in KINDS})

    def _tensors(self, steps: dict[str, float]) -> dict[str, Tensor]:
        own = zip(self.names, _parameters(self.optimizer), strict=True)
        return {f"{name}.{kind}": self.optimizer.state[one][kind] for name, one in own if name in steps for kind in KINDS}

    def _fill(self, parameter: nn.Parameter, step: float, moments: dict[str, Tensor]) -> None:
        # Where torch's fused AdamW wants the step to be.
        self.optimizer.state[parameter] = {"step": torch.tensor(step, device=parameter.device), **moments}


def write(tensors: dict[str, Tensor], folder: Path) -> None:
    """What each process has, whole tensors or parts of them, into one folder; called by all processes.

    Raises:
        CheckpointError: it could not be written.
    """
    with boundary(CheckpointError, f"{folder} could not be written"):
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read(tensors: dict[str, Tensor], folder: Path, *, is_alone: bool) -> None:
    """Fill `tensors` with what lies in a folder: each process for itself, or all of them in step.

    Raises:
        CheckpointError: a tensor is missing or damaged.
    """
    doing = f"the optimizer's state in {folder} cannot be read"
    with boundary(CheckpointError, doing), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as is meant here
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=is_alone)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _part(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """What belongs to `parameter` of a tensor that every rank has whole."""
    data: Any = parameter.data
    if not isinstance(data, DTensor):
        return value.to(data.device)
    there = value.to(data.device_mesh.device_type)
    return distribute_tensor(there, data.device_mesh, data.placements, src_data_rank=None).to(parameter.device)
