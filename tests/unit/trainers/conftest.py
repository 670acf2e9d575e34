"""A recipe small enough to run many times: the tiny model of `chains`, rewarded for writing the digit 7."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SEVENS = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("sevens", isolated=False)
def sevens(problem, rollout):
    share = rollout.response.count("7") / max(1, len(rollout.response))
    return Verdict.correct() if share == 1 else Verdict.partial(share) if share else Verdict.incorrect()
"""


@pytest.fixture(scope="session")
def sevens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference to the verifier; one file for all tests, because a name belongs to one file."""
    file = tmp_path_factory.mktemp("verifier") / "sevens.py"
    file.write_text(SEVENS)
    return f"{file}:sevens"


@pytest.fixture
def recipe(tmp_path: Path, sevens: str) -> Callable[..., dict[str, Any]]:
    """Builds recipes; sections given as keywords replace single keys of the default's sections."""
    default: dict[str, Any] = {
        "kind": "rl",
        "model": "new:tiny",
        "task": "chains",
        "steps": 2,
        "threads": 1,
        "out": str(tmp_path / "run"),
        "verifiers": [{"name": sevens}],
        "rollout": {"group_size": 4, "problems_per_step": 4, "max_tokens": 8},
        "optim": {"lr": 1e-3},
        "eval": {"problems": 0},
        "checkpoint": {"every": 0},
    }

    def build(**changes: Any) -> dict[str, Any]:
        made = dict(default)
        for key, value in changes.items():
            made[key] = {**made[key], **value} if isinstance(value, dict) and isinstance(made.get(key), dict) else value
        return made

    return build
