from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from rlvr.errors import CallError, ConfigError, SandboxError, TaskError, ToolError
from rlvr.tools.base import Scope, ToolSpec
from rlvr.tools.calculator import Calculator
from rlvr.tools.function import FunctionTool
from rlvr.tools.parse import Asked
from rlvr.tools.toolbox import Called, CallLimits, Toolbox, bind
from rlvr.types import CallStatus

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


class Odd:
    """A tool that does what its test says."""

    def __init__(self, name: str, does: Any, *, is_ordered: bool = False) -> None:
        self.spec = ToolSpec(name, "", NO_ARGUMENTS)
        self.is_ordered = is_ordered
        self._does = does

    async def call(self, arguments: Mapping[str, Any], scope: Scope) -> Any:
        return await self._does()


def run(tools: list[Any], asked: list[Asked], limits: CallLimits | None = None) -> tuple[Called, ...]:
    async def main() -> tuple[Called, ...]:
        async with Toolbox(tools, limits) as box:
            scope = box.open_scope()
            try:
                return await box.run(asked, scope)
            finally:
                await scope.close()

    return asyncio.run(main())


def one(does: Any, limits: CallLimits | None = None) -> Called:
    [called] = run([Odd("odd", does)], [Asked("odd")], limits)
    return called


async def raises(error: BaseException) -> None:
    raise error


def test_a_call_that_works_is_answered_and_recorded() -> None:
    [called] = run([Calculator()], [Asked("calculator", {"expression": "6*7"}, id="abc")])
    assert (called.answer.text, called.answer.name, called.answer.call_id) == ("42", "calculator", "abc")
    assert (called.record.status, called.record.arguments) == (CallStatus.OK, {"expression": "6*7"})
    assert called.call is not None


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        (
            Asked("calculater"),
            CallStatus.UNKNOWN_TOOL,
            "There is no tool named 'calculater'; did you mean calculator? you have: calculator.",
        ),
        (Asked(problem="not valid JSON"), CallStatus.MALFORMED, "This call could not be read: not valid JSON."),
        (Asked("calculator", {}), CallStatus.BAD_ARGUMENTS, "Wrong arguments for calculator: expression is missing."),
        (
            Asked("calculator", {"expression": 5}),
            CallStatus.BAD_ARGUMENTS,
            "Wrong arguments for calculator: expression must be a string, got 5.",
        ),
        (Asked("calculator", {"expression": "1/0"}), CallStatus.FAILED, "Error: division by zero"),
        (Asked("\x1b[31m" + "x" * 500), CallStatus.UNKNOWN_TOOL, None),
    ],
)
def test_what_the_model_does_wrong_it_is_told(asked: Asked, status: CallStatus, text: str | None) -> None:
    [called] = run([Calculator()], [asked])
    assert called.record.status is status
    assert called.answer.text == text or text is None
    assert "\x1b" not in called.answer.text
    assert len(called.answer.text) < 400
    assert (called.call is None) == (status is CallStatus.MALFORMED)


def test_a_tool_that_raises_is_told_but_infrastructure_is_not_the_models() -> None:
    called = one(lambda: raises(KeyError("x" * 5000)))
    assert called.record.status is CallStatus.FAILED
    assert called.answer.text.startswith("Error: odd: KeyError: 'xxx")
    assert len(called.answer.text) < 2100
    for error in (ToolError("gone"), SandboxError("gone")):
        with pytest.raises(type(error), match="gone"):
            one(lambda error=error: raises(error))
    with pytest.raises(ToolError, match="tool 'odd': no data"):
        one(lambda: raises(TaskError("no data")))


def test_a_tool_that_hangs_is_left_behind() -> None:
    started = time.perf_counter()
    called = one(lambda: asyncio.sleep(60), CallLimits(call_s=0.05))
    assert (called.record.status, called.answer.text) == (CallStatus.TIMED_OUT, "Error: odd was stopped after 0.05 s")
    assert time.perf_counter() - started < 30


def test_a_tool_that_does_not_heed_its_cancellation_holds_up_nobody() -> None:
    stubborn: list[str] = []

    async def ignores() -> str:
        while len(stubborn) < 3:
            try:
                await asyncio.sleep(0.1)
                stubborn.append("slept")
            except asyncio.CancelledError:
                stubborn.append("cancelled")
        raise ValueError("nobody hears this")

    assert one(ignores, CallLimits(call_s=0.01)).record.status is CallStatus.TIMED_OUT


def test_a_function_that_blocks_its_thread_is_left_behind_too() -> None:
    release = threading.Event()

    def blocks() -> None:
        release.wait(60)

    [called] = run([FunctionTool(blocks)], [Asked("blocks")], CallLimits(call_s=0.05))
    release.set()
    assert called.record.status is CallStatus.TIMED_OUT


