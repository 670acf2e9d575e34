"""Training on rollouts that updates have overtaken teaches about as well as training on fresh ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.trainers.train import train

pytestmark = pytest.mark.learning

VERIFIER = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("many_sevens", isolated=False)
def many_sevens(problem, rollout):
    share = rollout.response.count("7") / max(1, len(rollout.response))
    return Verdict.correct() if share == 1 else Verdict.partial(share) if share else Verdict.incorrect()
"""


@pytest.fixture(scope="module")
def graded_by(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("verifiers") / "many_sevens.py"
    file.write_text(VERIFIER)
    return [{"name": f"{file}:many_sevens"}]


def rows(out: Path, graded_by: list[dict[str, Any]], staleness: int, algorithm: dict[str, Any]) -> list[dict[str, Any]]:
    """25 steps of 8 x 8 rollouts of six tokens, as in `test_learning.bandit`."""
    run = train(
        model="new:tiny",
        task="chains",
        steps=25,
        threads=1,
        verifiers=graded_by,
        rollout={"group_size": 8, "problems_per_step": 8, "max_tokens": 6, "max_staleness": staleness},
        algorithm=algorithm,
        optim={"lr": 3e-3},
        data={"problems": 50},
        eval={"problems": 0},
        checkpoint={"every": 0},
        out=str(out),
    )
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def at_the_end(found: list[dict[str, Any]]) -> float:
    return sum(float(row["reward_mean"]) for row in found[-3:]) / 3


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, graded_by: list[dict[str, Any]]) -> float:
    return at_the_end(rows(tmp_path_factory.mktemp("fresh") / "run", graded_by, 0, {"name": "grpo"}))


@pytest.mark.parametrize(("staleness", "stale"), [(1, "tis"), (3, "tis"), (3, "drop")])
def test_a_policy_learns_from_rollouts_that_updates_have_overtaken(
    tmp_path: Path, graded_by: list[dict[str, Any]], fresh: float, staleness: int, stale: str
) -> None:
    found = rows(tmp_path / "run", graded_by, staleness, {"name": "grpo", "stale": stale})
    assert fresh > 0.5
    assert at_the_end(found) > 0.8 * fresh
    assert max(row["staleness_max"] for row in found) == staleness
    assert sum(row["staleness_mean"] for row in found) / len(found) > 0.2
    assert any("corrected_share" in row for row in found)
