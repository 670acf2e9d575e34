"""Tools as an environment offers them: how the model is told of them, how its calls are read, run and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlvr.envs.base import Opening, Reply
from rlvr.tools.parse import Asked, Parsed, ToolFormat
from rlvr.tools.toolbox import Called, Toolbox
from rlvr.types import JSON, FunctionCall, Message, Problem, Stop


class ToolPort:
    """The tools of a run in one format of calls; it serves all rollouts.

    `role` is that of the messages that answer calls. `has_native_tools`: the model's template (or its server) tells it about the
    tools; otherwise the system message does, or the first one where `has_system` is False. `max_calls` is for one rollout.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        tool_format: ToolFormat,
        *,
        role: str = "tool",
        has_native_tools: bool = False,
        has_system: bool = True,
        max_calls: int = 16,
    ) -> None:
        self._toolbox = toolbox
        self._format = tool_format
        self._role = role
        self._has_native_tools = has_native_tools
        self._has_system = has_system
        self._max_calls = max_calls

    def opening(self, problem: Problem, *, describe: bool = True) -> Opening:
        """The problem's messages with the tools; `describe=False` keeps quiet about them, for a model that knows them."""
        specs = self._toolbox.specs
        if not describe:
            return Opening(problem.prompt, stop=self._format.stop)
        if self._has_native_tools:
            return Opening(problem.prompt, tuple(spec.to_json() for spec in specs), self._format.stop)
        return Opening(self._told(problem.prompt, self._format.describe(specs)), stop=self._format.stop)

    def open(self) -> Calls:
        """The calls of a new rollout."""
        return Calls(self._toolbox, self._format, self._role, self._max_calls)

    def provenance(self) -> dict[str, JSON]:
        """What decides how tools were used, for the record."""
        return {"format": self._format.name, "tools": [spec.to_json() for spec in self._toolbox.specs]}

    def _told(self, prompt: Sequence[Message], text: str) -> tuple[Message, ...]:
        first, *rest = prompt
        if first.role == "system" or not self._has_system:
            content = f"{first.content}\n\n{text}" if first.role == "system" else f"{text}\n\n{first.content}"
            return (Message(first.role, content), *rest)
        return (Message("system", text), *prompt)


class Calls:
    """The tool calls of one rollout: counted, run, answered."""

    def __init__(self, toolbox: Toolbox, tool_format: ToolFormat, role: str, max_calls: int) -> None:
        self._toolbox = toolbox
        self._format = tool_format
        self._role = role
        self._left = max_calls
        self._made = 0
        self._scope = toolbox.open_scope()

    async def answer(self, message: Message) -> Reply | None:
        """The reply to a message of the model, or None if it calls no tool.

        More calls than are left end the rollout, and none of them is made.

        Raises:
            ToolError, SandboxError: infrastructure failed.
        """
        parsed = self._parsed(message)
        if not parsed.asked:
            return Reply(inline="") if parsed.is_paused else None
        if len(parsed.asked) > self._left:
            return Reply(stop=Stop.MAX_CALLS)
        ids = [f"call{self._made + index:05d}" for index in range(len(parsed.asked))]  # nine characters, as Mistral wants them
        self._left -= len(parsed.asked)
        self._made += len(parsed.asked)
        called = await self._toolbox.run(parsed.asked, self._scope, ids=ids)
        return self._reply(message, parsed, called)

    async def close(self) -> None:
        """
        Raises:
            RolloutError: what the tools kept could not be closed.
        """
        await self._scope.close()

    def _parsed(self, message: Message) -> Parsed:
        if message.calls:  # from a server, which has read them
            return Parsed(tuple(_asked(call) for call in message.calls), message.content)
        return self._format.parse(message.content, self._toolbox.specs)

    def _reply(self, message: Message, parsed: Parsed, called: Sequence[Called]) -> Reply:
        records = tuple(one.record for one in called)
        answers = [one.answer for one in called]
        if message.calls:
            messages = tuple(Message("tool", one.text, call_id=one.call_id, name=one.name) for one in answers)
            return Reply(messages, calls=records, asked=message.calls, before_calls=message.content)
        if self._format.stop:
            return Reply(inline=self._format.inline(answers, message.content), calls=records)
        asked = tuple(one.call for one in called if one.call is not None)
        return Reply(self._format.reply(answers, self._role), calls=records, asked=asked, before_calls=parsed.text)


def _asked(call: FunctionCall) -> Asked:
    arguments: Mapping[str, JSON] = call.arguments
    return Asked(call.name, arguments, problem=call.problem, id=call.id)
