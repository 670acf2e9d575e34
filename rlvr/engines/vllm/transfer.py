"""Weights straight into the colocated vLLM, through the transfer backends that vLLM itself has for trainers."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvr.types import JSON

# By the name of vLLM's backend, what its trainer's side is made with. Not one of them runs without a GPU.
TRAINER_SIDES = {"ipc": "vllm.distributed.weight_transfer.ipc_engine:IPCTrainerInitInfo"}
_STEP_S = 900.0


class Sender:
    """Drives one round of a backend: start, the tensors, finish. `tensors` makes them anew for each round.

    vLLM's trainer sides are synchronous and call the engine back; `send` belongs into a thread beside the engine's loop.
    """

    def __init__(
        self,
        backend: str,
        tensors: Callable[[], Mapping[str, Tensor]],
        engine: Any,
        loop: asyncio.AbstractEventLoop,
        device: torch.device,
    ) -> None:
        self._backend = backend
        self._source = _Source(tensors)
        self._client = _Client(engine, loop)
        self._device = device
        self._trainer: Any = None

    def send(self) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        here = torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()
        with here:
            if self._trainer is None:
                module, _, name = TRAINER_SIDES[self._backend].partition(":")
                started = getattr(importlib.import_module(module), name)(rank=0)
                self._trainer = WeightTransferTrainerFactory.trainer_init(started, client=self._client, source=self._source)
            self._trainer.send_weights()


class _Source:
    """The policy's tensors as vLLM's `WeightSource`."""

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._tensors().items()

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors().items()]


class _Client:
    """The engine's side of the protocol, for a thread that is not its own."""

    def __init__(self, engine: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    def init_weight_transfer_engine(self, init_info: Mapping[str, JSON]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        self._run(self._engine.init_weight_transfer_engine(WeightTransferInitRequest(dict(init_info))))

    def start_weight_update(self) -> None:
        self._run(self._engine.start_weight_update())

    def update_weights(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._run(self._engine.update_weights(WeightTransferUpdateRequest(update_info)))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._run(self._engine.finish_weight_update(weight_version))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_STEP_S)
