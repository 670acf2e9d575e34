"""The tools of a run, and what happens when a model calls them."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rlvr.errors import CallError, ConfigError
from rlvr.tools.base import Scope, Tool, Toolkit, ToolSpec
from rlvr.tools.output import Counts, clean, shown
from rlvr.tools.parse import Answer, Asked
from rlvr.tools.timed import TimedTool
from rlvr.types import JSON, CallStatus, FunctionCall, ToolCall

_SHOWN_OF_AN_ERROR = 2000  # characters
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one call may take."""

    call_s: float = 20.0
    output_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Called:
    """What became of one call: the record, what the model is told, and the call itself where it could be read."""

    record: ToolCall
    answer: Answer
    call: FunctionCall | None = None


class Toolbox:
    """The tools of a run, open inside its `async with` block, in which its event loop must stay the same.

    `tokenizer` measures outputs in the model's own tokens.
    """

    def __init__(
        self, tools: Sequence[Tool | Toolkit], limits: CallLimits | None = None, *, tokenizer: Counts | None = None
    ) -> None:
        self._given = tuple(tools)
        self._limits = limits or CallLimits()
        self._tokenizer = tokenizer
        self._tools: dict[str, TimedTool] = {}
        self._stack = contextlib.AsyncExitStack()

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """How the model sees the tools, in the order in which they were given."""
        return tuple(tool.spec for tool in self._tools.values())

    @property
    def tools(self) -> Mapping[str, TimedTool]:
        """The tools by their names, open."""
        return self._tools

    async def __aenter__(self) -> Toolbox:
        """
        Raises:
            ConfigError: two tools of one name.
            ToolError: a server of tools cannot be reached.
        """
        try:
            for given in self._given:
                if isinstance(given, Toolkit):
                    self._stack.push_async_callback(given.close)
                    opened = await given.open()
                else:
                    opened = [given]
                for tool in opened:
                    if tool.spec.name in self._tools:
                        raise ConfigError(f"two tools are named {tool.spec.name!r}; a model cannot tell them apart")
                    self._tools[tool.spec.name] = TimedTool(tool)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for tool in self._tools.values():
            tool.close()
        self._tools.clear()
        await self._stack.aclose()

    def open_scope(self) -> Scope:
        """What the tools may keep for a new rollout; whoever opens it closes it."""
        return Scope(self._limits.call_s)

    async def run(self, asked: Sequence[Asked], scope: Scope, *, ids: Sequence[str] = ()) -> tuple[Called, ...]:
        """Run the calls of one message: at the same time, but those of an ordered tool one after the other.

        The answers stand in the order of the calls. `ids` are given to calls that the model gave none.

        Raises:
            ToolError, SandboxError: infrastructure failed.
        """
        names = [*ids, *[""] * len(asked)][: len(asked)]
        chains: dict[str, list[int]] = {}
        for index, one in enumerate(asked):
            tool = self._tools.get(one.name)
            chains.setdefault(one.name if tool is not None and tool.is_ordered else f"{index}.", []).append(index)
        if len(chains) == 1:
            found = {index: await self._one(asked[index], names[index], scope) for index in range(len(asked))}
        else:
            found = {}

            async def follow(chain: Sequence[int]) -> None:
                for index in chain:
                    found[index] = await self._one(asked[index], names[index], scope)

            await _together([follow(chain) for chain in chains.values()])
        return tuple(found[index] for index in range(len(asked)))

    async def _one(self, asked: Asked, call_id: str, scope: Scope) -> Called:
        started = time.perf_counter()
        call_id = asked.id or call_id
        if asked.problem:
            return self._told(asked, CallStatus.MALFORMED, f"This call could not be read: {asked.problem}.", call_id, started)
        tool = self._tools.get(asked.name)
        if tool is None:
            return self._told(asked, CallStatus.UNKNOWN_TOOL, self._unknown(asked.name), call_id, started)
        arguments, wrong = bind(tool.spec, asked)
        if wrong:
            text = f"Wrong arguments for {asked.name}: {wrong}."
            return self._told(asked, CallStatus.BAD_ARGUMENTS, text, call_id, started, arguments)
        try:
            output = await tool.call(arguments, scope)
        except CallError as failure:
            status = CallStatus.TIMED_OUT if failure.is_timeout else CallStatus.FAILED
            text = failure.output or f"Error: {str(failure)[:_SHOWN_OF_AN_ERROR]}"
            return self._told(asked, status, text, call_id, started, arguments)
        seen = shown(output, self._limits.output_tokens, self._tokenizer)
        record = ToolCall(asked.name, arguments, CallStatus.OK, time.perf_counter() - started, seen.is_truncated)
        return Called(record, Answer(seen.text, asked.name, call_id), FunctionCall(asked.name, arguments, call_id))

    def _told(
        self,
        asked: Asked,
        status: CallStatus,
        text: str,
        call_id: str,
        started: float,
        arguments: Mapping[str, JSON] | None = None,
    ) -> Called:
        """The call went wrong, and the model is told why."""
        arguments = dict(asked.arguments if arguments is None else arguments)
        seen = shown(clean(text), self._limits.output_tokens, self._tokenizer)
        is_malformed = status is CallStatus.MALFORMED
        call = None if is_malformed else FunctionCall(asked.name, arguments, call_id)
        record = ToolCall(asked.name, arguments, status, time.perf_counter() - started, seen.is_truncated)
        return Called(record, Answer(seen.text, asked.name, call_id, is_malformed), call)

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name[:100], self._tools, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"There is no tool named {name[:100]!r}; {hint}you have: {', '.join(self._tools) or 'none'}."


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Not a TaskGroup: it would wrap the first error in an ExceptionGroup."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def bind(spec: ToolSpec, asked: Asked) -> tuple[dict[str, JSON], str]:
    """The arguments by name, and what is wrong with them (empty if nothing): missing, unknown, or of another JSON type.

    What lies deeper than the types of single arguments is left to the tool.
    """
    properties: Mapping[str, JSON] = spec.parameters.get("properties", {})
    names = spec.names
    arguments = dict(asked.arguments)
    if len(asked.positional) > len(names):
        return arguments, f"it takes {len(names)} arguments, but {len(asked.positional)} were given"
    for name, value in zip(names, asked.positional, strict=False):
        if name in arguments:
            return arguments, f"{name} was given twice"
        arguments[name] = value
    missing = [name for name in spec.required if name not in arguments]
    if missing:
        return arguments, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    unknown = [name for name in arguments if name not in properties]
    if unknown and spec.parameters.get("additionalProperties") is not True:
        return arguments, f"there is no argument {', '.join(unknown)[:200]}; it has {', '.join(names) or 'none'}"
    for name, value in arguments.items():
        wanted = properties.get(name, {}).get("type") if isinstance(properties.get(name), Mapping) else None
        if isinstance(wanted, str) and not _is_of(value, wanted):
            return arguments, f"{name} must be {_article(wanted)}, got {repr(value)[:60]}"
        out_of_range = _out_of_range(value, properties[name])
        if out_of_range:
            return arguments, f"{name} must be {out_of_range}, got {repr(value)[:60]}"
    return arguments, ""


def _is_of(value: JSON, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(wanted, (object,)))


def _out_of_range(value: JSON, schema: JSON) -> str:
    """What the value of an argument should be, where its schema has choices or bounds that it misses."""
    if not isinstance(schema, Mapping):
        return ""
    choices, low, high = (schema.get(key) for key in ("enum", "minimum", "maximum"))
    if isinstance(choices, list) and value not in choices:
        return f"one of {', '.join(map(repr, choices))[:200]}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(low, int | float) and value < low:
            return f"at least {low}"
        if isinstance(high, int | float) and value > high:
            return f"at most {high}"
    return ""


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aio" else f"a {kind}"
