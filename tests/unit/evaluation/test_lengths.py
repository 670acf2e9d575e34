"""Accuracy and length by what was asked for, and the shortest correct responses as demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.cli.main import main
from rlvr.envs.tasks.demonstrations import read_demonstrations
from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.lengths import lengths_by
from rlvr.evaluation.rollout_files import measured_files, trained_files
from rlvr.evaluation.shortest import shortest_correct
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict

CORRECT, WRONG, BROKEN = Verdict.correct(), Verdict.incorrect(), Verdict.error("ours")


def rollout(
    id: str, tokens: int, verdict: Verdict = CORRECT, *, stop: Stop = Stop.STOP, turns: int = 1, **metadata: Any
) -> Rollout:
    problem = Problem(id, (Message("user", f"{id}?"),), 1, metadata)
    turn = Turn((5,), Completion((1,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", "a" * tokens))
    return Rollout(problem, 0, [turn] * turns, stop, {"number": verdict}, verdict.score)


def test_rows_are_by_hand() -> None:
    rollouts = [
        rollout("a", 10, target_tokens=10),
        rollout("a", 15, WRONG, target_tokens=10),
        rollout("b", 30, target_tokens=20, stop=Stop.LENGTH),
        rollout("b", 20, BROKEN, target_tokens=20),
    ]
    ten, twenty, everything = lengths_by(rollouts, "target_tokens")
    assert (ten.asked, ten.problems, ten.accuracy.mean, ten.tokens.mean) == ("10", 1, 0.5, 12.5)
    assert ten.deviation is not None
    assert (ten.deviation.mean, ten.over, ten.truncated) == (0.25, 0.5, 0)
    assert (twenty.rollouts, twenty.unscored, twenty.accuracy.mean, twenty.truncated) == (2, 1, 1, 1)
    assert everything.deviation is not None
    assert everything.deviation.mean == pytest.approx((0.25 + 0.5) / 2)  # over problems
    assert (everything.asked, everything.problems, everything.unscored) == ("all", 2, 1)


def test_many_targets_become_bands_and_modes_stay_what_they_are() -> None:
    rows = lengths_by([rollout(f"p{i}", i, target_tokens=i + 1) for i in range(40)], "target_tokens")
    assert [row.asked for row in rows] == ["1 to 10", "11 to 20", "21 to 30", "31 to 40", "all"]
    modes = [rollout(f"p{i}", 3 + i, thinking="on" if i % 2 else "off") for i in range(6)]
    for one in modes:
        one.verdicts["thinking"] = CORRECT if one.problem.metadata["thinking"] == "on" else WRONG
    rows = lengths_by(modes, "thinking")
    assert [(row.asked, row.problems, row.deviation, row.kept) for row in rows] == [
        ("off", 3, None, 0.0),
        ("on", 3, None, 1.0),
        ("all", 6, None, 0.5),
    ]


def test_a_key_that_no_problem_has_is_named() -> None:
    with pytest.raises(ConfigError, match="--by 'mode', but no problem has that in its metadata; there is thinking"):
        lengths_by([rollout("a", 1, thinking="on")], "mode")
    with pytest.raises(ConfigError, match="no scored rollouts"):
        lengths_by([rollout("a", 1, BROKEN)])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30), st.booleans()), min_size=1, max_size=40))
def test_the_shortest_correct_response_of_every_solved_problem_is_kept(attempts: list[tuple[int, int, bool]]) -> None:
    found = shortest_correct([rollout(f"p{p}", tokens, CORRECT if right else WRONG) for p, tokens, right in attempts])
    best: dict[str, int] = {}
    for p, tokens, right in attempts:
        if right:
            best[f"p{p}"] = min(tokens, best.get(f"p{p}", tokens))
    assert {one.problem.id: one.completion_tokens for one in found.chosen} == best
    assert found.problems == len({p for p, _, _ in attempts}) == len(best) + found.unsolved
    assert found.tokens_chosen <= found.tokens_correct + 1e-9


def test_truncated_unscored_and_tool_rollouts_are_no_demonstrations() -> None:
    found = shortest_correct(
        [
            rollout("a", 3, stop=Stop.LENGTH),
            rollout("a", 4, BROKEN),
            rollout("a", 5, turns=2),
            rollout("a", 9),
            rollout("b", 2, WRONG),
        ]
    )
    assert [one.completion_tokens for one in found.chosen] == [9]
    assert (found.several_turns, found.unsolved, found.rollouts) == (1, 1, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of `rlvr eval --out`: samples of a training split, with a greedy answer that is no sample."""
    rows = [rollout("a", 7), rollout("a", 4), rollout("b", 9, WRONG)]
    kept = [rollout_to_json(one, mode="sampled") for one in rows] + [rollout_to_json(rollout("b", 1), mode="greedy")]
    write_rollouts(tmp_path / "eval" / "samples.jsonl.gz", kept)
    (tmp_path / "eval" / "report.json").write_text(json.dumps({"split": "train"}))
    return tmp_path / "eval"


def test_the_verb_writes_what_a_supervised_recipe_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "short.jsonl"
    assert main(["shortest", str(folder), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["demonstrations"] == 1
    assert read_demonstrations(str(out)) == [((Message("user", "a?"),), "aaaa")]
    assert main(["shortest", str(folder), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_samples_of_a_test_split_are_no_training_data(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps({"split": "test"}))
    with pytest.raises(ConfigError, match="what a model is measured on must not be trained on"):
        trained_files(folder)
    assert measured_files(folder) == [folder / "samples.jsonl.gz"]


def test_nothing_solved_is_the_answer_no(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rollouts(folder / "samples.jsonl.gz", [rollout_to_json(rollout("a", 7, WRONG), mode="sampled")])
    assert main(["shortest", str(folder), "--out", str(folder / "short.jsonl")]) == 1
    assert "nothing was written" in capsys.readouterr().out
    assert not (folder / "short.jsonl").exists()


def test_a_run_gives_its_newest_measurement_and_all_its_training_rollouts(tmp_path: Path) -> None:
    for step in (2, 10):
        write_rollouts(tmp_path / "evaluations" / f"step-{step:06d}.held-out.jsonl.gz", [rollout_to_json(rollout("a", step))])
        write_rollouts(tmp_path / "evaluations" / f"step-{step:06d}.longer.jsonl.gz", [rollout_to_json(rollout("a", step))])
        write_rollouts(tmp_path / "rollouts" / f"step-{step:06d}.jsonl.gz", [rollout_to_json(rollout("a", step))])
    assert [path.name for path in measured_files(tmp_path)] == ["step-000010.held-out.jsonl.gz"]
    assert [path.name for path in measured_files(tmp_path, 2)] == ["step-000002.held-out.jsonl.gz"]
    assert [path.name for path in trained_files(tmp_path)] == ["step-000002.jsonl.gz", "step-000010.jsonl.gz"]
    with pytest.raises(ConfigError, match="a training step at 2, 10"):
        trained_files(tmp_path, 3)
    with pytest.raises(ConfigError, match="holds no training step"):
        trained_files(tmp_path / "evaluations")


def test_the_table_shows_every_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lengths", str(folder)]) == 0
    assert "50.0" in capsys.readouterr().out
    assert main(["lengths", str(folder), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["problems"], row["rollouts"], row["tokens"]["mean"]) == (2, 3, pytest.approx((5.5 + 9) / 2))
