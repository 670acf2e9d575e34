"""Several instances of vLLM as one: the least busy answers, lost ones are brought back, lost requests are asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rlvr.engines.vllm.request import Draw, ReplicaLostError, Request, Weights
from rlvr.errors import EngineError

T = TypeVar("T")
_ATTEMPTS = 3  # of one request


class Replica(Protocol):
    """One instance of vLLM: in processes of ours, or a server."""

    name: str

    async def start(self) -> None:
        """Make it ready to answer; also after it was lost.

        Raises:
            EngineError: that cannot be done; says what to do.
        """
        ...

    async def draw(self, request: Request) -> Draw:
        """
        Raises:
            ReplicaLostError: it died or cannot be reached.
            EngineError: it refuses the request.
        """
        ...

    async def load(self, weights: Weights) -> None:
        """Take over weights and forget what was computed with others; what it is asked meanwhile goes on with them.

        Raises:
            ReplicaLostError: it died or cannot be reached.
            EngineError: it cannot take them.
        """
        ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Member:
    replica: Replica
    restarts_left: int
    in_flight: int = 0
    is_ready: bool = False
    loaded: str = ""  # the name of the weights that it certainly has
    problem: str = ""
    recovery: asyncio.Task[None] | None = None


class Pool:
    """Shares requests among replicas. Each may be lost and brought back `restarts` times, `pause_s` after its loss; a request is
    tried three times.

    All methods belong to one event loop.
    """

    def __init__(
        self, replicas: Sequence[Replica], *, restarts: int, pause_s: float = 0.0, kind: str = "instance of vLLM"
    ) -> None:
        self._members = [_Member(replica, restarts) for replica in replicas]
        self._pause_s = pause_s
        self._kind = kind  # one replica, in messages
        self._weights: Weights | None = None
        self._places: dict[str, int] = {}  # of the names of all weights so far, in their order
        self._turn = 0
        self.restarts = 0  # so far, of all replicas

    async def start(self, weights: Weights) -> None:
        """Start every replica with these weights.

        Raises:
            EngineError: one of them cannot.
        """
        await self.expect(weights)
        await _all(self._start(member) for member in self._members)

    async def expect(self, weights: Weights) -> None:
        """From now on these are the present weights: a replica may answer with them, and one that comes back gets them."""
        self._weights = weights
        self._places.setdefault(weights.version, len(self._places))

    async def loaded(self, weights: Weights) -> None:
        """Every replica was given these weights, by somebody else."""
        await self.expect(weights)
        for member in self._members:
            member.loaded = weights.version if member.is_ready else member.loaded

    async def watch(self, version_of: Callable[[Any], Awaitable[str]], every_s: float) -> None:
        """Bring replicas back that are lost although nothing is asked of them here, because others ask them, too."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.gather(*(self._look_at(member, version_of) for member in self._members if member.is_ready))

    async def load(self, weights: Weights) -> None:
        """Hand new weights to every replica. One that is lost meanwhile gets them when it comes back.

        Raises:
            EngineError: a replica refuses them, or none is left.
        """
        await self.expect(weights)
        ready = [member for member in self._members if member.is_ready]
        await _all(self._load(member, weights) for member in ready)
        await self._free_member()

    async def rest(self) -> None:
        """Let every replica that can give its memory back until the next weights; nothing may be asked of them until then."""
        for member in self._members:
            rest: Callable[[], Awaitable[None]] | None = getattr(member.replica, "rest", None)
            if member.is_ready and rest is not None:
                try:
                    await rest()
                except ReplicaLostError as error:
                    self._lose(member, error)

    async def draw(self, request: Request) -> Draw:
        """The answer of the least busy replica, drawn with the weights that were handed over last, and with those that come
        meanwhile.

        Raises:
            EngineError: it was refused, or lost three times, or no replica is left.
        """
        problem = ""
        for _ in range(_ATTEMPTS):
            member = await self._free_member()
            try:
                draw = await self._draw_on(member, request)
            except ReplicaLostError as error:
                problem = str(error)
                self._lose(member, error)
                continue
            if draw.finish in ("stop", "length"):
                return draw
            problem = f"{member.replica.name} gave up with {draw.finish!r}"
        raise EngineError(f"a request was lost {_ATTEMPTS} times; the last time: {problem}")

    async def draw_on_each(self, requests: Sequence[Request], limit_s: float | None = None) -> dict[str, list[Draw]]:
        """What every ready replica answers to the same requests, by its name; lost ones, and those that take longer than
        `limit_s`, are left out."""
        found: dict[str, list[Draw]] = {}

        async def ask(member: _Member) -> None:
            try:
                async with asyncio.timeout(limit_s):
                    found[member.replica.name] = await _all(self._draw_on(member, request) for request in requests)
            except ReplicaLostError as error:
                self._lose(member, error)
            except TimeoutError:
                self._lose(member, ReplicaLostError(f"{member.replica.name} did not answer within {limit_s:g} s"))

        await self._free_member()
        await _all(ask(member) for member in self._members if member.is_ready)
        return found

    async def close(self) -> None:
        recoveries = [member.recovery for member in self._members if member.recovery is not None]
        for task in recoveries:
            task.cancel()
        await asyncio.gather(*recoveries, return_exceptions=True)
        await _all(member.replica.close() for member in self._members)

    async def _draw_on(self, member: _Member, request: Request) -> Draw:
        had = member.loaded
        member.in_flight += 1
        try:
            draw = await member.replica.draw(request)
        finally:
            member.in_flight -= 1
        if draw.token_ids:
            self._check(member, draw.sampled_by, had)
        return draw

    def _check(self, member: _Member, names: Sequence[str | None], had: str) -> None:
        """See that a replica used no weights but those that it `had`, and those that came later.

        Raises:
            ReplicaLostError: it did.
        """
        for name in names:
            if name is None or self._places.get(name, -1) < self._places[had]:
                wanted = self._weights.version if self._weights is not None else None
                raise ReplicaLostError(
                    f"{member.replica.name} answered with weights {name!r} instead of {wanted!r}; was it restarted, "
                    "or does another run use it?"
                )

    async def _look_at(self, member: _Member, version_of: Callable[[Any], Awaitable[str]]) -> None:
        had = member.loaded
        try:
            self._check(member, (await version_of(member.replica),), had)
        except EngineError as error:
            self._lose(member, error)

    async def _free_member(self) -> _Member:
        """The ready replica with the least to do; waits where all are being brought back."""
        while True:
            ready = [member for member in self._members if member.is_ready]
            if ready:
                self._turn += 1
                start = self._turn % len(ready)
                return min(ready[start:] + ready[:start], key=lambda member: member.in_flight)
            recoveries = [member.recovery for member in self._members if member.recovery is not None]
            if not recoveries:
                problems = "; ".join(member.problem for member in self._members)
                raise EngineError(f"no {self._kind} is left: {problems}")
            await asyncio.wait(recoveries, return_when=asyncio.FIRST_COMPLETED)

    def _lose(self, member: _Member, error: EngineError) -> None:
        """Bring a replica back in the background. Of many requests that notice its loss, the first does so."""
        if not member.is_ready:
            return
        member.is_ready, member.problem = False, str(error)
        if member.restarts_left == 0:
            member.problem += " (it was brought back as often as engine.args.restarts allows)"
            return
        member.restarts_left -= 1
        self.restarts += 1
        member.recovery = asyncio.create_task(self._recover(member))

    async def _recover(self, member: _Member) -> None:
        try:
            while True:
                await asyncio.sleep(self._pause_s)
                try:
                    await self._start(member)
                    return
                except ReplicaLostError as error:
                    member.problem = str(error)
                    if member.restarts_left == 0:
                        return
                    member.restarts_left -= 1
                    self.restarts += 1
        except EngineError as error:
            member.problem = str(error)
        finally:
            member.recovery = None

    async def _start(self, member: _Member) -> None:
        await member.replica.start()
        weights: Weights | None = None
        while weights is not self._weights:  # there may be an update meanwhile
            weights = self._weights
            assert weights is not None
            try:
                await member.replica.load(weights)
            except EngineError:
                if weights is self._weights:
                    raise
        assert weights is not None
        member.is_ready, member.loaded = True, weights.version

    async def _load(self, member: _Member, weights: Weights) -> None:
        try:
            await member.replica.load(weights)
            member.loaded = weights.version
        except ReplicaLostError as error:
            self._lose(member, error)


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure cancels the others, and is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
