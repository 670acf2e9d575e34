"""A Ray cluster: joining it, what its actors answer, and an actor on each of its nodes."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlvr.errors import ConfigError, EngineError, boundary

T = TypeVar("T")


class ActorLostError(Exception):
    """An actor died, or its node, or it is stuck."""


class ActorFailedError(Exception):
    """A method of an actor raised `cause`; the actor goes on."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def joined(address: str | None) -> Any:
    """The `ray` module, connected: to what this process uses already, to `address`, to RAY_ADDRESS, or to a cluster started here.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed: pip install 'rlvr[ray]'")
    import ray

    if not ray.is_initialized():
        with boundary(EngineError, f"joining the Ray cluster at {address or 'RAY_ADDRESS, or here'}"):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    return ray


async def answered(ray: Any, ref: Awaitable[Any], *, who: str, limit_s: float | None = None) -> Any:
    """What an actor, called `who` in errors, answers. Cancelling the wait cancels its work, too.

    Raises:
        ActorLostError: it died, or its node, or it did not answer within `limit_s`.
        ActorFailedError: its method raised.
    """
    try:
        return await asyncio.wait_for(_waiting(ref), limit_s)
    except asyncio.CancelledError:
        ray.cancel(ref)
        raise
    except TimeoutError as error:
        raise ActorLostError(f"{who} has not answered within {limit_s:g} s") from error
    except ray.exceptions.RayTaskError as error:
        raise ActorFailedError(error.cause) from error
    except ray.exceptions.RayError as error:
        raise ActorLostError(f"{who} was lost: {(str(error).strip().splitlines() or [type(error).__name__])[0]}") from error


@dataclass(slots=True, eq=False)
class NodeActor:
    """The place of an actor; `handle` changes when it is replaced."""

    number: int
    handle: Any
    in_flight: int = 0
    losses: int = 0


class NodeActors:
    """One actor of `kind` on each node. A lost one is replaced, on whichever node has room.

    They reserve nothing: what they start is bounded, and a node without a free CPU can have one, too. `who` is one of them in
    errors, `on_replaced` is told of each that was replaced.
    """

    def __init__(
        self,
        ray: Any,
        kind: type,
        arguments: Sequence[Any],
        *,
        who: str,
        at_once: int,
        on_replaced: Callable[[NodeActor], None] | None = None,
    ) -> None:
        self._ray, self._kind, self._arguments = ray, kind, tuple(arguments)
        self._who, self._at_once, self._on_replaced = who, at_once, on_replaced
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        self.members = [NodeActor(number, self._start(node)) for number, node in enumerate(nodes)]

    @property
    def losses(self) -> int:
        """How often an actor was replaced so far."""
        return sum(member.losses for member in self.members)

    async def ask(self, member: NodeActor, method: str, *words: Any, limit_s: float | None = None) -> Any:
        """
        Raises:
            ActorLostError: it was lost; another one has its place by now.
            ActorFailedError: its method raised.
        """
        handle = member.handle
        member.in_flight += 1
        try:
            return await answered(self._ray, getattr(handle, method).remote(*words), who=self._who, limit_s=limit_s)
        except ActorLostError:
            self._replace(member, handle)
            raise
        finally:
            member.in_flight -= 1

    async def close(self, method: str, limit_s: float) -> None:
        """Let each end what it started, within `limit_s`, and end them; the cluster stays."""
        members, self.members = self.members, []
        if not self._ray.is_initialized():
            return
        closing = [asyncio.ensure_future(_waiting(getattr(member.handle, method).remote())) for member in members]
        if closing:
            await asyncio.wait(closing, timeout=limit_s)
        for task in closing:
            if task.done() and not task.cancelled():
                task.exception()  # of an actor that is gone already
            task.cancel()
        for member in members:
            self._ray.kill(member.handle)

    def _replace(self, member: NodeActor, lost: Any) -> None:
        """Of many that notice a loss, the first one replaces the actor."""
        if member.handle is not lost or member not in self.members:
            return
        self._ray.kill(lost)
        member.handle = self._start(None)
        member.losses += 1
        if self._on_replaced is not None:
            self._on_replaced(member)

    def _start(self, node_id: str | None) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = "SPREAD" if node_id is None else NodeAffinitySchedulingStrategy(node_id, soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": where, "max_restarts": 0, "max_concurrency": self._at_once}
        return self._ray.remote(self._kind).options(**options).remote(*self._arguments)


async def _waiting(ref: Awaitable[T]) -> T:
    return await ref
