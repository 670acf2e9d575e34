"""One process or many: every rank holds the whole step's plan, computes its share, and gradients are summed.

Because weights are normalised over the whole step before the rows are shared out, the sum of the ranks' gradients
is the gradient of one process.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlvr.errors import ConfigError, RlvrError, TrainingError, boundary
from rlvr.trainers.model.watch import Watch

T = TypeVar("T")
_FOREVER = timedelta(days=30)


class _CollectiveError(RlvrError):
    """An operation of all ranks failed; never leaves this module."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None  # this rank's own device; None in a single process
    watch: Watch | None = None  # of a run in several processes

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
        with self.together("exchanging results"):
            dist.all_gather_object(parts, list(part))
        return parts

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in place."""
        if self.size == 1:
            return
        with self.together("adding up gradients"):
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)

    def sum(self, values: Tensor) -> Tensor:
        """In place, too."""
        if self.size > 1:
            with self.together("adding up"):
                dist.all_reduce(values)
        return values

    def most(self, value: int) -> int:
        """The largest of all ranks' values."""
        if self.size == 1:
            return value
        box = torch.tensor(value, device=self.device)
        with self.together("comparing"):
            dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box)

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with self.together("hearing from rank 0"):
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self, doing: str = "waiting for all ranks") -> None:
        if self.size > 1:
            with self.together(doing):
                dist.all_reduce(torch.zeros(1, device=self.device))

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """Around what needs all ranks: where one is lost, or late, the error says which one.

        Raises:
            TrainingError: an operation between the ranks failed.
        """
        if self.watch is None:
            yield
            return
        self._check_all_are_there()
        self.watch.begin(doing)
        try:
            with boundary(_CollectiveError, doing):
                yield
        except _CollectiveError as error:
            raise TrainingError(self.watch.explain(doing, str(error.__cause__))) from error.__cause__
        finally:
            self.watch.end()

    async def agreed(self, work: Awaitable[T]) -> T:
        """The result of this rank's own `work`; interrupted on all ranks where it is interrupted on one.

        Raises:
            asyncio.CancelledError: on all ranks together, so that they can save together.
            TrainingError: another rank was lost.
        """
        if self.size == 1:
            return await work
        try:
            result = await work
        except asyncio.CancelledError:
            self._check_all_are_there()
            self._ends(is_ending=True)
            raise
        if self._ends(is_ending=False):
            raise asyncio.CancelledError
        return result

    def _ends(self, *, is_ending: bool) -> bool:
        return self.ends_anywhere([flag for flags in self.gather_lists([is_ending]) for flag in flags])

    def ends_anywhere(self, flags: Sequence[bool]) -> bool:
        """Whether any of all ranks' flags says that its run was interrupted: then all end, and none of them is lost."""
        ends = any(flags)
        if ends and self.watch is not None:
            self.watch.ends_together = True
        return ends

    def _check_all_are_there(self) -> None:
        if self.watch is not None and self.watch.lost:
            raise TrainingError(self.watch.lost)


@contextmanager
def watched(world: World, *, timeout_s: float, advice: str) -> Iterator[World]:
    """The world with its ranks watching each other while the block runs; `advice` says what to do when one is lost.

    Raises:
        TrainingError: inside the block, where another rank was lost.
    """
    if world.size == 1:
        yield world
        return
    watch = Watch(world.rank, world.size, timeout_s=timeout_s)
    watch.advice = advice
    address = watch.listen(os.environ.get("MASTER_ADDR") or socket.gethostname()) if world.is_main else None
    address = world.broadcast(address)
    if not world.is_main:
        assert address is not None
        watch.connect(address)
    watch.start()
    failure: str | None = "it was ended"
    try:
        yield replace(world, watch=watch)
        failure = None
    except RlvrError as error:
        failure = str(error)
        raise
    except KeyboardInterrupt:
        failure = None if watch.ends_together else "it was interrupted"
        if watch.lost:  # that is why
            raise TrainingError(watch.lost) from None
        raise
    finally:
        watch.close(failure)


def join_world(device: str = "auto", *, join_s: float = 60.0) -> World:
    """Join the processes that a launcher (`torchrun`, `accelerate launch`) started, within `join_s`; a single process otherwise.

    Raises:
        ConfigError: the launcher promised several processes, but they did not find each other.
    """
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if expected == 1:
        _check_launcher()
        return World()
    has_gpu = device != "cpu" and torch.cuda.is_available()
    own = _own_gpu() if has_gpu else torch.device("cpu")
    if not dist.is_initialized():
        _join(expected, "cpu:gloo,cuda:nccl" if has_gpu else "gloo", join_s)
    if dist.get_world_size() != expected:
        raise ConfigError(
            f"the launcher set WORLD_SIZE={expected}, but {dist.get_world_size()} process(es) joined; "
            "start them with `torchrun --nproc_per_node N -m rlvr train ...`"
        )
    return World(dist.get_rank(), dist.get_world_size(), own)


def _check_launcher() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process; what it leaves behind is an address to meet at."""
    is_alone = "WORLD_SIZE" not in os.environ and "MASTER_ADDR" in os.environ
    if is_alone and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        raise ConfigError(
            "`accelerate launch --cpu` was asked for several processes, but it starts one alone; on the CPU start them with "
            "`torchrun --nproc_per_node N -m rlvr train ...`, or say `--multi_gpu` instead of `--cpu` and set load.device=cpu"
        )


def _own_gpu() -> torch.device:
    place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= count:
        raise ConfigError(
            f"this machine has {count} GPU(s), but a process with LOCAL_RANK={place} was started on it; "
            f"start {count} or fewer (`torchrun --nproc_per_node {count}`)"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def _join(expected: int, backend: str, join_s: float) -> None:
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={expected} promises several processes, but {', '.join(missing)} is not set; start them with "
            "`torchrun --nproc_per_node N -m rlvr train ...`, or unset WORLD_SIZE"
        )
    doing = f"of {expected} processes not all came within {join_s:g} s (load.parallel.join_s)"
    try:
        with boundary(ConfigError, doing):
            store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=join_s)))  # type: ignore[attr-defined]
            store.set(f"rlvr-{rank}", "here")
    except ConfigError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(
            f"MASTER_PORT={os.environ['MASTER_PORT']} is in use on this machine, by another run perhaps; choose another one: "
            "`torchrun --master-port N ...`, `accelerate launch --main_process_port N ...`, or MASTER_PORT=N"
        ) from error
    keys = [f"rlvr-{other}" for other in range(size)]
    try:
        with boundary(_CollectiveError, doing):
            store.wait(keys, timedelta(seconds=join_s))
    except _CollectiveError:
        absent = [str(other) for other, key in enumerate(keys) if not store.check([key])]
        raise ConfigError(f"{doing}: rank {', '.join(absent)} is missing; look at its output, or start it") from None
    with boundary(ConfigError, f"the {expected} processes do not reach each other over {backend}"):
        # How long an operation may wait for a rank is our own watch's to say, which knows whether that rank still moves.
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_FOREVER)
