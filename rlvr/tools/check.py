"""`check_tool`: what every tool must do, tried without a model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.errors import ToolError
from rlvr.tools.base import Tool, Toolkit, ToolSpec
from rlvr.tools.make import ToolReference, make_tool
from rlvr.tools.parse import Asked
from rlvr.tools.toolbox import CallLimits, Toolbox
from rlvr.types import JSON, CallStatus

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_WRONG: tuple[JSON, ...] = (None, "", "\x00\x1b[31m" * 100, -1, 10**30, 1.5, [], {}, [[[]]], True)


@dataclass(frozen=True, slots=True)
class Example:
    """A call that must work, and what its output must contain."""

    arguments: Mapping[str, JSON]
    output: str = ""


@dataclass(slots=True)
class ToolReport:
    """What was tried, and what was wrong; `complaints` is empty for a tool that keeps the rules."""

    calls: int = 0
    complaints: list[str] = field(default_factory=list)


def check_tool(
    tool: Tool | Toolkit | str,
    examples: Sequence[Example],
    *,
    settings: Mapping[str, JSON] | None = None,
    call_s: float = 10.0,
) -> ToolReport:
    """Try a tool without a model: itself, or a plugin's name or reference with its settings.

    The rules: its name can be called, its description says something, its schema is that of an object with typed properties; the
    examples work, twice alike, and at the same time too; arguments of any other kind are refused in words or answered, and never
    break the infrastructure. The first of several tools of a kit is tried.

    Raises:
        AssertionError: lists what is wrong.
        ConfigError, PluginError, ToolError: the tool cannot be had.
    """
    made = make_tool(ToolReference(tool, settings or {})) if isinstance(tool, str) else tool
    report = asyncio.run(_checked(made, examples, call_s))
    if report.complaints:
        raise AssertionError("the tool breaks its rules:\n- " + "\n- ".join(report.complaints))
    return report


async def _checked(tool: Tool | Toolkit, examples: Sequence[Example], call_s: float) -> ToolReport:
    report = ToolReport()
    if not examples:
        report.complaints.append("there is no example to try it on")
    async with Toolbox([tool], CallLimits(call_s=call_s)) as box:
        spec = box.specs[0]
        report.complaints += list(_faults(spec))
        for example in examples:
            await _try_example(box, spec, example, report)
        for arguments in _wrong_arguments(spec, examples):
            await _try_anything(box, spec, arguments, report)
    return report


def _faults(spec: ToolSpec) -> Sequence[str]:
    found = []
    if not _NAME.fullmatch(spec.name):
        found.append(f"the name {spec.name!r} cannot be called: letters, digits, _ and -, a letter or _ first")
    if not spec.description.strip():
        found.append("the description is empty: the model would not know what the tool is for")
    if spec.parameters.get("type") != "object" or not isinstance(spec.parameters.get("properties"), Mapping):
        found.append(f"the schema is {json.dumps(dict(spec.parameters))[:200]}, but that of an object with properties is needed")
        return found
    for name in spec.required:
        if name not in spec.names:
            found.append(f"{name} is required, but is no property")
    for name, schema in spec.parameters["properties"].items():
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        kinds = kind if isinstance(kind, list) else [kind]
        if kind is not None and any(one not in _TYPES for one in kinds):
            found.append(f"{name} has the type {kind!r}, which JSON Schema does not know")
    return found


async def _try_example(box: Toolbox, spec: ToolSpec, example: Example, report: ToolReport) -> None:
    asked = Asked(spec.name, dict(example.arguments))
    outputs = []
    for count in (1, 1, 4):
        scope = box.open_scope()
        called = await box.run([asked], scope) if count == 1 else await box.run([asked] * count, scope)
        await scope.close()
        report.calls += count
        for one in called:
            if one.record.status is not CallStatus.OK:
                report.complaints.append(f"the example {dict(example.arguments)} {one.record.status}: {one.answer.text[:300]}")
                return
        outputs.append(called[0].answer.text)
    if example.output not in outputs[0]:
        report.complaints.append(f"the example {dict(example.arguments)} gave {outputs[0][:300]!r}, without {example.output!r}")
    if outputs[0] != outputs[1]:
        report.complaints.append(
            f"the example {dict(example.arguments)} gave two outputs for two rollouts: {outputs[0][:100]!r} ..."
        )


async def _try_anything(box: Toolbox, spec: ToolSpec, arguments: Mapping[str, JSON], report: ToolReport) -> None:
    scope = box.open_scope()
    try:
        [called] = await box.run([Asked(spec.name, arguments)], scope)
    except ToolError as error:
        report.complaints.append(
            f"{json.dumps(dict(arguments))[:100]} broke it: {error}; what a model writes must be a CallError"
        )
        return
    finally:
        await scope.close()
    report.calls += 1
    if called.record.status is CallStatus.TIMED_OUT:
        report.complaints.append(f"{json.dumps(dict(arguments))[:100]} made it hang")


def _wrong_arguments(spec: ToolSpec, examples: Sequence[Example]) -> Sequence[Mapping[str, JSON]]:
    """No arguments, unknown ones, and each of those of an example replaced by values of every kind."""
    found: list[Mapping[str, JSON]] = [{}, {"no_such_argument": 1}]
    base = dict(examples[0].arguments) if examples else {}
    found += [{**base, name: value} for name in spec.names for value in _WRONG]
    return found
