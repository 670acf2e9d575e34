"""Golden cases: what a verifier must find, and why. One JSON object a line, or a list of such objects in Python.

A case has `answer`, `response`, `outcome` and `why`, and may have `prompt`, `metadata`, `score`, `settings` and `probe`: the
audit's probe that it belongs to ("equivalent", "mutated", "exploit" ...), which is how a verifier ships probes of its own.

The cases of a verifier lie in `golden/NAME.jsonl` beside the module that defines it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rlvr.types import JSON, Message, Outcome, Problem
from rlvr.verifiers.base import Verifier

Cases: TypeAlias = "str | Path | Sequence[Mapping[str, JSON]]"

_PACKAGE = Path(__file__).resolve().parents[1]
_OF_BUILT_INS = (_PACKAGE / "_golden", _PACKAGE.parent / "tests" / "golden")  # in a wheel, in a checkout
_REQUIRED = {"answer", "response", "outcome", "why"}
_KNOWN = _REQUIRED | {"prompt", "metadata", "score", "settings", "probe"}


@dataclass(frozen=True, slots=True)
class Case:
    """A golden case: what the verifier must find, and `why`."""

    problem: Problem
    response: str
    outcome: Outcome
    why: str
    where: str
    score: float | None = None
    settings: Mapping[str, JSON] = field(default_factory=dict)
    probe: str = "golden"


def read_cases(cases: Cases) -> list[Case]:
    """
    Raises:
        ValueError: a case is malformed, or there is none.
    """
    rows: Iterable[tuple[str, Any]]
    if isinstance(cases, (str, Path)):
        lines = Path(cases).read_text(encoding="utf-8").splitlines()
        rows = ((f"{Path(cases).name}:{number}", json.loads(line)) for number, line in enumerate(lines, 1) if line.strip())
    else:
        rows = ((f"case {number}", row) for number, row in enumerate(cases, 1))
    found = [_case(where, row) for where, row in rows]
    if not found:
        raise ValueError("no golden cases to check with")
    return found


def shipped_cases(verifier: Verifier) -> Path | None:
    """The file of golden cases that came with a verifier, if one did."""
    return next((path for path in _places(verifier) if path.is_file()), None)


def _places(verifier: Verifier) -> Iterator[Path]:
    name = f"{verifier.name}.jsonl"
    module = inspect.getmodule(verifier.function)
    if module is not None and module.__file__:
        yield Path(module.__file__).parent / "golden" / name
        if module.__name__.startswith("rlvr."):
            yield from (folder / name for folder in _OF_BUILT_INS)


def _case(where: str, row: Any) -> Case:
    missing, unknown = _REQUIRED - row.keys(), row.keys() - _KNOWN
    if missing or unknown:
        raise ValueError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    prompt = (Message("user", row["prompt"]),) if row.get("prompt") else ()
    return Case(
        problem=Problem(where, prompt, row["answer"], row.get("metadata", {})),
        response=row["response"],
        outcome=Outcome(row["outcome"]),
        why=row["why"],
        where=where,
        score=row.get("score"),
        settings=row.get("settings", {}),
        probe=row.get("probe", "golden"),
    )
