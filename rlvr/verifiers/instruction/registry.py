"""All constraints, by id."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType

from rlvr.errors import ConfigError
from rlvr.types import JSON
from rlvr.verifiers.instruction.base import Bound, Constraint, bind, collect

MAX_CONSTRAINTS = 50  # of one problem
FAMILIES = (
    *("keywords", "casing", "length", "content", "layout", "combination"),
    *("bench_count", "bench_words", "bench_sentence", "bench_format", "bench_custom", "bench_repeat"),
)


@functools.cache
def constraints() -> Mapping[str, Constraint]:
    """The 83 constraints: 25 of IFEval, 58 of IFBench."""
    for family in FAMILIES:
        importlib.import_module(f"rlvr.verifiers.instruction.{family}")
    return MappingProxyType(collect())


def read_constraints(answer: JSON) -> tuple[Bound, ...]:
    """The constraints of a gold answer: `{"constraints": [{"id", "kwargs"}, ...]}`, that list alone, or the data sets' own
    pair of lists `{"instruction_id_list", "kwargs"}`.

    Raises:
        ConfigError: another form, no constraints, an unknown one, or wrong arguments; names the constraint.

    >>> read_constraints([{"id": "punctuation:no_comma", "kwargs": {}}])[0].follows("One, two.")
    False
    """
    pairs = _pairs(answer)
    if not 1 <= len(pairs) <= MAX_CONSTRAINTS:
        raise ConfigError(f"{len(pairs)} constraints; a gold answer has 1 to {MAX_CONSTRAINTS}")
    return tuple(bind(constraints(), id, kwargs) for id, kwargs in pairs)


def _pairs(answer: JSON) -> list[tuple[JSON, JSON]]:
    if isinstance(answer, dict) and "instruction_id_list" in answer:
        ids, kwargs = answer["instruction_id_list"], answer.get("kwargs")
        if not isinstance(ids, list) or not isinstance(kwargs, list) or len(ids) != len(kwargs):
            raise ConfigError("instruction_id_list and kwargs must be lists of one length")
        return list(zip(ids, kwargs, strict=True))
    entries = answer.get("constraints") if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        raise ConfigError("the gold answer is not {'constraints': [{'id': ..., 'kwargs': {...}}, ...]}")
    pairs = []
    for entry in entries:
        if not isinstance(entry, dict) or "id" not in entry or entry.keys() - {"id", "kwargs"}:
            raise ConfigError(f"{entry!r:.80} is not {{'id': ..., 'kwargs': {{...}}}}")
        pairs.append((entry["id"], entry.get("kwargs")))
    return pairs
