"""`@tool`: any Python function as a tool, its schema from type hints and docstring."""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from rlvr.errors import CallError, PluginError
from rlvr.registry import register
from rlvr.tools.base import Output, Scope, ToolSpec
from rlvr.tools.threads import in_thread
from rlvr.types import JSON

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Return|Raises|Yields|Examples?|Notes?)\s*:\s*$")
_ARGUMENT = re.compile(r"^(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")


class FunctionTool:
    """A function that a model may call; call the tool like the function itself.

    A parameter annotated `Scope` is not shown to the model: it gets what the rollout keeps. Coroutine functions run in the
    event loop; others in a thread of their own, which a time-out leaves behind.

    Raises:
        PluginError: a parameter without a type, of a type that JSON cannot carry, or one that takes any number of arguments.
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        described = _Description(inspect.getdoc(function) or "")
        name = name or function.__name__
        if not _NAME.fullmatch(name):
            raise PluginError(f"tool name {name!r}: a model can call letters, digits, _ and - (up to 64, a letter or _ first)")
        self._scope_name, fields = _fields(function, name, described)
        try:
            self._model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)
            schema = self._model.model_json_schema()
        except PydanticUserError as error:
            raise PluginError(f"tool {name!r}: its types cannot be a JSON Schema: {error}") from error
        self._spec = ToolSpec(name, described.text, _plain_schema(schema))
        self._is_ordered = self._scope_name is not None
        functools.update_wrapper(self, function)

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    @property
    def is_ordered(self) -> bool:
        return self._is_ordered

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    async def call(self, arguments: Mapping[str, JSON], scope: Scope) -> Output:
        """
        Raises:
            CallError: the arguments are not of the declared types.
        """
        try:
            # As JSON, so that a list may be a tuple and a string a date, but "5" is no number.
            model = self._model.model_validate_json(json.dumps(arguments))
        except ValidationError as error:
            raise CallError(explain(error)) from error
        given = {name: getattr(model, name) for name in type(model).model_fields}
        if self._scope_name is not None:
            given[self._scope_name] = scope
        if self._is_async:
            return await self._function(**given)
        return await in_thread(self._spec.name, functools.partial(self._function, **given))


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...
@overload
def tool(name: str, /) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(what: Callable[..., Any] | str, /) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a function a tool: `@tool`, or `@tool("name")` under another name than its own.

    >>> @tool
    ... def area(width: float, height: float = 1.0) -> float:
    ...     '''The area of a rectangle.'''
    ...     return width * height
    >>> area.spec.required
    ('width',)
    """
    if isinstance(what, str):
        return lambda function: register("tools", what)(FunctionTool(function, name=what))
    return register("tools", what.__name__)(FunctionTool(what))


def explain(error: ValidationError) -> str:
    """What is wrong with the arguments, for the model."""
    found = []
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, problem["loc"])) or "arguments"
        match problem["type"]:
            case "missing":
                found.append(f"{where} is missing")
            case "extra_forbidden":
                found.append(f"there is no argument {where}")
            case _:
                found.append(f"{where}: {problem['msg']}, got {_short(problem['input'])}")
    return "; ".join(found[:5])


class _Description:
    """A docstring, read: the text before its sections, and what its `Args:` say of each parameter."""

    def __init__(self, doc: str) -> None:
        self.of: dict[str, str] = {}
        text: list[str] = []
        section, latest = "", ""
        for line in doc.splitlines():
            heading = _SECTION.match(line.strip())
            if heading:
                section, latest = heading[1], ""
            elif not section:
                text.append(line)
            elif section in ("Args", "Arguments", "Parameters"):
                found = _ARGUMENT.match(line.strip())
                if found:
                    latest = found[1].lstrip("*")
                    self.of[latest] = found[2].strip()
                elif latest and line.strip():
                    self.of[latest] += f" {line.strip()}"
        self.text = "\n".join(text).strip()


def _fields(function: Callable[..., Any], name: str, described: _Description) -> tuple[str | None, dict[str, Any]]:
    """The name of the parameter that takes the scope, and the fields of the model of the others."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise PluginError(f"tool {name!r}: its type hints cannot be resolved: {error}") from error
    scope_name: str | None = None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise PluginError(f"tool {name!r}: parameter {parameter.name!r} cannot be named in a call; use ordinary parameters")
        if parameter.name not in hints:
            raise PluginError(f"tool {name!r}: parameter {parameter.name!r} has no type; the model must know what to give")
        if hints[parameter.name] is Scope:
            scope_name = parameter.name
            continue
        if parameter.name.startswith(("_", "model_")):
            raise PluginError(f"tool {name!r}: parameter {parameter.name!r} must not begin with '_' or 'model_'")
        default = ... if parameter.default is parameter.empty else parameter.default
        text = described.of.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], Field(default, description=text) if text else _field(default))
    return scope_name, fields


def _field(default: Any) -> Any:
    return default if isinstance(default, FieldInfo) else Field(default)


def _plain_schema(schema: dict[str, Any]) -> dict[str, JSON]:
    """Pydantic's schema without the titles that it makes up, which only cost tokens."""
    properties = {key: {k: v for k, v in value.items() if k != "title"} for key, value in schema.get("properties", {}).items()}
    rest = {key: value for key, value in schema.items() if key in ("required", "$defs")}
    return {"type": "object", "properties": properties, **rest}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
