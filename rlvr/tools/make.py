"""How a recipe names its tools, and what is made of the names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlvr.errors import ConfigError, PluginError, boundary
from rlvr.registry import Plugin, resolve
from rlvr.tools.base import Tool, Toolkit
from rlvr.tools.function import FunctionTool
from rlvr.types import JSON


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
