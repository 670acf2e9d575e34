"""What a tool is, what it may keep for a rollout, and how a recipe names it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from rlvr.errors import ConfigError, PluginError, RolloutError, boundary
from rlvr.registry import Plugin, resolve
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


@dataclass(frozen=True, slots=True)
class ToolReference:
    """A tool in a recipe: a plugin's name or reference, and its settings."""

    name: str
    settings: Mapping[str, JSON]

    @classmethod
    def parse(cls, value: str | Mapping[str, JSON]) -> ToolReference:
        """`"calculator"`, or a table `{name = "search", corpus = "wiki.jsonl"}` whose other keys are the settings.

        Raises:
            ConfigError: neither.
        """
        if isinstance(value, str):
            return cls(value, {})
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str):
            raise ConfigError(f"env.tools holds {value!r}, but a tool is a name or a table {{name = ..., settings ...}}")
        return cls(name, {key: setting for key, setting in value.items() if key != "name"})


class MakeTools(Protocol):
    """Makes the tools that a recipe names, here or elsewhere."""

    def __call__(self, references: Sequence[ToolReference]) -> Sequence[Tool | Toolkit]:
        """
        Raises:
            PluginError: no such plugin, or it is no tool.
            ConfigError: a setting that it does not have, or refuses.
        """
        ...


def tools_here(references: Sequence[ToolReference]) -> Sequence[Tool | Toolkit]:
    """In this process; see `MakeTools`."""
    return [make_tool(reference) for reference in references]


def make_tool(reference: ToolReference) -> Tool | Toolkit:
    """The tool that a recipe names.

    Raises:
        PluginError: no such plugin, or it is no tool.
        ConfigError: a setting that it does not have, or refuses.
    """
    return tool_of(find_tool(reference), reference.settings)


def find_tool(reference: ToolReference) -> Plugin:
    """The plugin that a recipe names, its settings checked, but no tool made of it.

    Raises:
        PluginError: no such plugin.
        ConfigError: a setting that it does not have.
    """
    plugin = resolve("tools", reference.name)
    if isinstance(plugin.target, type):
        check_settings(plugin, reference.settings)
    elif reference.settings:
        raise ConfigError(f"tool {reference.name!r} has no settings, but got {', '.join(reference.settings)}")
    return plugin


def tool_of(plugin: Plugin, settings: Mapping[str, JSON]) -> Tool | Toolkit:
    """What a plugin makes with settings that fit it.

    Raises:
        PluginError: it is no tool.
        ConfigError: it refuses its settings.
    """
    target = plugin.target
    if isinstance(target, type):
        with boundary(ConfigError, f"tool {plugin.name!r} refuses its settings {dict(settings)}"):
            target = target(**settings)
    if inspect.isfunction(target):
        from rlvr.tools.function import FunctionTool

        return FunctionTool(target, name=plugin.name)
    if not isinstance(target, Tool | Toolkit):
        kind = type(target).__name__
        raise PluginError(f"{plugin.reference} is a {kind}; a tool is a function, or an object with `spec` and `call`")
    return target


def check_settings(plugin: Plugin, settings: Mapping[str, JSON], *, provided: Sequence[str] = ()) -> None:
    """Whether `settings` are parameters of a plugin's class; `provided` are those that it gets from elsewhere.

    Raises:
        ConfigError: one that it does not have (with those that it has), or one that is missing.
    """
    kind = plugin.kind.removesuffix("s")
    parameters = list(inspect.signature(plugin.target).parameters.values())
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name not in provided]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    known = [one.name for one in named]
    for name in settings:
        if name not in known and not takes_any:
            raise ConfigError(f"{kind} {plugin.name!r} has no setting {name!r}; it has {', '.join(known) or 'none'}")
    missing = [one.name for one in named if one.default is one.empty and one.name not in settings]
    if missing:
        raise ConfigError(f"{kind} {plugin.name!r} needs the setting {missing[0]!r}")
