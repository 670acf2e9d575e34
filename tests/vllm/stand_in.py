"""A trainer's side of a weight transfer that needs no GPU: it meets the worker's side of rlvr's own backend, and sends to it."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine

from rlvr.engines.vllm.broadcast import Host, layout_of

rounds: list[str] = []


@dataclass
class InitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "stand_in"


class StandIn(TrainerWeightTransferEngine[InitInfo]):
    host: Host

    @classmethod
    def trainer_init(cls, init_info: InitInfo, *, client: Any, source: Any = None) -> StandIn:
        made = cls(client=client, source=source, is_sender=init_info.is_sender)
        made.host = Host("gloo", ("127.0.0.1", 1), 1, torch.device("cpu"))
        with ThreadPoolExecutor(1) as beside:
            asked = beside.submit(client.init_weight_transfer_engine, asdict(made.host.meeting))
            while not made.host.is_complete():
                assert not asked.done(), asked.exception()
                time.sleep(0.01)
            made.host.join()
            asked.result()
        rounds.append("init")
        return made

    def send_weights(self) -> None:
        assert [meta.name for meta in self.source.metadata()] == [name for name, _ in self.source]
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
            path = str(Path(folder) / "weights.safetensors")
            save_file({name: tensor.contiguous() for name, tensor in self.source}, path)
            layout = layout_of(path)
            self.client.start_weight_update()
            rounds.append("start")
            taken = beside.submit(self.client.update_weights, asdict(layout))
            self.host.send(path, layout)
            taken.result()
            rounds.append("update")
            self.client.finish_weight_update()
            rounds.append("finish")
        self.host.close()


WeightTransferTrainerFactory.register_engine("stand_in", StandIn)
