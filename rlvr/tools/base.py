"""What a tool is, and what it may keep for a rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from rlvr.errors import RolloutError, boundary
from rlvr.types import JSON

T = TypeVar("T")
Output: TypeAlias = "str | bytes | JSON"  # what is neither text nor bytes is shown as JSON


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """How a model sees a tool: `parameters` is the JSON Schema of an object, one property for each argument."""

    name: str
    description: str
    parameters: Mapping[str, JSON]

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments' names, in order."""
        return tuple(self.parameters.get("properties", {}))

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("required", ()))

    @property
    def text_argument(self) -> str | None:
        """The one argument that a block of text can stand for; None if the tool needs more, or something else than text."""
        needed = self.required or self.names[:1]
        if len(needed) != 1:
            return None
        schema = self.parameters.get("properties", {}).get(needed[0], {})
        return needed[0] if schema.get("type") == "string" else None

    def to_json(self) -> dict[str, JSON]:
        """The form that chat templates and OpenAI-compatible servers take."""
        described = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": described}


class Scope:
    """What the tools keep for one rollout: opened when a call first needs it, closed with the rollout, last opened first."""

    def __init__(self, call_s: float = 20.0) -> None:
        self.call_s = call_s  # what one call may take
        self._stack = AsyncExitStack()
        self._kept: dict[int, Any] = {}
        self._opening: dict[int, asyncio.Lock] = {}  # guards what an owner of several tools keeps from being opened twice
        self.notes: dict[str, Any] = {}  # for functions that want to remember something: whatever they put here

    async def keep(self, owner: object, open_it: Callable[[], Awaitable[T]], close_it: Callable[[T], Awaitable[None]]) -> T:
        """What `owner` keeps in this rollout; `open_it` makes it on the first call."""
        async with self._opening.setdefault(id(owner), asyncio.Lock()):
            if id(owner) not in self._kept:
                opened = await open_it()
                self._stack.push_async_callback(close_it, opened)
                self._kept[id(owner)] = opened
        kept: T = self._kept[id(owner)]
        return kept

    async def close(self) -> None:
        """
        Raises:
            RolloutError: something that was kept could not be closed.
        """
        with boundary(RolloutError, "closing what the tools of a rollout kept"):
            await self._stack.aclose()


@runtime_checkable
class Tool(Protocol):
    """Something that a model can call. One instance serves all rollouts of a run; what belongs to one is in its `Scope`."""

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def is_ordered(self) -> bool:
        """Whether the calls of one message must run one after the other, because they share a state."""
        ...

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> Output:
        """Do it. The caller has checked the arguments against the schema and limits the time by cancelling.

        Raises:
            CallError: the call cannot be done as asked; the model is told why.
            ToolError, SandboxError: our infrastructure failed; the rollout ends unscored.
            Exception: any other counts as CallError.
        """
        ...


@runtime_checkable
class SessionTool(Tool, Protocol):
    """A tool that keeps a session for each rollout, and ends its calls itself after `Scope.call_s`: the session survives."""

    async def prepare(self, scope: Scope) -> None:
        """Have the session ready. Waiting for a free one is not the model's doing, so it is outside the call's time."""
        ...


@runtime_checkable
class RemoteTool(SessionTool, Protocol):
    """A session tool whose calls are timed where they run: it always answers or raises, and nobody stops it here."""

    is_remote: bool


@runtime_checkable
class Toolkit(Protocol):
    """Tools that come and go together, such as those of a server."""

    async def open(self) -> Sequence[Tool]:
        """
        Raises:
            ConfigError, ToolError: they cannot be had.
        """
        ...

    async def close(self) -> None:
        """Give back what all rollouts shared. Called exactly once, at the end of the run."""
        ...
