from __future__ import annotations

import asyncio
import datetime
import threading
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from rlvr.errors import CallError, ConfigError, PluginError, ToolError
from rlvr.registry import resolve
from rlvr.tools import threads
from rlvr.tools.base import Scope
from rlvr.tools.calculator import Calculator
from rlvr.tools.function import FunctionTool, tool
from rlvr.tools.make import ToolReference, make_tool


def look_up(city: str, days: int = 1, units: Literal["C", "F"] = "C") -> str:
    """The weather of a city.

    Only large cities are known.

    Args:
        city: its English name,
            without the country
        days (int): how far ahead

    Returns:
        A sentence.
    """
    return f"{city} in {days}: 20 {units}"


def call(function: Any, arguments: dict[str, Any], scope: Scope | None = None) -> Any:
    return asyncio.run(FunctionTool(function).call(arguments, scope or Scope()))


def test_the_schema_comes_from_type_hints_and_docstring() -> None:
    spec = FunctionTool(look_up).spec
    assert (spec.name, spec.description) == ("look_up", "The weather of a city.\n\nOnly large cities are known.")
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "its English name, without the country"},
            "days": {"type": "integer", "default": 1, "description": "how far ahead"},
            "units": {"type": "string", "enum": ["C", "F"], "default": "C"},
        },
        "required": ["city"],
    }
    assert spec.to_json()["function"]["name"] == "look_up"


def test_a_tool_is_still_the_function() -> None:
    assert FunctionTool(look_up)("Rome", units="F") == "Rome in 1: 20 F"


def test_arguments_arrive_as_the_declared_types() -> None:
    def between(
        start: datetime.date, pair: tuple[int, int], share: float, note: Annotated[str | None, Field(max_length=3)] = None
    ) -> Any:
        return [type(start).__name__, pair, type(share).__name__, note]

    assert call(between, {"start": "2024-05-01", "pair": [1, 2], "share": 1}) == ["date", (1, 2), "float", None]
    with pytest.raises(CallError, match="note: String should have at most 3"):
        call(between, {"start": "2024-05-01", "pair": [1, 2], "share": 1, "note": "long"})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "city is missing"),
        ({"city": 5}, "city: Input should be a valid string, got 5"),
        ({"city": "Rome", "days": "5"}, "days: Input should be a valid integer, got '5'"),
        ({"city": "Rome", "country": "IT"}, "there is no argument country"),
        ({"city": "Rome", "units": "K"}, "units: Input should be 'C' or 'F'"),
    ],
)
def test_wrong_arguments_are_told_in_words(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        call(look_up, arguments)


def test_a_function_that_raises_tells_the_model_and_a_tool_error_is_ours() -> None:
    def strict(x: int) -> int:
        if x == 1:
            raise ValueError("x must not be 1")
        raise ToolError("the disk is full")

    with pytest.raises(CallError, match="strict: ValueError: x must not be 1"):
        call(strict, {"x": 1})
    with pytest.raises(ToolError, match="the disk is full"):
        call(strict, {"x": 2})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_function_that_leaves_its_thread_is_told_too() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(CallError, match="leave: it ended its thread"):
        call(leave, {})
    for thread in threading.enumerate():
        if thread.name == "tool leave":
            thread.join()


def test_coroutines_run_in_the_loop_and_others_in_threads_that_nobody_joins() -> None:
    async def in_loop() -> bool:
        return threading.current_thread() is threading.main_thread()

    def in_thread() -> list[bool]:
        return [threading.current_thread() is threading.main_thread(), threading.current_thread().daemon]

    assert call(in_loop, {}) is True
    assert call(in_thread, {}) == [False, True]


def test_calls_that_hang_are_bounded() -> None:
    release = threading.Event()

    async def flood() -> str:
        calls = [asyncio.create_task(threads.in_thread("hang", release.wait)) for _ in range(threads.MAX_RUNNING)]
        await asyncio.sleep(0)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(ToolError, match="256 calls of tool 'hang' are still running"):
            await threads.in_thread("hang", lambda: None)
        release.set()
        while threads._running["hang"]:
            await asyncio.sleep(0.01)
        return await threads.in_thread("hang", lambda: "works again")

    assert asyncio.run(flood()) == "works again"


def test_a_scope_parameter_is_not_the_models_and_lives_as_long_as_the_rollout() -> None:
    def remember(word: str, scope: Scope) -> int:
        scope.notes.setdefault("words", []).append(word)
        return len(scope.notes["words"])

    made = FunctionTool(remember)
    assert made.spec.names == ("word",)
    assert made.is_ordered
    assert not FunctionTool(look_up).is_ordered
    mine, other = Scope(), Scope()
    assert [call(remember, {"word": "a"}, mine), call(remember, {"word": "b"}, mine), call(remember, {"word": "c"}, other)] == [
        1,
        2,
        1,
    ]


def untyped(x):  # type: ignore[no-untyped-def]
    return x


def any_number(*values: int) -> int:
    return sum(values)


def not_json(lock: threading.Lock) -> None:
    return None


@pytest.mark.parametrize(
    ("function", "reason"),
    [(untyped, "has no type"), (any_number, "cannot be named in a call"), (not_json, "cannot be a JSON Schema")],
)
def test_functions_that_a_model_cannot_call_are_refused(function: Any, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        FunctionTool(function)
    with pytest.raises(PluginError, match="a model can call letters"):
        FunctionTool(look_up, name="look up")


@pytest.mark.usefixtures("own_plugins")
def test_the_decorator_registers_under_the_functions_name_or_a_given_one() -> None:
    @tool
    def twice(x: int) -> int:
        return 2 * x

    @tool("thrice")
    def three_times(x: int) -> int:
        return 3 * x

    assert resolve("tools", "twice").target is twice
    assert resolve("tools", "thrice").target is three_times
    assert three_times.spec.name == "thrice"
    assert make_tool(ToolReference("thrice", {})) is three_times


def test_recipes_name_tools_with_or_without_settings() -> None:
    assert ToolReference.parse("calculator") == ToolReference("calculator", {})
    assert ToolReference.parse({"name": "python", "sessions": 4}) == ToolReference("python", {"sessions": 4})
    assert isinstance(make_tool(ToolReference("calculator", {})), Calculator)
    made = make_tool(ToolReference(f"{__file__}:look_up", {}))
    assert made.spec.names == ("city", "days", "units")  # type: ignore[union-attr]
    for wrong, reason in [({"settings": 1}, "a tool is a name or a table"), (5, "a tool is a name or a table")]:
        with pytest.raises(ConfigError, match=reason):
            ToolReference.parse(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "error", "reason"),
    [
        (ToolReference("calculatr", {}), PluginError, "did you mean 'calculator'"),
        (ToolReference("calculator", {"precision": 3}), ConfigError, "has no setting 'precision'; it has none"),
        (ToolReference("python", {"session": 3}), ConfigError, "has no setting 'session'; it has sessions, memory_mb"),
        (ToolReference("python", {"sessions": 0}), ConfigError, "at least one is needed"),
        (ToolReference("search", {}), ConfigError, "needs the setting 'corpus'"),
        (ToolReference(f"{__file__}:look_up", {"city": "x"}), ConfigError, "has no settings"),
        (ToolReference(f"{__file__}:pytest", {}), PluginError, "is a module; a tool is a function"),
    ],
)
def test_wrong_references_are_refused_with_a_hint(reference: ToolReference, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        make_tool(reference)
