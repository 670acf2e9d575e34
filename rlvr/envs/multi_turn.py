"""A conversation with a partner that answers, with or without tools."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rlvr.envs.base import Opening, Reply
from rlvr.envs.partners import PARTNERS, Partner
from rlvr.envs.tool_port import ToolPort
from rlvr.errors import ConfigError, RolloutError, boundary
from rlvr.registry import Plugin, resolve
from rlvr.tools.make import check_settings
from rlvr.types import JSON, Message, Problem


class MultiTurn:
    """Makes conversations with one partner, which all rollouts of a run share.

    `partner` is `feedback` (a verifier's findings), `scripted_user`, `guessing_game`, or the reference of a function or class
    (`path/file.py:name`); the other settings are its own. See `rlvr.envs.partners`.

    Raises:
        ConfigError, PluginError: no such partner, or a setting that it does not have.
    """

    def __init__(self, *, partner: str, tools: ToolPort | None = None, **settings: JSON) -> None:
        self._partner = _make(partner, settings)
        self._tools = tools
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> MultiTurn:
        if isinstance(self._partner, contextlib.AbstractAsyncContextManager):
            await self._stack.enter_async_context(self._partner)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def __call__(self) -> Conversation:
        return Conversation(self._partner, self._tools)


class Conversation:
    """One rollout. A message with a tool call goes to the tools, any other to the partner."""

    def __init__(self, partner: Partner, tools: ToolPort | None) -> None:
        self._partner = partner
        self._tools = tools
        self._calls = tools.open() if tools is not None else None
        self._problem: Problem | None = None
        self._seed = 0
        self._said: list[str] = []
        self._unfinished = ""  # of a message that tools answer inside

    async def start(self, problem: Problem, seed: int) -> Opening:
        self._problem, self._seed = problem, seed
        return self._tools.opening(problem) if self._tools is not None else Opening(problem.prompt)

    async def reply(self, messages: Sequence[Message]) -> Reply:
        """
        Raises:
            RolloutError: tools or partner failed.
        """
        if self._problem is None:
            raise RolloutError("a conversation was replied to before it was started")
        reply = await self._calls.answer(messages[-1]) if self._calls is not None else None
        if reply is not None:
            self._unfinished = self._unfinished + messages[-1].content if reply.inline is not None else ""
            return reply
        self._said.append(self._unfinished + messages[-1].content)
        self._unfinished = ""
        with boundary(RolloutError, "the partner of a conversation failed"):
            text = await _heard(self._partner, self._problem, tuple(self._said), self._seed)
        return Reply((Message("user", text),)) if text is not None else Reply()

    async def close(self) -> None:
        if self._calls is not None:
            await self._calls.close()


async def _heard(partner: Any, problem: Problem, said: Sequence[str], seed: int) -> str | None:
    answer = partner(problem, said, seed)
    text = await answer if inspect.isawaitable(answer) else answer
    if text is not None and not isinstance(text, str):
        raise RolloutError(f"a partner said {text!r}, but it must be text, or None for nothing more")
    return text


def _make(name: str, settings: dict[str, JSON]) -> Partner:
    if name in PARTNERS:
        plugin = Plugin("partners", name, PARTNERS[name], name, "rlvr")
    elif ":" in name:
        plugin = resolve("envs", name)
    else:
        raise ConfigError(f"env.args.partner = {name!r}; known: {', '.join(PARTNERS)}, or path/file.py:name")
    if isinstance(plugin.target, type):
        check_settings(plugin, settings)
        made: Partner = plugin.target(**settings)
        return made
    if settings or not callable(plugin.target):
        what = (
            f"has no settings, but got {', '.join(settings)}" if settings else f"is {plugin.target!r}, but a function is needed"
        )
        raise ConfigError(f"the partner {name!r} {what}")
    function: Partner = plugin.target
    return function
