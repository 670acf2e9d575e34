"""Runs that end before their last step, because nothing is left to learn or nothing can be learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.filtering.curriculum import StarvedError
from rlvr.trainers.train import train

MakeRecipe = Callable[..., dict[str, Any]]

JUDGES = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("always_right", isolated=False)
def always_right(problem, rollout):
    return Verdict.correct()


@verifier("always_wrong", isolated=False)
def always_wrong(problem, rollout):
    return Verdict.incorrect()
"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("judges") / "judges.py"
    file.write_text(JUDGES)
    return file


def test_a_run_that_learns_nothing_ends_with_the_numbers_and_can_be_resumed(recipe: MakeRecipe, judges: Path) -> None:
    made = recipe(steps=9, verifiers=[{"name": f"{judges}:always_wrong"}], rollout={"patience": 3})
    with pytest.raises(StarvedError, match=r"for 3 steps in a row no group had .* 4 all wrong"):
        train(made)
    folder = Path(made["out"])
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2  # the step that gave up is not a finished one
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]


def test_a_run_that_has_solved_everything_ends_well_and_says_so(recipe: MakeRecipe, judges: Path) -> None:
    settings = {"rollout": {"patience": 3}, "eval": {"problems": 2, "n": 1, "k": [1]}}
    run = train(recipe(steps=9, verifiers=[{"name": f"{judges}:always_right"}], **settings))
    summary = json.loads((run.folder / "summary.json").read_text())
    assert "nothing more to learn" in summary["early_end"]
    assert summary["after"]["pass@1"]["mean"] == 1.0


def test_a_curriculum_of_the_recipe_is_used_and_its_numbers_are_in_the_metrics(recipe: MakeRecipe) -> None:
    run = train(recipe(curriculum="window", data={"problems": 12}, filters=["too_long"]))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(0.0 < row["curriculum_rate"] < 1.0 for row in rows)
    assert "epoch" not in rows[0]
