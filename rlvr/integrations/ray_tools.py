"""Tools on the nodes of a Ray cluster: an actor on each has all of them, with sandbox, corpus and servers of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from rlvr.errors import CallError, PluginError, ToolError
from rlvr.integrations.ray_cluster import ActorFailedError, ActorLostError, NodeActor, NodeActors, joined
from rlvr.registry import resolve
from rlvr.tools.base import Output, Scope, Tool, Toolkit, ToolSpec
from rlvr.tools.make import ToolReference, find_tool, tool_of
from rlvr.tools.output import as_json
from rlvr.tools.timed import TimedTool
from rlvr.tools.toolbox import Toolbox
from rlvr.types import JSON

_START_S = 300.0  # importing heavy libraries and reading a corpus on a busy machine
_MARGIN_S = 60.0  # beyond a call's own limit; an actor that takes longer is stuck
_ATTEMPTS = 2  # what an actor was asked when it was lost is asked once more, if no session was lost with it
_STARTS = 3  # of actors that are lost one after the other before they have their tools
_AT_ONCE = 4096  # calls in an actor, those that wait for a session included
_CLOSE_S = 30.0


@dataclass(frozen=True, slots=True)
class NamedTool:
    """How a node finds a tool: by a reference that holds in another process, under the name that it has here."""

    reference: str
    name: str
    settings: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as a node has it. `keeps`: its calls need what earlier calls of their rollout left."""

    spec: ToolSpec
    is_ordered: bool
    keeps: bool


@dataclass(frozen=True, slots=True)
class Returned:
    """What a call gave."""

    output: str | bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """What a `CallError` said."""

    message: str
    output: str
    is_timeout: bool


