"""Read JSON from a model's text: guarded before it is parsed, and stricter than `json.loads`."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from rlvr.types import JSON
from rlvr.verifiers.extract import split_thinking, tagged
from rlvr.verifiers.format import code_blocks

MAX_JSON_CHARS = 200_000
MAX_DEPTH = 64

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonFound:
    """A JSON `value` and the `text` that it was read from; `reason` says why there is none (`text` is then None)."""

    value: JSON = None
    text: str | None = None
    reason: str = ""


def find_json(response: str, *, strict: bool = False) -> JsonFound:
    """The JSON value that a response answers with: in its answer tag, else in its one code block, else its whole answer.

    Outside strict mode words may surround one object or array. Two different answer tags or several code blocks are no answer.
    """
    answer = split_thinking(response).answer
    if (contents := [content for content in tagged(answer) if content.strip()]) and contents:
        if len({content.strip() for content in contents}) > 1:
            return JsonFound(reason=f"{len(contents)} different answer tags")
        answer = contents[-1]
    blocks = code_blocks(answer)
    if len(blocks) > 1:
        return JsonFound(reason=f"{len(blocks)} code blocks; one must hold the JSON")
    text = (blocks[0].content if blocks else answer).strip()
    if not text:
        return JsonFound(reason="no answer to read JSON from")
    if not strict and not blocks and text[0] not in '[{"' and (spot := _bracketed(text)):
        text = spot
    return parse_json(text)


def parse_json(text: str) -> JsonFound:
    """`text` as JSON. Refuses what parsers disagree about: NaN, infinities, numbers beyond a float's range, repeated keys."""
    if len(text) > MAX_JSON_CHARS:
        return JsonFound(reason=f"the JSON has {len(text)} characters; at most {MAX_JSON_CHARS} are read")
    if (depth := nesting(text)) > MAX_DEPTH:
        return JsonFound(reason=f"the JSON is nested {depth} deep; at most {MAX_DEPTH} are read")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except ValueError as error:
        return JsonFound(reason=f"not JSON: {str(error)[:200]}")
    return JsonFound(value, text)


def nesting(text: str) -> int:
    """How deep brackets outside of strings are nested. Linear, without recursion."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
    return deepest


def canonical(value: JSON, *, ignore_order: bool = False) -> str:
    """Equal text for equal JSON values: 1 is 1.0 but not true, keys have no order; nor have lists with `ignore_order`."""
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{json.dumps(key)}:{canonical(value[key], ignore_order=ignore_order)}" for key in sorted(value)) + "}"
        )
    if isinstance(value, list):
        items = [canonical(item, ignore_order=ignore_order) for item in value]
        return "[" + ",".join(sorted(items) if ignore_order else items) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _bracketed(text: str) -> str:
    """From the first opening bracket to the last closing one."""
    begin = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    end = max(text.rfind("}"), text.rfind("]"))
    return text[begin : end + 1] if 0 <= begin < end else ""


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is repeated in an object")
    return found


def _constant(name: str) -> JSON:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond the range of numbers")
    return value
