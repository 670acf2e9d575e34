"""One actor of a Ray cluster as an instance that generates: it may die, and another takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlvr.engines.ray.sampler import Sampler, Whereabouts
from rlvr.engines.vllm.request import Draw, ReplicaLostError, Request, Weights
from rlvr.errors import EngineError
from rlvr.integrations.ray_cluster import ActorFailedError, ActorLostError, answered


@dataclass(frozen=True, slots=True)
class ActorNeeds:
    """What an actor reserves of its node, and how long it may take."""

    cpus: float
    gpus: float
    request_s: float
    start_s: float


class WeightsStore:
    """The newest weights in Ray's object store: every node reads them once, whatever the number of its actors."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._refs: dict[str, Any] = {}
        self._count = 0

    def put(self, data: bytes) -> Weights:
        self._count += 1
        version = f"ray-{self._count}"
        self._refs[version] = self._ray.put(data)
        return Weights("", version)

    def keep_newest(self) -> None:
        """Forget those that no actor asks for any more; the store frees their memory."""
        self._refs = dict(list(self._refs.items())[-1:])

    def forget(self) -> None:
        """Forget all of them."""
        self._refs.clear()

    def ref(self, version: str) -> Any:
        return self._refs[version]


class RayReplica:
    """An actor on whichever node has room, the nodes taken in turn. All methods belong to one event loop."""

    def __init__(self, ray: Any, number: int, setup: Any, max_rows: int, needs: ActorNeeds, store: WeightsStore) -> None:
        self.name = f"Ray actor {number}"
        self._ray, self._setup, self._needs, self._store = ray, setup, needs, store
        self._max_rows = max_rows
        self._actor: Any = None
        self.whereabouts: Whereabouts | None = None  # of the actor that answers now

    async def start(self) -> None:
        await self.close()
        kind = self._ray.remote(Sampler).options(
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,  # an actor that Ray restarts by itself would have no weights
            max_concurrency=self._max_rows + 16,
        )
        self._actor = kind.remote(self._setup)
        try:
            self.whereabouts = await self._answer(self._actor.whereabouts.remote(), self._needs.start_s)
        except ReplicaLostError as error:
            wants = f"{self._needs.cpus:g} CPUs and {self._needs.gpus:g} GPUs"
            raise EngineError(
                f"{error}; it asks for {wants} of one node: see `ray status`, or set engine.args.cpus, gpus or actors"
            ) from error

    async def draw(self, request: Request) -> Draw:
        found: Draw = await self._answer(self._actor.draw.remote(request), self._needs.request_s)
        return found

    async def load(self, weights: Weights) -> None:
        await self._answer(self._actor.load.remote(self._store.ref(weights.version), weights.version), self._needs.start_s)

    async def close(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None and self._ray.is_initialized():
            self._ray.kill(actor)

    async def _answer(self, ref: Any, limit_s: float) -> Any:
        """
        Raises:
            ReplicaLostError: the actor or its node died, or it did not answer in time.
            EngineError: it refuses.
        """
        try:
            return await answered(self._ray, ref, who=self.name, limit_s=limit_s)
        except ActorFailedError as error:
            kind = ReplicaLostError if isinstance(error.cause, ReplicaLostError) else EngineError
            raise kind(f"{self.name}: {error}") from error
        except ActorLostError as error:
            raise ReplicaLostError(str(error)) from error
