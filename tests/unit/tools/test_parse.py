"""Every format reads the same calls, and never more than reads."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.tools.base import ToolSpec
from rlvr.tools.formats import FORMATS, format_for, format_named
from rlvr.tools.formats.blocks import CODE
from rlvr.tools.parse import MAX_READ, Answer, Asked

SPECS = (
    ToolSpec(
        "calculator",
        "Computes.",
        {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    ),
    ToolSpec("look_up", "Looks up.", {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}),
)
TWO = (Asked("calculator", {"expression": "6*7"}), Asked("look_up", {"city": "Rome", "days": 2}))


def parse(name: str, text: str) -> tuple[Asked, ...]:
    return FORMATS[name].parse(text, SPECS).asked


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "hermes",
            '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>\n'
            '<tool_call>{"name": "look_up", "arguments": {"city": "Rome", "days": 2}}</tool_call>',
        ),
        (
            "llama",
            '{"name": "calculator", "parameters": {"expression": "6*7"}}; '
            '{"name": "look_up", "parameters": {"city": "Rome", "days": 2}}<|eot_id|>',
        ),
        (
            "llama",
            '<|python_tag|>{"name": "calculator", "parameters": {"expression": "6*7"}}\n'
            '{"name": "look_up", "parameters": {"city": "Rome", "days": 2}}<|eom_id|>',
        ),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "calculator", "arguments": {"expression": "6*7"}}, '
            '{"name": "look_up", "arguments": {"city": "Rome", "days": 2}}]',
        ),
        ("mistral", '[TOOL_CALLS]calculator[ARGS]{"expression": "6*7"}[TOOL_CALLS]look_up[ARGS]{"city": "Rome", "days": 2}'),
        ("python", '<function_calls>\ncalculator(expression="6*7")\nlook_up(city="Rome", days=2)\n</function_calls>'),
        ("python", "[calculator(expression='6*7'), look_up(city='Rome', days=2)]"),
        ("python", "calculator(expression='6*7')\nlook_up(\n    city='Rome',\n    days=2,\n)"),
    ],
)
@pytest.mark.parametrize("before", ["", "<think>calculator(1) or <tool_call>?</think>\n"])
def test_two_calls_are_read_the_same_in_every_format(name: str, text: str, before: str) -> None:
    if before and name == "mistral":
        before = "Let me see. "
    assert parse(name, before + text) == TWO


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("code", "fenced")])
@pytest.mark.parametrize(
    "text", ["", "The answer is 42.", '{"answer": 42}', "f(x) = 2", "print('hello')", "<answer>1</answer>", "[]"]
)
def test_an_answer_is_no_call(name: str, text: str) -> None:
    parsed = FORMATS[name].parse(text, SPECS)
    assert (parsed.asked, parsed.text) == ((), text)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("hermes", '<tool_call>{"name": "calculator", "arguments": {"expression": ', "not closed by </tool_call>"),
        ("hermes", '<tool_call>{"name": "calculator", "arguments": {}}', "must follow"),
        ("hermes", "<tool_call>{name: calculator}</tool_call>", "not valid JSON"),
        ("hermes", '<tool_call>["calculator"]</tool_call>', "a call is a JSON object, not a list"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', 'no "name"'),
        ("hermes", '<tool_call>{"name": "x", "arguments": [1]}</tool_call>', '"arguments" must be a JSON object, not a list'),
        ("hermes", '<tool_call>{"name": "x", "arguments": {"a": NaN}}</tool_call>', "NaN is no JSON"),
        ("hermes", '<tool_call>{"name": "x", "arguments": {"a": 1e999}}</tool_call>', "must be finite"),
        (
            "hermes",
            '<tool_call>{"name": "x", "arguments": ' + '{"a":' * 30 + "1" + "}" * 31 + "</tool_call>",
            "nested at most 24",
        ),
        ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>", "nested too deeply|not valid JSON"),
        ("hermes", "<tool_call><tool_call>{}</tool_call></tool_call>", "not valid JSON"),
        ("llama", '<|python_tag|>{"name": "calculator"', "not valid JSON"),
        ("llama", "<|python_tag|>hello", "must stand a JSON object"),
        ("llama", '{"name": "calculator", "parameters": {"expression": "1', "not valid JSON"),
        ("mistral", "[TOOL_CALLS] [{]", "not valid JSON"),
        ("mistral", "[TOOL_CALLS] []", "list of calls is empty"),
        ("mistral", "[TOOL_CALLS]calculator", "must stand a list of calls"),
        ("mistral", "[TOOL_CALLS]calculator[ARGS]{", "not valid JSON"),
        ("python", "<function_calls>\ncalculator(", "not closed by </function_calls>"),
        ("python", "<function_calls>\n</function_calls>", "no call between"),
        ("python", "<function_calls>calculator(</function_calls>", "not a call in Python's syntax"),
        ("python", "<function_calls>x = calculator()</function_calls>", "only calls may stand here"),
        ("python", "<function_calls>calculator(expression=a)</function_calls>", "must be literals"),
        ("python", "<function_calls>calculator(expression=open('x'))</function_calls>", "must be literals"),
        ("python", "<function_calls>calculator(f'{1}')</function_calls>", "must be literals"),
        ("python", "<function_calls>calculator(**{'a': 1})</function_calls>", r"\*\* is not allowed"),
        ("python", "<function_calls>calculator(b'1')</function_calls>", "must be literals"),
        ("python", "<function_calls>calculator(1e999)</function_calls>", "must be literals"),
        ("python", "<function_calls>calculator({1: 2})</function_calls>", "keys of a dictionary must be strings"),
        ("python", "<function_calls>calculator(" + "[" * 60 + "]" * 60 + ")</function_calls>", "nested too deeply"),
        ("python", "<function_calls>calculator(" + "-" * 20_000 + "1)</function_calls>", "not a call|must be literals"),
        ("python", "<function_calls>(lambda: 1)()</function_calls>", "what is called must be a name"),
    ],
)
def test_what_cannot_be_read_is_told_in_words(name: str, text: str, problem: str) -> None:
    [asked] = [one for one in parse(name, text) if one.problem][:1]
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(asked.problem)


def test_a_broken_call_does_not_take_its_neighbours_with_it() -> None:
    good = '<tool_call>{"name": "look_up", "arguments": {}}</tool_call>'
    assert [one.name for one in parse("hermes", f"{good}<tool_call>{{</tool_call>{good}")] == ["look_up", "", "look_up"]
    lines = "<function_calls>\nlook_up()\nlook_up(\nlook_up(city='</a>')\n</function_calls>"
    assert [one.name for one in parse("python", lines)] == ["look_up", "", "look_up"]


def test_json_spelling_and_positions_are_understood_in_python_calls() -> None:
    [asked] = parse("python", "<function_calls>api.find('Rome', true, key=null, at=-1.5, of=(1, [2], {'a': 3}))</function_calls>")
    assert (asked.name, asked.positional) == ("api.find", ("Rome", True))
    assert asked.arguments == {"key": None, "at": -1.5, "of": [1, [2], {"a": 3}]}


def test_arguments_may_hold_the_closing_tag_and_may_be_json_inside_a_string() -> None:
    text = '<tool_call>{"name": "look_up", "arguments": {"city": "a</tool_call>b"}}</tool_call>'
    assert parse("hermes", text) == (Asked("look_up", {"city": "a</tool_call>b"}),)
    inner = json.dumps({"name": "look_up", "arguments": json.dumps({"city": "Rome"}), "id": "abc123def"})
    assert parse("hermes", f"<tool_call>{inner}</tool_call>") == (Asked("look_up", {"city": "Rome"}, id="abc123def"),)


def test_llamas_python_tag_runs_code_where_there_is_a_tool_for_it() -> None:
    python = ToolSpec("python", "", {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]})
    parsed = FORMATS["llama"].parse("<|python_tag|>print(1)\nprint(2)<|eom_id|>", (python,))
    assert parsed.asked == (Asked("python", {"code": "print(1)\nprint(2)"}),)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("code", "<think>Well <code>6*7</code>", "6*7"),
        ("code", "<code>\nx = 1\nx\n</code>\n", "x = 1\nx"),
        ("code", "<code><code>6*7</code>", "6*7"),
        ("code", "<code>6*7</code></", "6*7"),  # the token that closed the block held more
        ("fenced", "So:\n```python\n6*7\n```\n", "6*7"),
        ("fenced", "```python\ndef f():\n    '''```'''\n```\n\n", "def f():\n    '''```'''"),
    ],
)
def test_a_block_of_code_goes_to_the_first_tool_that_takes_a_text(name: str, text: str, code: str) -> None:
    parsed = FORMATS[name].parse(text, SPECS)
    assert (parsed.asked, parsed.is_paused) == ((Asked("calculator", {"expression": code}),), True)


@pytest.mark.parametrize(
    ("name", "text", "is_paused"),
    [
        ("code", "6*7</code>", True),
        ("code", "<code>6*7", False),
        ("fenced", '```json\n{"a": 1}\n```\n', True),
        ("fenced", "```python\n6*7\n```", False),  # the model ended its message with code: that is its answer
        ("fenced", "```python\n6*7\n```\nand\n```json\n1\n```\n", True),
        ("code", "42", False),
    ],
)
def test_generation_that_paused_at_something_else_goes_on(name: str, text: str, is_paused: bool) -> None:
    parsed = FORMATS[name].parse(text, SPECS)
    assert (parsed.asked, parsed.is_paused) == ((), is_paused)


def test_outputs_are_written_inside_the_message_and_found_again() -> None:
    text = "<think><code>6*7</code>"
    whole = text + CODE.inline([Answer("42")], text) + "so 42</think>42"
    assert whole == "<think><code>6*7</code>\n<output>\n42\n</output>\nso 42</think>42"
    [(start, end)] = CODE.outputs(whole)
    assert whole[start:end] == "\n<output>\n42\n</output>\n"
    assert FORMATS["fenced"].inline([Answer("42")], "```python\n6*7\n```\n") == "```output\n42\n```\n"


@pytest.mark.parametrize("name", FORMATS)
@given(text=st.text(max_size=200))
def test_no_text_makes_a_parser_raise(name: str, text: str) -> None:
    FORMATS[name].parse(text, SPECS)


PIECES = [
    *("<tool_call>", "</tool_call>", "<function_calls>", "</function_calls>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"),
    *("<code>", "</code>", "```python\n", "\n```\n", "</think>", '{"name": "look_up", "arguments": {}}', "look_up(city='x')"),
    *("{", "}", "[", "]", "(", ")", '"', "\\", "\n", ",", ";", "\x00", "\ud800", "1"),
]


@pytest.mark.parametrize("name", FORMATS)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
def test_no_heap_of_tags_makes_a_parser_raise_and_what_it_reads_is_json(name: str, pieces: list[str]) -> None:
    for asked in FORMATS[name].parse("".join(pieces), SPECS).asked:
        json.dumps([asked.name, dict(asked.arguments), asked.positional])


FLOODS = {
    "hermes": '<tool_call>{"name": "look_up", "arguments": {}}</tool_call>\n',
    "llama": '{"name": "look_up", "parameters": {}};',
    "mistral": '[TOOL_CALLS]look_up[ARGS]{"city": "x"}',
    "python": "look_up(city='x')\n",
    "code": "<code>1</code>",
    "fenced": "```python\n1\n```\n",
}


@pytest.mark.parametrize(
    ("name", "flood"),
    [*FLOODS.items(), ("hermes", "<tool_call>"), ("hermes", '<tool_call>{"a": "'), ("python", "<function_calls>")],
)
def test_ten_thousand_calls_are_read_in_moments_up_to_a_limit(name: str, flood: str) -> None:
    started = time.process_time()
    asked = parse(name, flood * 10_000)
    assert len(asked) <= MAX_READ
    assert time.process_time() - started < 2.0


def test_formats_are_chosen_by_name_or_by_what_the_template_speaks() -> None:
    assert format_named("hermes").name == "hermes"
    with pytest.raises(ConfigError, match=r"env.format = 'hermse'; did you mean 'hermes'\? known: auto, mistral"):
        format_named("hermse")
    assert format_for("... [TOOL_CALLS] ...", SPECS).name == "mistral"
    assert format_for("... <tool_call> ...", SPECS).name == "hermes"
    assert format_for("... <function_calls> ... <tool_call>", SPECS).name == "python"
    assert format_for("<|start_header_id|>ipython", SPECS).name == "llama"
    assert format_for("{{ messages }}", SPECS).name == "hermes"
    assert format_for(None, SPECS[:1]).name == "code"
    assert format_for(None, SPECS).name == "hermes"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_describes_the_tools_and_how_to_call_them(name: str) -> None:
    text = FORMATS[name].describe(SPECS)
    assert "calculator" in text
    assert "Computes." in text
