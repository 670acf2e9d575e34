"""One actor of a Ray cluster as an instance that generates: it may die, and another takes its place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from rlvr.engines.ray.sampler import Whereabouts
from rlvr.engines.vllm.request import Draw, ReplicaLostError, Request, Weights
from rlvr.errors import EngineError
from rlvr.integrations.ray_cluster import ActorFailedError, ActorLostError, answered

_NAMESPACE = "rlvr"
_AT_ONCE = 10_000  # requests in an actor; those that it has no row for wait there, and its weights and its version do not
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ActorNeeds:
    """What an actor reserves of its node, and how long it may take."""

    cpus: float
    gpus: float
    request_s: float
    start_s: float
    restarts: int


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


class SharedActor:
    """An actor that another rank starts, replaces and gives its weights: this one only asks it. All methods belong to one loop.

    `run` is the name that all ranks of a run know.
    """

    def __init__(self, ray: Any, run: str, number: int, needs: ActorNeeds) -> None:
        self.name = f"Ray actor {number}"
        self._ray, self._run, self._number, self._needs = ray, run, number, needs
        self._actor: Any = None
        self.whereabouts: Whereabouts | None = None  # of the actor that answers now

    async def start(self) -> None:
        """Find the newest one of this number.

        Raises:
            EngineError: there is none for `start_s`.
        """
        until = asyncio.get_running_loop().time() + self._needs.start_s
        problem = "nobody has started it"
        while asyncio.get_running_loop().time() < until:
            for life in reversed(range(self._needs.restarts + 1)):
                try:
                    self._actor = self._ray.get_actor(self._called(life), namespace=_NAMESPACE)
                    self.whereabouts = await self._answer(self._actor.whereabouts.remote(), self._needs.start_s)
                except ValueError:  # there was none, or it has ended
                    continue
                except ReplicaLostError as error:
                    problem = str(error)
                    continue
                return
            await asyncio.sleep(_POLL_S)
        raise EngineError(f"{self.name} of rank 0 was not there for {self._needs.start_s:g} s: {problem}")

    async def draw(self, request: Request) -> Draw:
        found: Draw = await self._answer(self._actor.draw.remote(request), self._needs.request_s)
        return found

    async def version(self) -> str:
        """Its name for the weights that it has.

        Raises:
            ReplicaLostError: it died.
        """
        return str(await self._answer(self._actor.version.remote(), self._needs.start_s))

    async def load(self, weights: Weights) -> None:
        """Wait until it was given them."""
        until = asyncio.get_running_loop().time() + self._needs.start_s
        while (found := await self.version()) != weights.version:
            if asyncio.get_running_loop().time() > until:
                limit_s = self._needs.start_s
                raise EngineError(
                    f"{self.name} has weights {found!r}; rank 0 did not give it {weights.version!r} within {limit_s:g} s"
                )
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        self._actor = None

    def _called(self, life: int) -> str:
        return f"{self._run}-{self._number}-{life}"

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


class RayReplica(SharedActor):
    """An actor of class `kind`, made with `setup`, on whichever node has room, the nodes in turn. Weights are in `store`."""

    def __init__(
        self, ray: Any, run: str, number: int, needs: ActorNeeds, *, kind: type, setup: Any, store: WeightsStore
    ) -> None:
        super().__init__(ray, run, number, needs)
        self._kind, self._setup, self._store = kind, setup, store
        self._lives = 0

    async def start(self) -> None:
        """
        Raises:
            EngineError: there is no room for it, or it cannot be made.
        """
        await self.close()
        made = self._ray.remote(self._kind).options(
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,  # an actor that Ray restarts by itself would have no weights
            max_concurrency=_AT_ONCE,
            name=self._called(self._lives),
            namespace=_NAMESPACE,
        )
        self._lives += 1
        self._actor = made.remote(self._setup)
        try:
            self.whereabouts = await self._answer(self._actor.whereabouts.remote(), self._needs.start_s)
        except ReplicaLostError as error:
            wants = f"{self._needs.cpus:g} CPUs and {self._needs.gpus:g} GPUs"
            raise EngineError(
                f"{error}; it asks for {wants} of one node: see `ray status`, or set engine.args.cpus, gpus or actors"
            ) from error

    async def load(self, weights: Weights) -> None:
        await self._answer(self._actor.load.remote(self._store.ref(weights.version), weights.version), self._needs.start_s)

    async def close(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None and self._ray.is_initialized():
            self._ray.kill(actor)
