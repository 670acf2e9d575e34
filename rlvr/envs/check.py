"""`check_env`: what every environment must do, tried without a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from rlvr.config import EnvConfig
from rlvr.envs.base import Env, Opening, Reply
from rlvr.envs.make import EnvMaker
from rlvr.envs.renderer import Renderer
from rlvr.errors import RlvrError, RolloutError, boundary
from rlvr.types import Message, Problem

_ROLES = ("system", "user", "assistant", "tool")
_CALL = '{"name": "no_such_tool", "arguments": {}}'
# What models do write, sooner or later. An environment answers or ends; it does not raise, and it does not hang.
HOSTILE = {
    "nothing": "",
    "white space": " \n\t ",
    "a hundred thousand characters": "ab " * 33_334,
    "control characters": "\x00\x07\x1b[31mred\x1b[0m \u202e \U000e0041",
    "one tag ten thousand times": "<tool_call>" * 10_000,
    "nested tags": "<code><code></code></code><tool_call><tool_call></tool_call>",
    "a thousand calls": f"<tool_call>{_CALL}</tool_call>" * 1000,
    "a call that was cut off": f"<tool_call>{_CALL[:20]}",
    "deep brackets": "[" * 20_000,
    "a long number": "9" * 20_000,
}
SEED = 20_2024


@dataclass(slots=True)
class EnvReport:
    """What was tried, and what was wrong; `complaints` is empty for an environment that keeps the rules."""

    conversations: int = 0
    replies: int = 0
    complaints: list[str] = field(default_factory=list)


def check_env(
    env: EnvConfig | str | Callable[[], Env],
    problems: Sequence[Problem],
    *,
    says: Sequence[str] = ("I do not know.", "42"),
    renderer: Renderer | None = None,
    turns: int = 8,
    timeout_s: float = 30.0,
) -> EnvReport:
    """Try an environment on problems without a model: a recipe's `[env]`, a plugin's name or reference, or what makes instances.

    The rules: `start` opens with messages of text, the last of them to be answered; what `start` and `reply` say depends on the
    problem, the seed and the messages alone, and rollouts at the same time do not mix; whatever a model writes is answered or
    ends the rollout within `timeout_s`, without an exception; `close` works after `start`, without it, and after an error; all
    that is said can be stored. `says` are the model's messages, one a turn, of which at most `turns` are played; give some that
    reach the interesting replies. `renderer` is needed only for tools in the format of a chat template.

    Raises:
        AssertionError: lists what is wrong.
        ConfigError, PluginError: the environment cannot be made.
    """
    report = asyncio.run(_checked(env, problems, tuple(says), renderer, turns, timeout_s))
    if report.complaints:
        raise AssertionError("the environment breaks its rules:\n- " + "\n- ".join(report.complaints))
    return report


async def _checked(
    env: EnvConfig | str | Callable[[], Env],
    problems: Sequence[Problem],
    says: tuple[str, ...],
    renderer: Renderer | None,
    turns: int,
    timeout_s: float,
) -> EnvReport:
    report = EnvReport()
    if not problems:
        report.complaints.append("there is no problem to try it on")
    async with AsyncExitStack() as stack:
        make: Callable[[], Env]
        if isinstance(env, EnvConfig | str):
            config = EnvConfig(name=env) if isinstance(env, str) else env
            make = await stack.enter_async_context(EnvMaker(config, renderer))
        else:
            make = env
        trial = _Trial(make, report, turns, timeout_s)
        for problem in problems:
            await trial.repeats(problem, says)
        for problem in problems[:1]:
            for name, text in HOSTILE.items():
                await trial.plays(problem, (text, *says), f"a model that writes {name}")
            await trial.closes(problem)
    return report


class _Trial:
    def __init__(self, make: Callable[[], Env], report: EnvReport, turns: int, timeout_s: float) -> None:
        self._make, self._report, self._turns, self._timeout_s = make, report, turns, timeout_s

    async def repeats(self, problem: Problem, says: Sequence[str]) -> None:
        """One conversation alone, then the same among others at the same time: it must not change."""
        name = f"problem {problem.id}"
        alone = await self.plays(problem, says, name)
        others = [tuple(f"{text} {index}" for text in says) for index in range(3)]
        await asyncio.gather(*(self.plays(problem, other, f"{name}, among others") for other in others))
        together = await asyncio.gather(*(self.plays(problem, says, f"{name}, among others") for _ in range(3)))
        if any(one != alone for one in together):
            self._complain(f"{name}: the same seed and the same messages were answered differently")

    async def plays(self, problem: Problem, says: Sequence[str], name: str) -> list[str]:
        """One conversation; returns all that the environment said, as JSON."""
        said: list[str] = []
        try:
            with boundary(RolloutError, name):
                async with asyncio.timeout(self._timeout_s):
                    env = self._make()
                    try:
                        await self._converse(env, problem, says, name, said)
                    finally:
                        await env.close()
        except RlvrError as error:
            cause = error.__cause__
            hung = isinstance(cause, TimeoutError)
            self._complain(f"{name}: it did not answer within {self._timeout_s:g} s" if hung else f"{error}")
        self._report.conversations += 1
        return said

    async def _converse(self, env: Env, problem: Problem, says: Sequence[str], name: str, said: list[str]) -> None:
        opening = await env.start(problem, SEED)
        if not self._is_opening(opening, name):
            return
        said.append(_stored(opening.messages))
        messages = list(opening.messages)
        for text in says[: self._turns]:
            spoken = Message("assistant", text)
            reply = await env.reply([*messages, spoken])
            self._report.replies += 1
            if not self._is_reply(reply, name):
                return
            said.append(_stored(reply.messages) + json.dumps([reply.inline, reply.stop]))
            if reply.is_last:
                return
            messages += [spoken, *reply.messages]

    async def closes(self, problem: Problem) -> None:
        """`close` must work for an instance that never started."""
        try:
            with boundary(RolloutError, "close without start"):
                await self._make().close()
        except RlvrError as error:
            self._complain(str(error))

    def _is_opening(self, opening: object, name: str) -> bool:
        if not isinstance(opening, Opening):
            self._complain(f"{name}: start returned {opening!r}, but an Opening is needed")
            return False
        if not opening.messages:
            self._complain(f"{name}: start gave no message")
            return False
        if opening.messages[-1].role == "assistant":
            self._complain(f"{name}: the opening ends with a message of the model itself")
        return self._are_messages(opening.messages, name, "start")

    def _is_reply(self, reply: object, name: str) -> bool:
        if not isinstance(reply, Reply):
            self._complain(f"{name}: reply returned {reply!r}, but a Reply is needed")
            return False
        if reply.messages and reply.inline is not None:
            self._complain(f"{name}: a reply has messages and text inside the model's message; it can have only one of them")
        if any(message.role == "assistant" for message in reply.messages):
            self._complain(f"{name}: a reply speaks for the model")
        return self._are_messages(reply.messages, name, "reply")

    def _are_messages(self, messages: Sequence[object], name: str, where: str) -> bool:
        for message in messages:
            if not isinstance(message, Message) or not isinstance(message.content, str):
                self._complain(f"{name}: {where} gave {message!r}, but a Message with text is needed")
                return False
            if message.role not in _ROLES:
                self._complain(f"{name}: {where} gave a message of role {message.role!r}; roles are {', '.join(_ROLES)}")
            if not message.content.strip() and message.role == "user":
                self._complain(f"{name}: {where} gave an empty message of the user")
        return True

    def _complain(self, text: str) -> None:
        if text not in self._report.complaints:
            self._report.complaints.append(text)


def _stored(messages: Sequence[Message]) -> str:
    return json.dumps([[message.role, message.content, message.name, message.call_id] for message in messages])
