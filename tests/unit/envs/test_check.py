"""`check_env` and `check_tool` find what is wrong; each rule has an offender."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rlvr.envs.base import Opening, Reply
from rlvr.errors import ToolError
from rlvr.testing import Example, check_env, check_tool
from rlvr.tools.base import Scope, ToolSpec
from rlvr.types import Message, Problem

PROBLEM = Problem("p", (Message("user", "What is 6 * 7?"),), "42")
COUNT = [0]


class Good:
    async def start(self, problem: Problem, seed: int) -> Opening:
        return Opening(problem.prompt)

    async def reply(self, messages: Sequence[Message]) -> Reply:
        return Reply((Message("user", "sure?"),)) if len(messages) < 3 else Reply()

    async def close(self) -> None:
        return None


class NoMessages(Good):
    async def start(self, problem: Problem, seed: int) -> Opening:
        return Opening(())


class SpeaksFirst(Good):
    async def start(self, problem: Problem, seed: int) -> Opening:
        return Opening((*problem.prompt, Message("assistant", "Well,")))


class BareTuple(Good):
    async def reply(self, messages: Sequence[Message]) -> Any:
        return (Message("user", "sure?"),)


class StrangeRole(Good):
    async def reply(self, messages: Sequence[Message]) -> Reply:
        return Reply((Message("critic", "sure?"),)) if len(messages) < 3 else Reply()


class SpeaksForTheModel(Good):
    async def reply(self, messages: Sequence[Message]) -> Reply:
        return Reply((Message("assistant", "42"),)) if len(messages) < 3 else Reply()


class BothWays(Good):
    async def reply(self, messages: Sequence[Message]) -> Reply:
        return Reply((Message("user", "sure?"),), inline="42") if len(messages) < 3 else Reply()


class Moody(Good):
    async def reply(self, messages: Sequence[Message]) -> Reply:
        COUNT[0] += 1
        return Reply((Message("user", f"{COUNT[0]}?"),)) if len(messages) < 3 else Reply()


class Shares(Good):
    """Keeps its state where all rollouts find it."""

    said: list[str] = []

    async def reply(self, messages: Sequence[Message]) -> Reply:
        self.said.append(messages[-1].content)
        await asyncio.sleep(0.001)
        return Reply((Message("user", self.said[-1]),)) if len(messages) < 3 else Reply()


class Fragile(Good):
    async def reply(self, messages: Sequence[Message]) -> Reply:
        int(messages[-1].content)
        return Reply()


class Hangs(Good):
    async def reply(self, messages: Sequence[Message]) -> Reply:
        if len(messages[-1].content) > 50_000:
            await asyncio.sleep(60)
        return Reply()


class NeedsStart(Good):
    async def start(self, problem: Problem, seed: int) -> Opening:
        self.handle = "open"
        return Opening(problem.prompt)

    async def close(self) -> None:
        assert self.handle


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        (NoMessages, "start gave no message"),
        (SpeaksFirst, "ends with a message of the model itself"),
        (BareTuple, "but a Reply is needed"),
        (StrangeRole, "of role 'critic'"),
        (SpeaksForTheModel, "a reply speaks for the model"),
        (BothWays, "it can have only one of them"),
        (Moody, "were answered differently"),
        (Shares, "were answered differently"),
        (Fragile, "a model that writes nothing: ValueError"),
        (Hangs, "a model that writes a hundred thousand characters: it did not answer within 0.3 s"),
        (NeedsStart, "close without start: AttributeError"),
    ],
)
def test_an_environment_that_breaks_a_rule_is_told_which(env: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_env(env, [PROBLEM], says=("1", "2", "3"), timeout_s=0.3 if env is Hangs else 60.0)


def test_an_environment_that_keeps_the_rules_passes_and_needs_a_problem() -> None:
    assert check_env(Good, [PROBLEM]).complaints == []
    with pytest.raises(AssertionError, match="no problem to try it on"):
        check_env(Good, [])


class Tool:
    is_ordered = False

    def __init__(self, name: str = "double", description: str = "Doubles.", schema: Any = None) -> None:
        self.spec = ToolSpec(
            name, description, schema or {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
        )

    async def call(self, arguments: Mapping[str, Any], scope: Scope) -> Any:
        return 2 * arguments["x"]


class Random(Tool):
    async def call(self, arguments: Mapping[str, Any], scope: Scope) -> Any:
        COUNT[0] += 1
        return COUNT[0]


class Blames(Tool):
    async def call(self, arguments: Mapping[str, Any], scope: Scope) -> Any:
        if arguments["x"] < 0:
            raise ToolError("x is negative")
        return 4


class Sleeps(Tool):
    async def call(self, arguments: Mapping[str, Any], scope: Scope) -> Any:
        if arguments["x"] > 10**20:
            await asyncio.sleep(30)
        return 4


UNKNOWN_TYPE = {"type": "object", "properties": {"x": {"type": "int"}}}


@pytest.mark.parametrize(
    ("tool", "complaint"),
    [
        (Tool("no way"), "the name 'no way' cannot be called"),
        (Tool(description=" "), "the description is empty"),
        (Tool(schema={"type": "array"}), "that of an object with properties is needed"),
        (Tool(schema={**UNKNOWN_TYPE, "required": ["y"]}), "y is required, but is no property"),
        (Tool(schema=UNKNOWN_TYPE), "x has the type 'int', which JSON Schema does not know"),
        (Random(), "gave two outputs for two rollouts"),
        (Blames(), "broke it: x is negative; what a model writes must be a CallError"),
        (Sleeps(), "made it hang"),
    ],
)
def test_a_tool_that_breaks_a_rule_is_told_which(tool: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_tool(tool, [Example({"x": 2}, "4")], call_s=0.3 if isinstance(tool, Sleeps) else 60.0)


def test_a_tool_that_keeps_the_rules_passes_and_its_examples_must_work() -> None:
    assert check_tool(Tool(), [Example({"x": 2}, "4")]).complaints == []
    with pytest.raises(AssertionError, match="gave '4', without '5'"):
        check_tool(Tool(), [Example({"x": 2}, "5")])
    with pytest.raises(AssertionError, match="bad_arguments: Wrong arguments for double: x is missing"):
        check_tool(Tool(), [Example({})])
    with pytest.raises(AssertionError, match="no example to try it on"):
        check_tool(Tool(), [])