@pytest.mark.parametrize("output", ["x" * 100_000_000, b"\xff" * 50_000_000], ids=["100 MB of text", "50 MB of no text"])
def test_an_enormous_output_is_cut_and_said_so(output: Any) -> None:
    async def floods() -> Any:
        return output

    called = one(floods, CallLimits(output_tokens=64))
    assert called.record.is_truncated
    assert len(called.answer.text) <= 64 * 3
    assert "characters left out" in called.answer.text


def test_independent_calls_run_at_the_same_time_and_are_answered_in_order() -> None:
    running = 0
    most = 0

    async def counts() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return "done"

    asked = [Asked("a"), Asked("b"), Asked("a")]
    called = run([Odd("a", counts), Odd("b", counts)], asked)
    assert most == 3
    assert [one.answer.name for one in called] == ["a", "b", "a"]
    most = 0
    run([Odd("a", counts, is_ordered=True)], [Asked("a")] * 3)
    assert most == 1


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tools are named 'calculator'"):
        run([Calculator(), Calculator()], [])


def test_a_kit_of_tools_is_opened_and_closed_with_the_box_also_after_a_failure() -> None:
    log: list[str] = []

    class Kit:
        def __init__(self, *, fails: bool = False) -> None:
            self._fails = fails

        async def open(self) -> list[Calculator]:
            log.append("open")
            if self._fails:
                raise ToolError("no answer")
            return [Calculator()]

        async def close(self) -> None:
            log.append("close")

    [called] = run([Kit()], [Asked("calculator", {"expression": "1"})])
    assert called.answer.text == "1"
    assert log == ["open", "close"]
    with pytest.raises(ToolError, match="no answer"):
        run([Kit(fails=True)], [])
    assert log == ["open", "close"] * 2


def test_what_was_kept_for_a_rollout_is_closed_once_in_reverse_order() -> None:
    log: list[str] = []

    async def main() -> None:
        scope = Scope()
        owners = [object(), object()]

        async def opened(name: str) -> str:
            log.append(f"open {name}")
            return name

        async def closed(name: str) -> None:
            log.append(f"close {name}")

        for owner, name in zip(owners, "ab", strict=True):
            for _ in range(2):
                assert await scope.keep(owner, lambda name=name: opened(name), closed) == name
        await scope.close()
        await scope.close()

    asyncio.run(main())
    assert log == ["open a", "open b", "close b", "close a"]


SPEC = ToolSpec(
    "f",
    "",
    {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "maximum": 40},
            "b": {"type": "number", "minimum": 0},
            "c": {"type": ["string", "null"], "enum": ["C", "F", None]},
            "d": {},
        },
        "required": ["a"],
    },
)


@pytest.mark.parametrize(
    ("asked", "arguments", "wrong"),
    [
        (Asked("f", {"a": 1}), {"a": 1}, ""),
        (Asked("f", positional=(1, 2)), {"a": 1, "b": 2}, ""),
        (Asked("f", {"a": 1.0, "b": 2.5, "c": None, "d": [{}]}), {"a": 1.0, "b": 2.5, "c": None, "d": [{}]}, ""),
        (Asked("f", {"a": True}), None, "a must be an integer, got True"),
        (Asked("f", {"a": 1.5}), None, "a must be an integer, got 1.5"),
        (Asked("f", {"a": 41}), None, "a must be at most 40, got 41"),
        (Asked("f", {"a": 1, "b": -0.5}), None, "b must be at least 0, got -0.5"),
        (Asked("f", {"a": 1, "c": "K"}), None, "c must be one of 'C', 'F', None, got 'K'"),
        (Asked("f", {"b": 1}), None, "a is missing"),
        (Asked("f", {"a": 1, "e": 2}), None, "there is no argument e; it has a, b, c, d"),
        (Asked("f", {"a": 1}, positional=(2,)), None, "a was given twice"),
        (Asked("f", positional=(1, 2, 3, 4, 5)), None, "it takes 4 arguments, but 5 were given"),
    ],
)
def test_arguments_are_bound_to_names_and_checked(asked: Asked, arguments: Any, wrong: str) -> None:
    bound, found = bind(SPEC, asked)
    assert found == wrong
    assert wrong or bound == arguments


def test_a_call_that_fails_with_its_output_shows_the_output() -> None:
    called = one(lambda: raises(CallError("short", output="printed\nTraceback ...", is_timeout=True)))
    assert (called.record.status, called.answer.text) == (CallStatus.TIMED_OUT, "printed\nTraceback ...")
