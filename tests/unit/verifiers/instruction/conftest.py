from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError
from rlvr.verifiers.instruction.base import Bound
from rlvr.verifiers.instruction.registry import read_constraints

GOLDEN = Path(__file__).parents[3] / "golden"


def golden_rows() -> list[dict[str, Any]]:
    texts = [(GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("ifeval", "ifbench")]
    return [json.loads(line) for text in texts for line in text.split("\n") if line]


@pytest.fixture(scope="session")
def golden() -> list[dict[str, Any]]:
    """Every golden case of both verifiers."""
    return golden_rows()


@pytest.fixture(scope="session")
def bound(golden: list[dict[str, Any]]) -> dict[str, Bound]:
    """Every constraint with the arguments of its first golden case."""
    found: dict[str, Bound] = {}
    for row in golden:
        try:
            constraints = read_constraints(row["answer"])
        except ConfigError:
            continue
        for constraint in constraints:
            found.setdefault(constraint.constraint.id, constraint)
    return found
