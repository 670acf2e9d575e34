"""From a recipe's `[env]` to environments, one for each rollout, with the tools that they share."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rlvr.config import EnvConfig
from rlvr.envs.base import Env, Opening
from rlvr.envs.renderer import Renderer
from rlvr.envs.rollout import RolloutLimits
from rlvr.envs.tool_port import ToolPort
from rlvr.errors import ConfigError
from rlvr.registry import Plugin, resolve
from rlvr.tools.formats import FORMATS, format_for, format_named
from rlvr.tools.make import MakeTools, ToolReference, check_settings, tools_here
from rlvr.tools.parse import ToolFormat
from rlvr.tools.toolbox import CallLimits, Toolbox
from rlvr.types import JSON, Problem

PORT = "tools"  # the parameter through which an environment gets the run's tools


class EnvMaker:
    """Makes the environment of a rollout, each time it is called inside its `async with` block, where the tools are, too.

    An environment plugin is a class whose instances serve one rollout each (`start`, `reply`, `close`), or a factory: a class of
    async context managers, one for the run, that are called for each rollout.

    `renderer` is None for a server that takes messages and knows tools itself. `make_tools` says where tools run: in this
    process, or elsewhere.

    Raises:
        PluginError: no such environment or tool, or one that is broken.
        ConfigError: a setting that they do not have, tools for an environment that takes none, or none for one that needs some.
    """

    def __init__(self, config: EnvConfig, renderer: Renderer | None, *, make_tools: MakeTools = tools_here) -> None:
        self._config = config
        self._renderer = renderer
        self._plugin = check_env_config(config)
        limits = CallLimits(config.limits.call_s, config.limits.output_tokens)
        tools = make_tools([ToolReference.parse(tool) for tool in config.tools])
        self._toolbox = Toolbox(tools, limits, tokenizer=renderer.tokenizer if renderer is not None else None)
        self._stack = contextlib.AsyncExitStack()
        self._port: ToolPort | None = None
        self._factory: Callable[[], Env] | None = None
        self._is_open = False

    @property
    def limits(self) -> RolloutLimits:
        return RolloutLimits(self._config.limits.turns, self._config.limits.wall_s)

    def __call__(self) -> Env:
        if not self._is_open:
            raise ConfigError("the environments are not ready: use their maker inside its `async with` block")
        env: Env = self._factory() if self._factory is not None else self._plugin.target(**self._settings())
        return env

    def opening(self, problem: Problem) -> Opening:
        """The opening with what the model is told about its tools, without starting an environment: to measure its prompt."""
        if self._port is None:
            return Opening(problem.prompt)
        return self._port.opening(problem, describe=bool(self._config.args.get("describe", True)))

    def provenance(self) -> dict[str, JSON]:
        """What decides a rollout beside the model: environment, settings, tools as the model saw them, limits."""
        found: dict[str, JSON] = {"name": self._config.plugin, "args": dict(self._config.args)}
        if self._port is not None:
            found |= {**self._port.provenance(), "limits": self._config.limits.model_dump()}
        return found

    async def __aenter__(self) -> EnvMaker:
        """
        Raises:
            ConfigError, ToolError: the tools cannot be had.
        """
        await self._stack.enter_async_context(self._toolbox)
        try:
            if self._config.tools:
                self._port = self._make_port()
            if hasattr(self._plugin.target, "__aenter__"):  # a factory, which shares something among its environments
                self._factory = await self._stack.enter_async_context(self._plugin.target(**self._settings()))
        except BaseException:
            await self._stack.aclose()
            raise
        self._is_open = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_open, self._port, self._factory = False, None, None
        await self._stack.aclose()

    def _settings(self) -> dict[str, Any]:
        return {**self._config.args, **({PORT: self._port} if self._port is not None else {})}

    def _make_port(self) -> ToolPort:
        calls, renderer = self._config.limits.calls, self._renderer
        specs = self._toolbox.specs
        chosen = self._format(None if renderer is None else renderer.chat_template)
        if chosen.stop and not any(spec.text_argument is not None for spec in specs):
            raise ConfigError(f"env.format = {chosen.name!r} needs a tool that takes one text, such as python or calculator")
        if renderer is None:
            return ToolPort(self._toolbox, chosen, has_native_tools=self._config.format == "auto", max_calls=calls)
        # A template's own words describe its own format, and no other.
        is_own = chosen.marker != "" and renderer.chat_template is not None and chosen.marker in renderer.chat_template
        return ToolPort(
            self._toolbox,
            chosen,
            role="tool" if chosen.name == "mistral" or renderer.can_show("tool") else "user",
            has_native_tools=is_own and renderer.shows_tools([spec.to_json() for spec in specs]),
            has_system=renderer.can_show("system"),
            max_calls=calls,
        )

    def _format(self, chat_template: str | None) -> ToolFormat:
        if self._config.format != "auto":
            return format_named(self._config.format)
        return format_for(chat_template, self._toolbox.specs) if self._renderer is not None else FORMATS["hermes"]


def check_env_config(config: EnvConfig) -> Plugin:
    """What can be checked of an `[env]` without opening anything; returns the environment's plugin.

    Raises:
        PluginError: no such environment or tool, or one that is broken.
        ConfigError: a setting or format that there is not, or tools that do not go with the environment.
    """
    plugin = resolve("envs", config.plugin)
    if config.format != "auto":
        format_named(config.format)
    for tool in config.tools:
        resolve("tools", ToolReference.parse(tool).name)
    _check(plugin, config)
    return plugin


def _check(plugin: Plugin, config: EnvConfig) -> None:
    if not callable(plugin.target):
        raise ConfigError(f"env.name = {plugin.name!r} is {plugin.target!r}, but a class with start, reply and close is needed")
    parameters = inspect.signature(plugin.target).parameters
    takes_tools = PORT in parameters
    if config.tools and not takes_tools:
        raise ConfigError(f"env.tools = {list(config.tools)}, but environment {plugin.name!r} takes no tools; use tool_use")
    if takes_tools and not config.tools and parameters[PORT].default is inspect.Parameter.empty:
        raise ConfigError(f"environment {plugin.name!r} needs env.tools, e.g. env.tools = ['calculator']")
    check_settings(plugin, config.args, provided=(PORT,))
