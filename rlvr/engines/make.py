"""From a recipe's `[engine]` to an engine for a loaded model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rlvr.config import EngineConfig
from rlvr.engines.base import TrainableEngine
from rlvr.engines.load import LoadedModel
from rlvr.engines.native import NativeEngine
from rlvr.engines.ranks import Ranks
from rlvr.engines.spread import SpreadEngine
from rlvr.errors import ConfigError
from rlvr.registry import resolve
from rlvr.tools.make import MakeTools, tools_here
from rlvr.verifiers.pool import MakePool, WorkerPool

_GIVEN = ("model", "tokenizer", "max_rows", "precision", "url", "ranks")  # by this module, from other settings


def make_engine(
    config: EngineConfig, loaded: LoadedModel, *, beside: bool = False, ranks: Ranks | None = None
) -> TrainableEngine:
    """The engine that `config` names, with its settings.

    beside: one that generates while this process computes.
    ranks: the processes that train together, each with an engine of its own.

    Raises:
        PluginError: there is no such engine.
        ConfigError: a setting that it does not have.
        EngineError: it cannot run this model.
    """
    target = resolve("engines", config.name).target
    settings: dict[str, Any] = dict(config.args)
    if beside:
        target = _beside(config, target)
    elif "processes" in settings and target is NativeEngine:
        target = SpreadEngine
    _check_settings(config, target)
    if config.url is not None:
        settings["url"] = config.url
    if ranks is not None and "ranks" in inspect.signature(target).parameters:
        settings["ranks"] = ranks
    engine: TrainableEngine = target(
        loaded.model, loaded.tokenizer, max_rows=config.max_rows, precision=loaded.precision, **settings
    )
    return engine


def verifier_pool(config: EngineConfig) -> MakePool:
    """Where isolated verifiers run: on the engine's own nodes, if it has some (`verifier_pool`), else in processes here.

    Raises:
        PluginError: there is no such engine.
    """
    found: MakePool = getattr(resolve("engines", config.name).target, "verifier_pool", WorkerPool)
    return found


def tool_host(config: EngineConfig) -> MakeTools:
    """Where tools run: on the engine's own nodes, if it has some (`tool_host`), else in this process.

    Raises:
        PluginError: there is no such engine.
    """
    found: MakeTools = getattr(resolve("engines", config.name).target, "tool_host", tools_here)
    return found


@asynccontextmanager
async def closing(engine: TrainableEngine) -> AsyncIterator[None]:
    """End the engine with the block, however the block ends: it may have processes of its own."""
    try:
        yield
    finally:
        await engine.close()


def _beside(config: EngineConfig, target: Any) -> Any:
    """What runs the engine outside this process: itself (`runs_beside`), or what its `beside()` returns."""
    if getattr(target, "runs_beside", False):
        return target
    if not hasattr(target, "beside"):
        raise ConfigError(
            f"engine.name = {config.name!r} computes in the trainer's process, so it cannot generate while that updates; "
            "set rollout.max_staleness = 0, or use 'native' or 'vllm'"
        )
    return target.beside()


def _check_settings(config: EngineConfig, target: Any) -> None:
    parameters = inspect.signature(target).parameters
    if config.url is not None and "url" not in parameters:
        raise ConfigError(f"engine.url = {config.url!r}, but engine {config.name!r} runs in this process; leave it out")
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        parameters_known = None
    else:
        parameters_known = [name for name in parameters if name not in _GIVEN]
    for name in config.args:
        if name in _GIVEN:
            raise ConfigError(f"engine.args.{name} is not set here; {_elsewhere(name)}")
        if parameters_known is not None and name not in parameters_known:
            close = difflib.get_close_matches(name, parameters_known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(parameters_known) or 'no settings'}"
            raise ConfigError(f"engine.args.{name}: engine {config.name!r} has no such setting; {hint}")


def _elsewhere(name: str) -> str:
    return {"precision": "set load.precision", "max_rows": "set engine.max_rows", "url": "set engine.url"}.get(
        name, "rlvr gives the engine its model and tokenizer"
    )
