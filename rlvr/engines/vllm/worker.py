"""Runs inside vLLM's worker processes: takes over weights from a file, through vLLM's own protocol for weight transfer.

vLLM imports it where it is started with `worker_extension_cls` = "rlvr.engines.vllm.worker.Worker" and a weight transfer backend
`rlvr_file`; start, update, finish and the version that finish commits are vLLM's. Of rlvr nothing else is loaded there but what
ends it with its trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rlvr.engines.vllm.owner import end_with_owner

BACKEND = "rlvr_file"


class Worker:
    """Added to vLLM's worker class. It has nothing to add: importing this module is what counts."""


@dataclass
class FileInit(WeightTransferInitInfo):  # type: ignore[misc]
    """Files need no handshake."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A safetensors file with the whole model in checkpoint format, on a disk or in memory that this process sees."""

    path: str


class FileTransfer(WeightTransferEngine[FileInit, FileUpdate]):  # type: ignore[misc]
    """Loads a model's weights from files, tensor by tensor."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        self.model.load_weights(self._tensors(update_info.path))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        pass

    def _tensors(self, path: str) -> Iterator[tuple[str, torch.Tensor]]:
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


WeightTransferEngineFactory.register_engine(BACKEND, FileTransfer)
end_with_owner()
