"""What runs in a Ray actor: the native engine over a copy of the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors.torch import load

from rlvr.engines.native import NativeEngine
from rlvr.engines.overwrite import overwrite
from rlvr.engines.vllm.request import Draw, Request, draw_of
from rlvr.errors import EngineError, boundary

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class SamplerSetup:
    """What a copy is made from; the weights come later."""

    config: Any  # of transformers
    attention: str | None
    tokenizer: Any
    precision: Literal["fp32", "bf16"]
    max_rows: int
    max_context: int
    end_ids: tuple[int, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an actor runs."""

    node: str
    pid: int


def whereabouts() -> Whereabouts:
    """Of the actor that this process is."""
    import ray

    return Whereabouts(ray.get_runtime_context().get_node_id(), os.getpid())


class Sampler:
    """One copy. Every method runs in the actor's own event loop."""

    def __init__(self, setup: SamplerSetup) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(setup.threads)
        self._setup = setup
        self._names: dict[int, str] = {}  # of the weights so far, by the engine's own count
        with boundary(EngineError, "making the model of a Ray actor"):
            model = AutoModelForCausalLM.from_config(
                setup.config, dtype=_DTYPES[setup.precision], attn_implementation=setup.attention
            )
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._model = model.to(device).eval().requires_grad_(False)
        self._engine: NativeEngine | None = None

    async def whereabouts(self) -> Whereabouts:
        """Answered as soon as the actor is ready."""
        return whereabouts()

    async def load(self, weights: bytes, version: str) -> None:
        """Take over weights in safetensors format, between two decoding steps; what is asked meanwhile goes on with them.

        The engine is made with the first ones, and checks itself against them.
        """
        with boundary(EngineError, "reading the policy's weights"):
            overwrite(self._model, load(weights))
        if self._engine is None:
            setup = self._setup
            self._engine = NativeEngine(
                self._model,
                setup.tokenizer,
                max_rows=setup.max_rows,
                max_context=setup.max_context,
                precision=setup.precision,
            )
            self._engine.eos_ids = frozenset(setup.end_ids)
        else:
            self._engine.take_weights(self._engine.policy_version + 1)
        self._names[self._engine.policy_version] = version

    async def version(self) -> str:
        """The name of the weights that it has; empty before the first ones."""
        return "" if self._engine is None else self._names[self._engine.policy_version]

    async def draw(self, request: Request) -> Draw:
        if self._engine is None:
            raise EngineError("a Ray actor was asked before it had weights")
        found = await self._engine.generate(request.prompt, request.sampling, is_urgent=request.is_urgent)
        counts = found.versions or (found.policy_version,)
        changes = [place for place in range(len(counts)) if place == 0 or counts[place] != counts[place - 1]]
        spans = [(self._names[counts[place]], place) for place in changes]
        return draw_of(found.token_ids, found.logprobs, found.finish_reason.value, spans)
