"""Weights from the trainer straight to the workers of a server, by torch's collective operations: no file that both see.

Each server has a process group of its own with the trainer, which is rank 0 of it; so a server that is lost disturbs no other.
Over "nccl" tensors go from GPU to GPU, over "gloo" from one machine's memory to the other's. Both sides of the protocol are here;
of rlvr nothing else is imported, because vLLM's worker processes load it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed
from safetensors import safe_open
from torch import Tensor

dist: Any = torch.distributed  # its stubs know a part of it
TRANSPORTS = ("gloo", "nccl")
JOIN_S = 60.0
_STEP_S = 60.0  # one tensor
_HERE = "here/"  # in the store, with a rank after it
# A server that is gone is an error of one operation; torch would end the whole process.
_NCCL = {"TORCH_NCCL_BLOCKING_WAIT": "1", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the trainer waits for the workers of one server; `size` counts all of them and the trainer."""

    transport: str
    address: str
    port: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one round in their order, as plain data."""

    names: Sequence[str]
    dtypes: Sequence[str]
    shapes: Sequence[Sequence[int]]


class Host:
    """The trainer's end of the group with one server.

    Used in this order, each step after the one before has returned: made, `is_complete` until it is true, `join`, then any
    number of `send`. `close` may come at any time, also from another thread; what is being sent then fails within a minute.
    """

    def __init__(self, transport: str, peer: tuple[str, int], workers: int, device: torch.device) -> None:
        address = way_to(*peer)
        self._device = device if transport == "nccl" else torch.device("cpu")
        listening = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.meeting = Meeting(transport, address, int(listening.getsockname()[1]), workers + 1)
        self._store = dist.TCPStore(
            address,
            self.meeting.port,
            workers + 1,
            is_master=True,
            timeout=timedelta(seconds=JOIN_S),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),  # so that nobody takes the port in between, and no other address listens
        )
        self._group: Any = None

    def is_complete(self) -> bool:
        """Whether all workers have come."""
        return bool(self._store.check([f"{_HERE}{rank}" for rank in range(1, self.meeting.size)]))

    def join(self) -> None:
        """
        Raises:
            RuntimeError: a worker has gone again.
        """
        with _on(self._device):
            self._group = _group(self.meeting, self._store, 0)

    def send(self, path: str, layout: Layout) -> None:
        """Broadcast the tensors of a safetensors file.

        Raises:
            RuntimeError: a worker is gone, or takes more than a minute for a tensor.
        """
        group = self._group
        with _on(self._device), safe_open(path, framework="pt", device=str(self._device)) as file:
            for name in layout.names:
                _broadcast(group, file.get_tensor(name).contiguous())

    def close(self) -> None:
        """Harmless the second time. Over "nccl" it may take a minute."""
        _abort(self._group)
        self._group = None


class Guest:
    """A worker's end: `rank` counts the workers from 1.

    Raises:
        ValueError: a transport that this worker's device does not have.
        RuntimeError: the trainer is not there.
    """

    def __init__(self, meeting: Meeting, rank: int, device: torch.device) -> None:
        if meeting.transport not in TRANSPORTS or (meeting.transport == "nccl" and device.type != "cuda"):
            raise ValueError(
                f"weights cannot come over {meeting.transport!r} to a worker on {device.type}; set engine.args.weights = 'gloo'"
            )
        self._device = device
        self._buffers = device if meeting.transport == "nccl" else torch.device("cpu")
        limit = timedelta(seconds=JOIN_S)
        store = dist.TCPStore(meeting.address, meeting.port, meeting.size, is_master=False, timeout=limit, wait_for_workers=False)
        store.set(f"{_HERE}{rank}", "")
        self._group = _group(meeting, store, rank)

    def receive(self, layout: Layout) -> Iterator[tuple[str, Tensor]]:
        """The tensors of one round, each on the worker's device, as they arrive.

        Raises:
            RuntimeError: the trainer is gone, or sends nothing for a minute.
        """
        for name, dtype, shape in zip(layout.names, layout.dtypes, layout.shapes, strict=True):
            tensor = torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=self._buffers)
            _broadcast(self._group, tensor)
            yield name, tensor.to(self._device)

    def close(self) -> None:
        """The trainer's end notices it. Harmless the second time."""
        _abort(self._group)
        self._group = None


@lru_cache(maxsize=2)  # all servers are sent the same
def layout_of(path: str) -> Layout:
    """That of a safetensors file, in the order in which it is sent."""
    found: dict[str, tuple[str, list[int]]] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_tensor(name)
            found[name] = (str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
    return Layout(list(found), [dtype for dtype, _ in found.values()], [shape for _, shape in found.values()])


def way_to(host: str, port: int) -> str:
    """The address of this machine under which `host` sees it; nothing is sent.

    Raises:
        OSError: there is no way to it.
    """
    problem = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError as error:  # no way to an address of this family
            problem = error
    raise problem


def _group(meeting: Meeting, store: Any, rank: int) -> Any:
    limit = timedelta(seconds=_STEP_S)
    if meeting.transport == "nccl":
        with _unless_set(_NCCL):
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            group = dist.ProcessGroupNCCL(store, rank, meeting.size, options)
            group.eager_connect_single_device(torch.device("cuda", torch.cuda.current_device()))
            return group
    # Left to itself, gloo listens on what the machine's own name stands for, which other machines may not reach.
    mine = meeting.address if rank == 0 else way_to(meeting.address, meeting.port)
    options = dist.ProcessGroupGloo._Options()
    options._timeout = limit
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=mine)]
    return dist.ProcessGroupGloo(store, rank, meeting.size, options)


def _abort(group: Any) -> None:
    if group is not None:
        with suppress(RuntimeError):  # that others have gone is no news
            group.abort()


def _broadcast(group: Any, tensor: Tensor) -> None:
    """From rank 0, as bytes: gloo does not know every type. Returns when the tensor may be read, or written to again."""
    if group is None:
        raise RuntimeError("the group of trainer and server was closed")
    if tensor.numel():
        options = dist.BroadcastOptions()
        options.rootRank = 0
        group.broadcast([tensor.view(-1).view(torch.uint8)], options).wait()
        if tensor.is_cuda:
            torch.cuda.current_stream(tensor.device).synchronize()


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.cuda.stream(stream):  # what the trainer computes goes on
            yield
    else:
        yield


@contextmanager
def _unless_set(wanted: Mapping[str, str]) -> Iterator[None]:
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
