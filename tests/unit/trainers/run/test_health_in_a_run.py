"""The rules inside real runs of the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError
from rlvr.evaluation.observer import SilentObserver
from rlvr.trainers.train import Run, resume, train

MakeRecipe = Callable[..., dict[str, Any]]

NEVER = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("never_in_test", isolated=False)
def never(problem, rollout):
    return Verdict.incorrect(reason="the strict one")
"""

EASY = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("always_in_test", isolated=False)
def always(problem, rollout):
    return Verdict.correct()
"""


class Notes(SilentObserver):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_rule_that_fires_is_in_the_terminal_the_metrics_and_the_report_and_may_end_the_run(recipe: MakeRecipe) -> None:
    health = {"truncation": {"limit": 0.0, "rise": 0, "window": 2}, "stop": ["truncation"]}
    notes = Notes()
    run = train(recipe(steps=6, health=health), observer=notes)
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2]  # as soon as the window is full
    (said,) = rows[1]["health"]
    assert (said["rule"], said["stops"], len(said["rollouts"])) == ("truncation", True, 5)
    assert any(text.startswith("health: truncation, step 2:") for text in notes.texts)
    assert run.summary["early_end"].startswith("health: truncation")
    assert run.summary["steps"] == 2
    assert "cut at the limit of tokens" in (run.folder / "report.html").read_text()
    assert run.checkpoint.name == "step-000002"


def test_a_stricter_second_verifier_shows_that_the_reward_is_hacked(recipe: MakeRecipe, tmp_path: Path) -> None:
    for name, text in (("strict", NEVER), ("easy", EASY)):
        (tmp_path / f"{name}.py").write_text(text)
    health = {"second": f"{tmp_path}/strict.py:never", "sample": 3, "second_opinion": {"window": 1}}
    run = train(recipe(steps=1, verifiers=[{"name": f"{tmp_path}/easy.py:always"}], health=health))
    (row,) = metrics(run)
    assert (row["second_asked"], row["second_refused_share"]) == (3, 1.0)
    (said,) = [one for one in row["health"] if one["rule"] == "second_opinion"]
    assert "the reward is hacked" in said["words"]
    assert len(said["rollouts"]) == 3


def test_a_wrong_section_is_refused_before_the_run_has_a_folder(recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'entropy_collapse'"):
        train(recipe(health={"entropy_colapse": {}}))
    assert not (tmp_path / "run").exists()


class Killed(SilentObserver):
    """Ends the process, as it were, in the measurement after training: between the last checkpoint and the summary."""

    def stage(self, name: str, total: int) -> None:
        if name.endswith("after"):
            raise KeyboardInterrupt


def test_a_run_killed_between_a_health_stop_and_its_summary_stays_stopped(recipe: MakeRecipe, tmp_path: Path) -> None:
    health = {"truncation": {"limit": 0.0, "rise": 0, "window": 2}, "stop": ["truncation"]}
    measured = {"problems": 2, "n": 1, "k": [1], "greedy": False}
    with pytest.raises(KeyboardInterrupt):
        train(recipe(steps=6, health=health, eval=measured), observer=Killed())
    folder = tmp_path / "run"
    assert not (folder / "summary.json").exists()
    notes = Notes()
    run = resume(folder, observer=notes)
    assert [row["step"] for row in metrics(run)] == [1, 2]
    assert run.summary["early_end"].startswith("health: truncation, step 2")
    assert run.summary["steps"] == 2
    assert any(text.startswith("training has ended here already: health: truncation") for text in notes.texts)
    # A run that is over stays so, too, unless the rule may no longer end it.
    assert resume(folder).summary["steps"] == 2
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('stop = ["truncation"]', "stop = []"))
    assert resume(folder).summary["steps"] == 6
