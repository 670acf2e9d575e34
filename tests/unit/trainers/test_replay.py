"""Replays of a real run of the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.main import main
from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import read_rollouts
from rlvr.trainers.replay import replay
from rlvr.trainers.train import train

MakeRecipe = Callable[..., dict[str, Any]]

EIGHTS = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier


@verifier("eights_in_test", isolated=False)
def eights(problem, rollout):
    share = rollout.response.count("8") / max(1, len(rollout.response))
    return Verdict.partial(share) if share else Verdict.incorrect()


@verifier("nothing_in_test", isolated=False)
def nothing(problem, rollout):
    return Verdict.incorrect()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, sevens: str) -> Path:
    recipe = {
        "kind": "rl", "model": "new:tiny", "task": "chains", "steps": 2, "threads": 1,
        "out": str(tmp_path_factory.mktemp("replay") / "run"), "verifiers": [{"name": sevens}],
        "rollout": {"group_size": 4, "problems_per_step": 4, "max_tokens": 8}, "eval": {"problems": 0},
    }  # fmt: skip
    return train(recipe).folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("other") / "other.py"
    file.write_text(EIGHTS)
    return str(file)


def test_the_runs_own_recipe_gives_its_stored_advantages_again(run: Path) -> None:
    report = replay(run, ["algorithm=grpo"])
    assert (report.rollouts, report.groups) == (32, 8)
    assert report.reproduced == report.checked == 32
    assert (report.signs_flipped, report.outcomes_flipped, report.rewards_changed, report.notes) == (0, 0, 0, [])


def test_another_verifier_flips_outcomes_and_signs_and_names_the_rollouts(run: Path, other: str) -> None:
    report = replay(run, [f"verifier={other}:eights"], examples=3)
    assert report.outcomes_flipped > 0
    assert report.signs_flipped > 0
    assert len(report.flips) == 3
    stored = {
        (step, one.rollout.problem.id, one.rollout.sample_index): one
        for step in (1, 2)
        for one in read_rollouts(run / "rollouts" / f"step-00000{step}.jsonl.gz")
    }
    for flip in report.flips:
        one = stored[flip.step, flip.problem, flip.sample]
        assert flip.advantages[0] == one.provenance["advantage"]
        assert flip.rewards[1] == pytest.approx(one.rollout.response.count("8") / max(1, len(one.rollout.response)))
    assert report.reproduced == 32


def test_a_verifier_that_refuses_everything_takes_every_groups_signal(run: Path, other: str) -> None:
    report = replay(run, [f"verifier={other}:nothing"])
    assert report.signal_lost > 0
    assert (report.signal_gained, report.signal_kept) == (0, 0)
    assert {new for _, new in report.signs} == {"0"}


def test_a_filter_drops_groups_and_other_algorithms_keep_signs(run: Path) -> None:
    dropped = replay(run, ["filters=too_hard"])
    assert sum(count for (_, new), count in dropped.signs.items() if new == "dropped") > 0
    assert replay(run, ["algorithm=rloo"]).signs_flipped == 0


def test_one_step_alone_can_be_replayed(run: Path) -> None:
    assert replay(run, ["algorithm=rloo"], steps=[2]).rollouts == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "nothing changes"),
        (["optim.lr=1.0"], "a replay changes verifiers, shapes, filters, algorithm"),
        (["algorithm=grop"], "grop"),
        (["verifier=no_such_verifier"], "no_such_verifier"),
    ],
)
def test_changes_that_cannot_be_replayed_are_refused(run: Path, changes: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        replay(run, changes)


def test_a_step_that_is_damaged_is_left_out_and_said(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "rollouts").mkdir(parents=True)
    (copy / "config.toml").write_text((run / "config.toml").read_text())
    whole = (run / "rollouts" / "step-000001.jsonl.gz").read_bytes()
    (copy / "rollouts" / "step-000001.jsonl.gz").write_bytes(whole)
    (copy / "rollouts" / "step-000002.jsonl.gz").write_bytes(whole[:100])
    report = replay(copy, ["algorithm=rloo"])
    assert report.rollouts == 16
    assert "step 2 was left out" in report.notes[0]


def test_a_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.toml"):
        replay(tmp_path, ["algorithm=rloo"])


def test_the_command_prints_what_flips(run: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run), f"verifier={other}:eights"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "advantages change their sign" in printed
    assert "32 of 32 stored advantages come out again" in printed
    assert main(["replay", str(run), "algorithm=rloo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reproduced"] == {"advantages": 32, "of": 32}
