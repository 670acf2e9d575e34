"""What runs in a Ray actor that generates with vLLM: an instance of it, in processes that end with the actor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch

from rlvr.engines.ray.sampler import Whereabouts, whereabouts
from rlvr.engines.vllm.local import LocalReplica, LocalSetup, kv_bytes, save_folder
from rlvr.engines.vllm.request import Draw, Request, Weights
from rlvr.engines.vllm.weights import WeightsFolder
from rlvr.errors import EngineError, boundary
from rlvr.types import JSON


@dataclass(frozen=True, slots=True)
class VllmSamplerSetup:
    """What vLLM is started with; the weights come later, in checkpoint format."""

    config: Any  # of transformers
    architecture: str  # the name of the model's class
    tokenizer: Any
    precision: Literal["fp32", "bf16"]
    max_rows: int
    max_context: int
    arguments: Mapping[str, JSON]  # vLLM's engine arguments
    request_s: float
    threads: int


class VllmSampler:
    """One instance. Every method runs in the actor's own event loop.

    Where vLLM dies, what it is asked raises `ReplicaLostError`: the actor is then replaced as a whole.
    """

    def __init__(self, setup: VllmSamplerSetup) -> None:
        self._setup, self._version = setup, ""
        self._starting: asyncio.Task[LocalReplica] | None = None
        self._folder = WeightsFolder(None)

    async def whereabouts(self) -> Whereabouts:
        """Answered as soon as vLLM is ready.

        Raises:
            EngineError: it is not installed on this node, or does not start.
        """
        await self._replica()
        return whereabouts()

    async def version(self) -> str:
        """The name of the weights that it has; empty before the first ones."""
        return self._version

    async def load(self, weights: bytes, version: str) -> None:
        """Take over weights in safetensors format, through a file in this node's memory, which vLLM's own processes read."""
        replica = await self._replica()
        path = self._folder.path / f"{version}.safetensors"
        try:
            with boundary(EngineError, f"writing the policy's weights to {path}"):
                await asyncio.to_thread(path.write_bytes, weights)
            await replica.load(Weights(str(path), version))
        finally:
            path.unlink(missing_ok=True)
        self._version = version

    async def draw(self, request: Request) -> Draw:
        return await (await self._replica()).draw(request)

    async def _replica(self) -> LocalReplica:
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._started())
        return await asyncio.shield(self._starting)

    async def _started(self) -> LocalReplica:
        if find_spec("vllm") is None:
            raise EngineError("vLLM is not installed on this node of the Ray cluster: pip install 'rlvr[ray,vllm]' on each")
        setup = self._setup
        torch.set_num_threads(setup.threads)
        folder = self._folder.path / "model"
        save_folder(folder, setup.config, setup.architecture, setup.tokenizer)
        replica = LocalReplica(
            LocalSetup(
                folder=str(folder),
                device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
                precision=setup.precision,
                max_rows=setup.max_rows,
                max_context=setup.max_context,
                kv_bytes=kv_bytes(setup.config, setup.precision) * setup.max_context,
                has_tokenizer=setup.tokenizer is not None,
                arguments=setup.arguments,
                tensors=dict,
                request_s=setup.request_s,
            )
        )
        await replica.start()
        return replica
