"""The native engine in Ray actors, spread over the nodes of a cluster."""

from __future__ import annotations

from typing import Any, Literal

from safetensors.torch import save

from rlvr.engines.ranks import Ranks
from rlvr.engines.ray.replica import ActorNeeds, RayReplica, WeightsStore
from rlvr.engines.ray.sampler import SamplerSetup, Whereabouts
from rlvr.engines.replicated import ReplicatedEngine
from rlvr.engines.vllm.request import Weights
from rlvr.engines.vllm.weights import merged_tensors
from rlvr.errors import ConfigError
from rlvr.integrations.ray_cluster import joined
from rlvr.integrations.ray_grading import RayPool
from rlvr.integrations.ray_tools import tools_on_nodes


class RayEngine(ReplicatedEngine):
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

    verifier_pool = RayPool  # isolated verifiers run on the same nodes
    tool_host = staticmethod(tools_on_nodes)  # and so do tools

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
        ranks: Ranks | None = None,
    ) -> None:
        if actors < 1 or min(cpus, gpus, restarts) < 0 or min(request_s, start_s) <= 0:
            raise ConfigError(
                f"engine.args: actors = {actors}, cpus = {cpus:g}, gpus = {gpus:g}, restarts = {restarts}, request_s = "
                f"{request_s:g}, start_s = {start_s:g}; there is at least one actor, and nothing is negative"
            )
        ray = joined(address)
        super().__init__(
            model, tokenizer, max_rows=max_rows, max_context=max_context, precision=precision, kind="Ray actor", ranks=ranks
        )
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        setup = SamplerSetup(
            config=base.config,
            attention=getattr(base.config, "_attn_implementation", None),
            tokenizer=tokenizer,
            precision=precision,
            max_rows=max_rows,
            max_context=self.max_context,
            end_ids=self._end_ids,
            threads=max(1, int(cpus)),
        )
        self._store = WeightsStore(ray)
        shared, needs = ray.put(setup), ActorNeeds(cpus, gpus, request_s, start_s)
        self._replicas = [RayReplica(ray, number, shared, max_rows, needs, self._store) for number in range(actors)]
        self._begin(lambda: self._replicas, restarts=restarts)

    @property
    def whereabouts(self) -> list[Whereabouts]:
        """The node and the process of every actor."""
        return [replica.whereabouts for replica in self._replicas if replica.whereabouts is not None]

    def _weights(self) -> Weights:
        tensors = merged_tensors(self._model, self._dtype)
        return self._store.put(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))

    def _keep_newest(self) -> None:
        self._store.keep_newest()

    def _forget_weights(self) -> None:
        self._store.forget()
