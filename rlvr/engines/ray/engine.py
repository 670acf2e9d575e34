"""The native engine, or vLLM, in Ray actors, spread over the nodes of a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from safetensors.torch import save

from rlvr.engines.base import WeightUpdate
from rlvr.engines.ranks import Alone, Ranks, said_by
from rlvr.engines.ray.replica import ActorNeeds, RayReplica, SharedActor, WeightsStore
from rlvr.engines.ray.sampler import Sampler, SamplerSetup, Whereabouts
from rlvr.engines.ray.vllm_sampler import VllmSampler, VllmSamplerSetup
from rlvr.engines.replicated import ReplicatedEngine
from rlvr.engines.shards import is_sharded, plain_type
from rlvr.engines.vllm.request import Weights
from rlvr.engines.vllm.weights import checkpoint_tensors, merged_tensors
from rlvr.errors import ConfigError
from rlvr.integrations.ray_cluster import joined
from rlvr.integrations.ray_grading import RayPool
from rlvr.integrations.ray_tools import tools_on_nodes
from rlvr.types import JSON

_INNER = ("native", "vllm")
_GPU_SHARE = 0.9  # of its GPU, which vLLM has to itself in an actor


class RayEngine(ReplicatedEngine):
    """`actors` copies of the model, each in a Ray actor that decodes it with the `inner` engine; the least busy one answers.

    Actors go to the nodes in turn, and each reserves `cpus` and `gpus` of its own. Weights are put into Ray's object store once
    for each update. After every update all actors and the trainer's model score the same tokens, and a mean distance above
    `gap_limit` is an error. `push_weights` hands them over between two decoding steps, and requests in flight go on with them.

    An actor that dies, or its node, is replaced with the present weights, `restarts` times for each; what it was asked is asked
    again, with the same seeds. Inside "native" a request's tokens are those of `NativeEngine`, in fp32 on CPUs. Inside "vllm" an
    actor owns an instance of vLLM, started with the engine arguments `vllm`.

    Of several `ranks` the first one starts the actors, replaces them and hands the weights over; all ask all of them.

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
        inner: str = "native",
        vllm: Mapping[str, JSON] | None = None,
        gap_limit: float | None = None,
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
        if inner not in _INNER or (vllm and inner != "vllm"):
            raise ConfigError(
                f"engine.args.inner = {inner!r}{' with engine.args.vllm' if vllm else ''}; choose one of {', '.join(_INNER)}, "
                "and give settings of vLLM to actors that run it"
            )
        if gap_limit is not None and gap_limit <= 0:
            raise ConfigError(f"engine.args.gap_limit = {gap_limit:g}; it is more than 0")
        ray, run = _joined_together(ranks or Alone(), address)
        super().__init__(
            model,
            tokenizer,
            max_rows=max_rows,
            max_context=max_context or (vllm or {}).get("max_model_len"),
            precision=precision,
            kind="Ray actor",
            gap_limit=gap_limit,
            ranks=ranks,
        )
        self._read = checkpoint_tensors if inner == "vllm" else merged_tensors
        self._owns = self._ranks.rank == 0
        self._store = WeightsStore(ray)
        needs = ActorNeeds(cpus, gpus, request_s, start_s, restarts)
        self._replicas: list[SharedActor]
        if self._owns:
            kind = VllmSampler if inner == "vllm" else Sampler
            setup = ray.put(
                self._vllm_setup(tokenizer, max_rows, needs, vllm or {})
                if inner == "vllm"
                else self._setup(tokenizer, max_rows, needs)
            )
            self._replicas = [
                RayReplica(ray, run, number, needs, kind=kind, setup=setup, store=self._store) for number in range(actors)
            ]
        else:
            self._replicas = [SharedActor(ray, run, number, needs) for number in range(actors)]
        is_watched = self._owns and self._ranks.size > 1
        self._begin(
            lambda: self._replicas,
            restarts=restarts,
            hands_over=self._owns,
            version_of=SharedActor.version if is_watched else None,
        )

    def push_weights(self) -> WeightUpdate:
        """The same while requests are in flight; what is compared after this hand-over is looked at with the next one.

        Raises:
            EngineError: the weights do not arrive, or an actor computed something else with the last ones.
        """
        return self._hand_over(waits=False)

    @property
    def whereabouts(self) -> list[Whereabouts]:
        """The node and the process of every actor."""
        return [replica.whereabouts for replica in self._replicas if replica.whereabouts is not None]

    def _weights(self) -> Weights:
        found: Weights | None = None
        if self._owns or is_sharded(self._model):
            tensors = self._read(self._model, self._dtype, is_kept=self._owns)
            if self._owns:
                found = self._store.put(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
        return said_by(self._ranks, 0, found)

    def _keep_newest(self) -> None:
        self._store.keep_newest()

    def _forget_weights(self) -> None:
        self._store.forget()

    def _setup(self, tokenizer: Any, max_rows: int, needs: ActorNeeds) -> SamplerSetup:
        config = self._base().config
        return SamplerSetup(
            config=config,
            attention=getattr(config, "_attn_implementation", None),
            tokenizer=tokenizer,
            precision=self._precision,
            max_rows=max_rows,
            max_context=self.max_context,
            end_ids=self._end_ids,
            threads=max(1, int(needs.cpus)),
        )

    def _vllm_setup(self, tokenizer: Any, max_rows: int, needs: ActorNeeds, arguments: Mapping[str, JSON]) -> VllmSamplerSetup:
        # Several GPUs of an actor are its own: vLLM is not to ask Ray for others.
        suggested: dict[str, JSON] = {"distributed_executor_backend": "mp"} if needs.gpus > 1 else {}
        if needs.gpus > 0:
            suggested["gpu_memory_utilization"] = _GPU_SHARE * min(1.0, needs.gpus)
        return VllmSamplerSetup(
            config=self._base().config,
            architecture=plain_type(self._base()).__name__,
            tokenizer=tokenizer,
            precision=self._precision,
            max_rows=max_rows,
            max_context=self.max_context,
            arguments={**suggested, **arguments},
            request_s=needs.request_s,
            threads=max(1, int(needs.cpus)),
        )

    def _base(self) -> Any:
        return self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model


@dataclass(frozen=True, slots=True)
class _Meeting:
    """Where all ranks find the cluster, and the name of their run in it."""

    address: str
    run: str


def _joined_together(ranks: Ranks, address: str | None) -> tuple[Any, str]:
    """The `ray` module, connected to the cluster of rank 0, and the name of the run."""
    ray = joined(address) if ranks.rank == 0 else None
    here = None if ray is None else _Meeting(ray.get_runtime_context().gcs_address, uuid.uuid4().hex)
    meeting = said_by(ranks, 0, here)
    return ray or joined(meeting.address), meeting.run
