"""The native engine in Ray actors, spread over the nodes of a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from safetensors.torch import save

from rlvr.engines.base import WeightUpdate
from rlvr.engines.load import end_ids
from rlvr.engines.ray.replica import ActorNeeds, RayReplica, WeightsStore
from rlvr.engines.ray.sampler import SamplerSetup, Whereabouts
from rlvr.engines.requests import check_prompt, check_sampling, model_context
from rlvr.engines.vllm.gap import LIMITS, Gap, Probes, check, measure
from rlvr.engines.vllm.pool import Pool
from rlvr.engines.vllm.request import Request, Weights
from rlvr.engines.vllm.thread import LoopThread
from rlvr.engines.vllm.weights import merged_tensors
from rlvr.errors import ConfigError, EngineError
from rlvr.integrations.ray_cluster import joined
from rlvr.integrations.ray_grading import RayPool
from rlvr.types import Completion, Sampling

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class RayEngine:
    """`actors` copies of the model, each decoded by the native engine in a Ray actor; the one with the least to do answers.

    Actors go to the nodes in turn, and each reserves `cpus` and `gpus` of its own. Weights are put into Ray's object store once
    for each update. After every update all actors and the trainer's model score the same tokens, and more than the usual rounding
    between them is an error.

    An actor that dies, or its node, is replaced with the present weights, `restarts` times for each; what it was asked is asked
    again, with the same seeds. In fp32 on CPUs a request's tokens are those of `NativeEngine`.

    `address` is a cluster's (unset: RAY_ADDRESS, or one that is started on this machine).

    Raises:
        ConfigError: Ray is missing, or a setting is out of range.
        EngineError: the cluster does not answer or has no room, or the actors compute something else than the model.
    """

    runs_beside = True  # it generates while the trainer's process computes
    verifier_pool = RayPool  # isolated verifiers run on the same nodes

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int = 256,
        max_context: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        actors: int = 2,
        cpus: float = 1.0,
        gpus: float = 0.0,
        address: str | None = None,
        restarts: int = 3,
        request_s: float = 3600.0,
        start_s: float = 300.0,
    ) -> None:
        if min(actors, max_rows) < 1 or min(cpus, gpus, restarts) < 0 or min(request_s, start_s) <= 0:
            raise ConfigError(
                f"engine.args: actors = {actors}, cpus = {cpus:g}, gpus = {gpus:g}, restarts = {restarts}, request_s = "
                f"{request_s:g}, start_s = {start_s:g}; there is at least one actor, and nothing is negative"
            )
        ray = joined(address)
        self.policy_version = 0
        self.max_context = model_context(getattr(model.config, "max_position_embeddings", None), max_context)
        self.eos_ids = end_ids(model, tokenizer)
        self._model = model
        self._precision: Literal["fp32", "bf16"] = precision
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._has_tokenizer = tokenizer is not None
        self._in_flight = 0
        ends = tuple(sorted(self.eos_ids))
        self._probes = Probes(vocabulary=self._vocabulary, max_context=self.max_context, end_ids=ends)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        setup = SamplerSetup(
            config=base.config,
            attention=getattr(base.config, "_attn_implementation", None),
            tokenizer=tokenizer,
            precision=precision,
            max_rows=max_rows,
            max_context=self.max_context,
            end_ids=ends,
            threads=max(1, int(cpus)),
        )
        self._store = WeightsStore(ray)
        shared, needs = ray.put(setup), ActorNeeds(cpus, gpus, request_s, start_s)
        self._replicas = [RayReplica(ray, number, shared, max_rows, needs, self._store) for number in range(actors)]
        self._thread = LoopThread("rlvr-ray")
        self._pool = Pool(self._replicas, restarts=restarts, kind="Ray actors")
        try:
            self._thread.run(self._pool.start(self._weights()))
            self.start_gap = self._measure_gap()
        except BaseException:
            self._close()
            raise

    @property
    def restarts(self) -> int:
        """How often an actor was replaced so far."""
        return self._pool.restarts

    @property
    def whereabouts(self) -> list[Whereabouts]:
        """The node and the process of every actor."""
        return [replica.whereabouts for replica in self._replicas if replica.whereabouts is not None]

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion of `prompt_ids`; see `NativeEngine.generate`. Cancelling the call ends the request there, too.

        Raises:
            ContextFullError: the prompt is too long.
            EngineError: a prompt or setting that cannot be served, or no actor is left.
        """
        prompt = tuple(prompt_ids)
        check_prompt(prompt, vocabulary=self._vocabulary, max_context=self.max_context)
        check_sampling(sampling, has_tokenizer=self._has_tokenizer)
        limit = min(sampling.max_tokens, self.max_context - len(prompt))
        request = Request(prompt, sampling, limit, tuple(sorted(self.eos_ids)))
        version = self.policy_version
        self._in_flight += 1
        try:
            draw = await self._thread.hand_over(self._pool.draw(request))
        finally:
            self._in_flight -= 1
        self._probes.remember(prompt, draw.token_ids)
        return draw.completion(version)

    def update_weights(self) -> WeightUpdate:
        """Hand the model's present weights to all actors, compare logprobs, and raise `policy_version` by one.

        Raises:
            EngineError: requests are in flight, the weights do not arrive, or an actor computes something else with them.
        """
        if self._in_flight:
            raise EngineError(f"weights cannot change while {self._in_flight} requests are in flight; await them first")
        started = time.perf_counter()
        self._thread.run(self._pool.load(self._weights()))
        self._store.keep_newest()
        gap = self._measure_gap()
        self.policy_version += 1
        return WeightUpdate(gap.mean, gap.largest, time.perf_counter() - started, self._pool.restarts)

    async def close(self) -> None:
        """End the actors; the cluster stays. Harmless the second time."""
        self._close()

    def _weights(self) -> Weights:
        tensors = merged_tensors(self._model, _DTYPES[self._precision])
        return self._store.put(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))

    def _measure_gap(self) -> Gap:
        """The largest gap of all actors.

        Raises:
            EngineError: it is larger than rounding makes it.
        """
        requests = self._probes.requests()
        drawn = self._thread.run(self._pool.draw_on_each(requests))
        gaps = {name: measure(requests, draws, self._model, precision=self._precision) for name, draws in drawn.items()}
        for name, gap in gaps.items():
            check(gap, LIMITS[self._precision], name)
        if not gaps:
            raise EngineError("every Ray actor was lost right after it took over the weights")
        return max(gaps.values(), key=lambda gap: gap.mean)

    def _close(self) -> None:
        if self._thread.is_stopped:
            return
        try:
            self._thread.run(self._pool.close())
        finally:
            self._thread.stop()
