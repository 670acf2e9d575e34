"""One process or many: every rank holds the whole step's plan, computes its share, and gradients are summed.

Because weights are normalised over the whole step before the rows are shared out, the sum of the ranks' gradients
is the gradient of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlvr.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None  # this rank's own device; None in a single process

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of `items`."""
        return list(items[self.rank :: self.size])

    def gather(self, part: Sequence[T], total: int) -> list[T]:
        """Undo `share`: all `total` items in their order, on every rank."""
        parts = self.gather_lists(part)
        return [parts[index % self.size][index // self.size] for index in range(total)]

    def gather_lists(self, part: Sequence[T]) -> list[list[T]]:
        """Every rank's list, by rank."""
        if self.size == 1:
            return [list(part)]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(part))
        return parts

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in place."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum(self, values: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def join_world(device: str = "auto") -> World:
    """Join the processes that a launcher (`torchrun`, `accelerate launch`) started; a single process otherwise.

    Raises:
        ConfigError: the launcher promised several processes, but they did not find each other.
    """
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if expected == 1:
        return World()
    from accelerate import PartialState

    # Ranks wait for each other during generation and evaluation, which may take far longer than a collective operation.
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=timedelta(hours=2))
    # `accelerate launch --cpu` has been seen to start one process where several were asked for.
    if state.num_processes != expected:
        raise ConfigError(
            f"the launcher set WORLD_SIZE={expected}, but {state.num_processes} process(es) joined; "
            "on the CPU start them with `torchrun --nproc_per_node N -m rlvr train ...`"
        )
    return World(state.process_index, state.num_processes, state.device)
