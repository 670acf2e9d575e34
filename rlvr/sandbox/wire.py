"""Jobs, limits, executions and cells as JSON, for a sandbox that is asked over HTTP.

What a client sends is checked like any input. What a server sends back holds values that a submission chose; they are decoded
as such (see `rlvr.sandbox.plain`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from rlvr.errors import ConfigError
from rlvr.sandbox.jobs import (
    Binary,
    Call,
    Calls,
    Cell,
    Checks,
    Compile,
    Execution,
    Failure,
    Job,
    Limits,
    Program,
    Returned,
    Status,
)
from rlvr.sandbox.plain import NotPlainError, Opaque, decode, encode
from rlvr.types import JSON

T = TypeVar("T")
Object = Mapping[str, Any]


class WireError(ValueError):
    """A message is not what it should be; the text says which part."""


def encode_job(job: Job) -> dict[str, JSON]:
    """
    Raises:
        NotPlainError: an argument of a call is not plain data.
    """
    return {"kind": _KIND_OF[type(job)], **_encode(job, _PARTS)}


def decode_job(message: JSON) -> Job:
    """
    Raises:
        WireError: it describes no job.
    """
    given = dict(_object(message, "job"))
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in _JOBS:
        raise WireError(f"unknown kind of job {kind!r}; known: {', '.join(_JOBS)}")
    known = {field.name: field for field in fields(_JOBS[kind])}
    for name in given:
        if name not in known:
            raise WireError(f"unknown part {name!r} of a {kind} job; known: {', '.join(known)}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in given]
    if missing:
        raise WireError(f"a {kind} job has no {missing[0]!r}")
    return _JOBS[kind](**{name: _read_part(name, str(known[name].type), part) for name, part in given.items()})


def encode_limits(limits: Limits) -> dict[str, JSON]:
    return {field.name: getattr(limits, field.name) for field in fields(limits)}


def decode_limits(message: JSON) -> Limits:
    """
    Raises:
        WireError: it has unknown names, values that are no numbers, or numbers out of range.
    """
    given = _object(message, "limits")
    known = {field.name: field for field in fields(Limits)}
    for name, value in given.items():
        if name not in known:
            raise WireError(f"unknown limit {name!r}; known: {', '.join(known)}")
        is_whole = known[name].type == "int"
        if type(value) not in ((int,) if is_whole else (int, float)) and not (value is None and name == "call_s"):
            raise WireError(f"the limit {name} is {value!r}, not a {'whole ' if is_whole else ''}number")
    try:
        return Limits(**given)
    except ConfigError as error:
        raise WireError(str(error)) from error


def encode_execution(execution: Execution) -> dict[str, JSON]:
    """What differs from the defaults."""
    return _encode(execution, _EXECUTION)


def decode_execution(message: JSON) -> Execution:
    """
    Raises:
        WireError: it describes no execution.
    """
    return _decode(Execution, message, _EXECUTION, "execution")


def encode_cell(cell: Cell) -> dict[str, JSON]:
    """What differs from the defaults."""
    return _encode(cell, _CELL)


def decode_cell(message: JSON) -> Cell:
    """
    Raises:
        WireError: it describes no cell.
    """
    return _decode(Cell, message, _CELL, "cell")


Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def _encode(value: Any, codecs: Mapping[str, Codec]) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if field.default is MISSING or part != field.default:
            found[field.name] = codecs[field.name][0](part) if field.name in codecs else part
    return found


def _decode(kind: type[T], message: JSON, codecs: Mapping[str, Codec], name: str) -> T:
    given = _object(message, name)
    try:
        return kind(**{key: codecs[key][1](part) if key in codecs else part for key, part in given.items()})
    except (TypeError, ValueError, KeyError) as error:
        raise WireError(f"not an answer of a sandbox ({name}): {error}") from error


def _failure(value: Failure | None) -> JSON:
    return None if value is None else [value.kind, value.message]


def _read_failure(message: Any) -> Failure | None:
    if message is None:
        return None
    kind, words = message
    return Failure(str(kind), str(words))


def _returned(value: Returned) -> JSON:
    if value.failure is not None:
        return {"failure": _failure(value.failure)}
    return {"value": _encode_value(value.value)}


def _encode_value(value: Any) -> JSON:
    """What `decode` gave, in a form that gives it again."""
    if type(value) is Opaque:
        return {"~": "opaque", "c": value.kind}
    if type(value) in (list, tuple, dict) and _holds_opaque(value):
        if type(value) is dict:
            return {"~": "dict", "v": [[_encode_value(key), _encode_value(item)] for key, item in value.items()]}
        items: list[JSON] = [_encode_value(item) for item in value]
        return items if type(value) is list else {"~": "tuple", "v": items}
    try:
        return encode(value)
    except NotPlainError:  # a deque of objects, say: as little a value as the objects in it
        return {"~": "opaque", "c": type(value).__name__}


def _holds_opaque(value: Any) -> bool:
    pending = [value]
    while pending:
        current = pending.pop()
        if type(current) is Opaque:
            return True
        if type(current) in (list, tuple):
            pending += current
        elif type(current) is dict:
            pending += [*current.keys(), *current.values()]
    return False


def _read_returned(message: Any) -> Returned:
    if "failure" in message:
        return Returned(failure=_read_failure(message["failure"]))
    return Returned(decode(message["value"]))


def _to_text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _from_text(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise WireError(f"not base64: {error}") from error


def _each(codec: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [codec(value) for value in values]


def _tuple(codec: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: tuple(codec(value) for value in values)


_EXECUTION: Mapping[str, Codec] = {
    "status": (str, Status),
    "stdout": (_to_text, _from_text),
    "stderr": (_to_text, _from_text),
    "binary": (_to_text, _from_text),
    "failure": (_failure, _read_failure),
    "returned": (_each(_returned), _tuple(_read_returned)),
    "passed": (list, _tuple(bool)),
    "check_failures": (_each(_failure), _tuple(_read_failure)),
}
_CELL: Mapping[str, Codec] = {"status": (str, Status), "failure": (_failure, _read_failure)}


_JOBS: Mapping[str, type[Job]] = {"program": Program, "calls": Calls, "checks": Checks, "compile": Compile, "binary": Binary}
_KIND_OF = {kind: name for name, kind in _JOBS.items()}


def _write_call(call: Call) -> JSON:
    return [[encode(value) for value in call.args], {name: encode(value) for name, value in call.kwargs.items()}]


def _read_call(message: Any) -> Call:
    if not (isinstance(message, list) and len(message) == 2 and isinstance(message[0], list) and isinstance(message[1], dict)):
        raise WireError("a call is a list of arguments and an object of named arguments")
    try:
        args, kwargs = message
        return Call(tuple(decode(value) for value in args), {name: decode(value) for name, value in kwargs.items()})
    except NotPlainError as error:
        raise WireError(f"an argument is not plain data: {error}") from error


_PARTS: Mapping[str, Codec] = {
    "stdin": (_to_text, _from_text),
    "binary": (_to_text, _from_text),
    "calls": (_each(_write_call), _tuple(_read_call)),
    "entry_points": (list, tuple),
    "tests": (list, tuple),
}
_JSON_TYPES: Mapping[str, Any] = {"str": str, "bytes": str, "bool": bool}


def _read_part(name: str, kind: str, part: Any) -> Any:
    """One field of a job, of the type that its dataclass declares."""
    wanted = _JSON_TYPES.get(kind, list)
    if type(part) is not wanted:
        raise WireError(f"{name!r} is {type(part).__name__}, not {wanted.__name__}")
    if kind == "tuple[str, ...]" and not all(isinstance(text, str) for text in part):
        raise WireError(f"{name!r} has parts that are no texts")
    return _PARTS[name][1](part) if name in _PARTS else part


def _object(message: Any, name: str) -> Object:
    if not isinstance(message, dict):
        raise WireError(f"{name} is {type(message).__name__}, not an object")
    return message
