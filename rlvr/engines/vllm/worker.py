"""Runs inside vLLM's worker processes: takes over weights from a file or from the trainer's broadcast, by vLLM's own protocol.

vLLM imports it where it is started with `worker_extension_cls` = "rlvr.engines.vllm.worker.Worker" and a weight transfer backend
`rlvr`; start, update and finish are vLLM's. What goes wrong in them is kept as `problem`, for the trainer to ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rlvr.engines.vllm.broadcast import Guest, Layout, Meeting
from rlvr.engines.vllm.owner import end_with_owner
from rlvr.errors import EngineError, boundary

BACKEND = "rlvr"


class Worker:
    """Added to vLLM's worker class. None of its methods raises: of several workers vLLM reads answers only up to the first error,
    and takes the others for answers to whatever it asks next."""

    weight_transfer_engine: Any
    vllm_config: Any
    _weight_update_active: bool

    def rlvr_problem(self) -> dict[str, str]:
        """What went wrong in the last update, in words; empty if nothing did."""
        return {"problem": self.weight_transfer_engine.problem}

    def rlvr_abandon(self) -> dict[str, str]:
        """End an update that nobody goes on with, so that the model can be asked again; harmless where there is none. Says why
        that cannot be."""
        self.weight_transfer_engine.problem = ""
        with set_current_vllm_config(self.vllm_config):
            self.weight_transfer_engine.abandon()
        self._weight_update_active = False
        return self.rlvr_problem()


@dataclass
class Init(WeightTransferInitInfo):  # type: ignore[misc]
    """The fields of a `Meeting`. Files need no handshake."""

    transport: str
    address: str
    port: int
    size: int


@dataclass
class Update(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The whole model in checkpoint format: a safetensors file that this process sees, or else the layout of a broadcast."""

    path: str | None = None
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)


class Transfer(WeightTransferEngine[Init, Update]):  # type: ignore[misc]
    """Loads a model's weights tensor by tensor."""

    init_info_cls = Init
    update_info_cls = Update
    problem = ""  # in the last update, or with the last trainer who came
    _guest: Guest | None = None

    def init_transfer_engine(self, init_info: Init) -> None:
        self.shutdown()
        self.problem = ""
        with self._noted("joining the trainer"):
            meeting = Meeting(init_info.transport, init_info.address, init_info.port, init_info.size)
            workers = self.parallel_config
            rank = 1 + workers.data_parallel_index * workers.world_size + workers.rank
            self._guest = Guest(meeting, rank, self.device)

    def start_weight_update(self) -> None:
        self.problem = ""
        with self._noted("making room for weights"):
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        with self._noted("taking weights"):
            if update_info.path is not None:
                self.model.load_weights(self._read(update_info.path))
            elif self._guest is not None:
                layout = Layout(update_info.names, update_info.dtypes, update_info.shapes)
                self.model.load_weights(self._guest.receive(layout))
            else:
                raise EngineError("no trainer has joined this worker for a broadcast, and no file was named")
        if self.problem:
            self.shutdown()  # else the trainer would go on sending

    def finish_weight_update(self) -> None:
        if not self.problem:
            with self._noted("putting weights in their places"):
                self._finalize()
        if self.problem:
            self.abandon()

    def abandon(self) -> None:
        """Layers that are not complete are as before. Complete ones stay new, so that the weights are those of no version."""
        with self._noted("going back to weights of before"):
            for layer in self.model.modules():
                layer_info = get_layerwise_info(layer)
                layer_info.loaded_weights.clear()
                layer_info.load_numel = 0
            self._finalize()

    def _finalize(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _repack_tied_heads(self.model)

    @contextmanager
    def _noted(self, doing: str) -> Iterator[None]:
        try:
            with boundary(EngineError, doing):
                yield
        except EngineError as error:
            self.problem = self.problem or str(error)

    def shutdown(self) -> None:
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.close()

    def _read(self, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)


def _repack_tied_heads(model: Any) -> None:
    """A head that is tied to the embedding gets no tensor of its own, so that vLLM leaves its packed copy as it was."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear") and module.weight.numel():
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


WeightTransferEngineFactory.register_engine(BACKEND, Transfer)
end_with_owner()