class ToolNode:
    """What runs in an actor. All methods belong to its event loop.

    `folder` is where the trainer stands; settings with relative paths mean the same here, if this node has it.
    """

    def __init__(self, tools: Sequence[NamedTool], folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        self._named = tuple(tools)
        self._opening: asyncio.Task[Mapping[str, TimedTool]] | None = None
        self._shared = AsyncExitStack()  # what the tools of all rollouts share
        self._scopes: dict[int, Scope] = {}

    async def open(self) -> tuple[Offer, ...]:
        """
        Raises:
            RlvrError: the tools cannot be had on this node.
        """
        tools = (await self._tools()).values()
        return tuple(Offer(one.spec, one.is_ordered, one.is_ordered or one.session is not None) for one in tools)

    async def open_scope(self, number: int, call_s: float) -> None:
        self._scopes[number] = Scope(call_s)

    async def prepare(self, name: str, scope: int) -> None:
        """
        Raises:
            ToolError, SandboxError: the session cannot be had.
        """
        session = (await self._tools())[name].session
        if session is not None:
            await session.prepare(self._scopes[scope])

    async def call(self, name: str, arguments: Mapping[str, JSON], scope: int) -> Returned | Refused:
        """
        Raises:
            ToolError, SandboxError: infrastructure failed.
        """
        return await self._called(name, arguments, self._scopes[scope])

    async def call_alone(self, name: str, arguments: Mapping[str, JSON], call_s: float) -> Returned | Refused:
        """The same for a call that needs nothing of others.

        Raises:
            ToolError, SandboxError: infrastructure failed.
        """
        scope = Scope(call_s)
        try:
            return await self._called(name, arguments, scope)
        finally:
            await scope.close()

    async def close_scope(self, number: int) -> None:
        """
        Raises:
            RolloutError: something that a tool kept could not be closed.
        """
        scope = self._scopes.pop(number, None)
        if scope is not None:
            await scope.close()

    async def pid(self) -> int:
        """Of the actor's process."""
        return os.getpid()

    async def close(self) -> None:
        """Give back the sessions of all rollouts and what they shared."""
        await asyncio.gather(*map(self.close_scope, tuple(self._scopes)), return_exceptions=True)
        await self._shared.aclose()

    async def _called(self, name: str, arguments: Mapping[str, JSON], scope: Scope) -> Returned | Refused:
        tool = (await self._tools())[name]
        try:
            output = await tool.call(arguments, scope)
        except CallError as error:
            return Refused(str(error), error.output, error.is_timeout)
        return Returned(output if isinstance(output, str | bytes) else as_json(output))

    async def _tools(self) -> Mapping[str, TimedTool]:
        if self._opening is None:  # here, because tools belong to the event loop that they are used in
            self._opening = asyncio.ensure_future(self._opened())
        return await asyncio.shield(self._opening)

    async def _opened(self) -> Mapping[str, TimedTool]:
        made = [tool_of(replace(resolve("tools", one.reference), name=one.name), one.settings) for one in self._named]
        return (await self._shared.enter_async_context(Toolbox(made))).tools


@dataclass(frozen=True, slots=True)
class _Lease:
    """Where the sessions of a rollout are: a scope in an actor, as long as it is that actor."""

    member: NodeActor
    handle: Any
    number: int


class RayTools:
    """The tools of a run on all nodes of a Ray cluster, as a `Toolkit`.

    The first call of a rollout that needs a session chooses the node with the fewest of them, and the rollout's other calls that
    need one go there, too. A call that needs none goes to the node with the least to do. Limits of a tool, such as the sessions
    of `python`, hold on each node.

    An actor that is lost, with or without its node, is replaced. Calls that need no session are asked once more; a rollout that
    had one there ends with a `ToolError`, unscored. A tool's own faults are those that it has on one machine.

    Files and corpora that tools name must be on every node, under the same path; each node has its own sandbox (`RLVR_SANDBOX`
    is read there).

    Raises:
        PluginError: there is no such tool, or another process cannot find it.
        ConfigError: a setting that it does not have.
    """

    def __init__(self, references: Sequence[ToolReference]) -> None:
        self._named = tuple(_named(reference) for reference in references)
        self._nodes: NodeActors | None = None
        self._opening: dict[NodeActor, asyncio.Task[tuple[Offer, ...]]] = {}
        self._sessions: dict[NodeActor, int] = {}
        self._numbers = itertools.count()

    @property
    def losses(self) -> int:
        """How often an actor was replaced so far."""
        return 0 if self._nodes is None else self._nodes.losses

    async def pids(self) -> list[int]:
        """The process of each actor that runs tools now."""
        return [await member.handle.pid.remote() for member in self._living().members]

    async def open(self) -> Sequence[Tool]:
        """
        Raises:
            ConfigError: Ray is not installed.
            EngineError: the cluster does not answer.
            ToolError: a node cannot have the tools, or has others than the rest.
        """
        ray = joined(None)
        arguments = (self._named, os.getcwd())
        self._nodes = NodeActors(
            ray, ToolNode, arguments, who="an actor for tools", at_once=_AT_ONCE, on_replaced=self._open_node
        )
        for member in self._nodes.members:
            self._open_node(member)
        first, *others = await asyncio.gather(*self._opening.values())
        if any(offers != first for offers in others):
            raise ToolError("the nodes of the Ray cluster have different tools under the same names; give all the same files")
        return [_NodeTool(self, offer) for offer in first]

    async def close(self) -> None:
        """End the actors; the cluster stays."""
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        if self._nodes is not None:
            await self._nodes.close("close", _CLOSE_S)

    async def ready(self) -> None:
        """Wait for a node that has its tools.

        Raises:
            ToolError: there is none, and none will come.
        """
        while not any(_is_done(task) for task in self._opening.values()):
            waiting = [task for task in self._opening.values() if not task.done()]
            if not waiting:
                await asyncio.gather(*self._opening.values())  # raises what went wrong
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def lease(self, call_s: float) -> _Lease:
        """A scope on the node that has the fewest.

        Raises:
            ToolError: two were lost meanwhile, or there is none.
        """
        cause = ""
        for _ in range(_ATTEMPTS):
            await self.ready()
            member = min(self._open_members(), key=lambda one: (self._sessions.get(one, 0), one.in_flight))
            lease = _Lease(member, member.handle, next(self._numbers))
            self._sessions[member] = self._sessions.get(member, 0) + 1
            try:
                await self._living().ask(member, "open_scope", lease.number, call_s)
            except ActorLostError as error:
                self._sessions[member] -= 1
                cause = str(error)
            except BaseException:
                self._sessions[member] -= 1
                raise
            else:
                return lease
        raise ToolError(f"{cause} ({_ATTEMPTS} attempts)")

    async def release(self, lease: _Lease) -> None:
        """
        Raises:
            ToolError: something that was kept there could not be closed.
        """
        self._sessions[lease.member] -= 1
        if lease.member.handle is not lease.handle:
            return  # what was kept was lost with the actor
        try:
            await self._living().ask(lease.member, "close_scope", lease.number)
        except ActorLostError:
            return
        except ActorFailedError as error:
            raise ToolError(str(error)) from error

    async def ask_there(self, lease: _Lease, method: str, *words: Any, limit_s: float | None = None) -> Any:
        """
        Raises:
            ToolError: infrastructure failed there, or the actor was lost.
        """
        try:
            if lease.member.handle is not lease.handle:
                raise ActorLostError("an actor for tools was lost")
            return await self._living().ask(lease.member, method, *words, limit_s=limit_s)
        except ActorLostError as error:
            raise ToolError(f"{error}, and with it what the tools of this rollout had kept") from error
        except ActorFailedError as error:
            raise ToolError(str(error)) from error

    async def ask_anywhere(self, method: str, *words: Any, limit_s: float) -> Any:
        """Of the node with the least to do; of another one where that is lost.

        Raises:
            ToolError: infrastructure failed there, or two actors were lost.
        """
        cause = ""
        for _ in range(_ATTEMPTS):
            await self.ready()
            member = min(self._open_members(), key=lambda one: one.in_flight)
            try:
                return await self._living().ask(member, method, *words, limit_s=limit_s)
            except ActorFailedError as error:
                raise ToolError(str(error)) from error
            except ActorLostError as error:
                cause = str(error)
        raise ToolError(f"{cause} ({_ATTEMPTS} attempts)")

    def _open_node(self, member: NodeActor) -> None:
        """Begin with the tools of an actor that is new, unless that waits for its predecessor's already."""
        task = self._opening.get(member)
        if task is None or task.done():
            self._opening[member] = asyncio.ensure_future(self._offers(member))

    async def _offers(self, member: NodeActor) -> tuple[Offer, ...]:
        """
        Raises:
            ToolError: the node cannot have the tools, or one actor after the other was lost before it had them.
        """
        names, cause = ", ".join(one.name for one in self._named), ""
        for _ in range(_STARTS):
            try:
                found: tuple[Offer, ...] = await self._living().ask(member, "open", limit_s=_START_S)
            except ActorFailedError as error:
                raise ToolError(f"the tools {names} cannot be had on a node of the Ray cluster: {error}") from error
            except ActorLostError as error:
                cause = str(error)
            else:
                return found
        raise ToolError(f"the tools {names} cannot be had on the Ray cluster: {cause} ({_STARTS} attempts)")

    def _open_members(self) -> list[NodeActor]:
        return [member for member, task in self._opening.items() if _is_done(task)]

    def _living(self) -> NodeActors:
        if self._nodes is None or not self._nodes.members:
            raise ToolError("the tools on the Ray cluster are closed, or were not opened")
        return self._nodes


@dataclass(frozen=True, slots=True)
class _NodeTool:
    """A tool of `pool` as the trainer's process has it."""

    pool: RayTools
    offer: Offer
    is_remote: bool = True

    @property
    def spec(self) -> ToolSpec:
        return self.offer.spec

    @property
    def is_ordered(self) -> bool:
        return self.offer.is_ordered

    async def prepare(self, scope: Scope) -> None:
        if not self.offer.keeps:
            await self.pool.ready()
            return
        lease = await self._lease(scope)
        await self.pool.ask_there(lease, "prepare", self.spec.name, lease.number)

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> Output:
        name, given, limit_s = self.spec.name, dict(arguments), scope.call_s + _MARGIN_S
        if self.offer.keeps:
            lease = await self._lease(scope)
            answer = await self.pool.ask_there(lease, "call", name, given, lease.number, limit_s=limit_s)
        else:
            answer = await self.pool.ask_anywhere("call_alone", name, given, scope.call_s, limit_s=limit_s)
        if isinstance(answer, Refused):
            raise CallError(answer.message, output=answer.output, is_timeout=answer.is_timeout)
        output: Output = answer.output
        return output

    async def _lease(self, scope: Scope) -> _Lease:
        return await scope.keep(self.pool, lambda: self.pool.lease(scope.call_s), self.pool.release)


def tools_on_nodes(references: Sequence[ToolReference]) -> Sequence[Tool | Toolkit]:
    """On every node of a Ray cluster; see `MakeTools` and `RayTools`."""
    return [RayTools(references)] if references else []


def _named(reference: ToolReference) -> NamedTool:
    plugin = find_tool(reference)
    if not plugin.is_reachable:
        raise PluginError(
            f"tool {plugin.name!r} ({plugin.reference}) runs on the nodes of a Ray cluster, which cannot find it; define it at "
            "the top level of a file, and name it path/file.py:name"
        )
    return NamedTool(plugin.reference, plugin.name, dict(reference.settings))


def _is_done(task: asyncio.Task[Any]) -> bool:
    """Whether it has come to a good end."""
    return task.done() and not task.cancelled() and task.exception() is None
