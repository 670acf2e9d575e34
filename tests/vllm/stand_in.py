"""A trainer's side of a weight transfer that needs no GPU: it sends its tensors to the worker's side of rlvr's own backend."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine

rounds: list[str] = []


@dataclass
class InitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "stand_in"


class StandIn(TrainerWeightTransferEngine[InitInfo]):
    @classmethod
    def trainer_init(cls, init_info: InitInfo, *, client: Any, source: Any = None) -> StandIn:
        client.init_weight_transfer_engine({})
        rounds.append("init")
        return cls(client=client, source=source, is_sender=init_info.is_sender)

    def send_weights(self) -> None:
        assert [meta.name for meta in self.source.metadata()] == [name for name, _ in self.source]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in self.source}, path)
            self.client.start_weight_update()
            rounds.append("start")
            self.client.update_weights({"path": str(path)})
            rounds.append("update")
            self.client.finish_weight_update()
            rounds.append("finish")


WeightTransferTrainerFactory.register_engine("stand_in", StandIn)
