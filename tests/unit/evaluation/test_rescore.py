from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlvr.cli.main import main
from rlvr.cli.rescore import rescore_table
from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import read_rollouts, rollout_to_json, write_rollouts
from rlvr.evaluation.rescore import rescore
from rlvr.types import Message, Problem, Rollout, Verdict
from rlvr.verifiers.runner import WeightedVerifier

GRADING = {"number": {"reference": "rlvr.verifiers.exact:number", "version": "0", "weight": 1.0, "settings": {}}}
LENIENT = WeightedVerifier("number")
STRICT = WeightedVerifier("number", 1.0, {"strict": True})


def row(problem: str, index: int, response: str, verdict: Verdict, **more: Any) -> dict[str, Any]:
    rollout = Rollout.from_response(Problem(problem, (Message("user", "?"),), "5"), response)
    rollout.sample_index, rollout.verdicts, rollout.reward = index, {"number": verdict}, verdict.score
    return rollout_to_json(rollout, grading=GRADING, **more)


def samples(mode: str = "sampled") -> list[dict[str, Any]]:
    """Two problems, two samples each; the last is right, but was graded by a verifier that missed it."""
    return [
        row("a", 0, "<answer>5</answer>", Verdict.correct("5"), mode=mode),
        row("a", 1, "<answer>6</answer>", Verdict.incorrect("6", "another number"), mode=mode),
        row("b", 0, "<answer>7</answer>", Verdict.incorrect("7", "another number"), mode=mode),
        row("b", 1, "it is 5", Verdict.unparsed("no tag"), mode=mode),
    ]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "eval"
    write_rollouts(folder / "samples.jsonl.gz", [*samples(), row("a", 0, "5", Verdict.correct("5"), mode="greedy")])
    (folder / "report.json").write_text(json.dumps({"pass@1": {}, "pass@2": {}, "problems": 2}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for step in (1, 2):
        write_rollouts(
            folder / "rollouts" / f"step-{step:06d}.jsonl.gz", [{**one, "provenance": {"step": step}} for one in samples()]
        )
    write_rollouts(folder / "evaluations" / "step-000002.held-out.jsonl.gz", samples())
    (folder / "evaluations" / "step-000002.json").write_text(json.dumps({"held-out": {"pass@1": {}, "results": []}}))
    return folder


def test_flips_are_counted_and_pass_at_k_stands_beside_the_old(evaluation: Path) -> None:
    report = rescore(evaluation, LENIENT)
    assert report.transitions == {("correct", "correct"): 2, ("incorrect", "incorrect"): 2, ("unparsed", "correct"): 1}
    assert (report.rollouts, report.flipped) == (5, 1)
    (flip,) = report.flips
    assert (flip.problem_id, flip.sample_index, flip.before.reason, flip.after.extracted) == ("b", 1, "no tag", "5")
    (measured,) = report.evaluations
    assert {key: found.mean for key, found in measured.before.items()} == {"pass@1": 0.25, "pass@2": 0.5}
    assert {key: found.mean for key, found in measured.after.items()} == {"pass@1": 0.5, "pass@2": 1.0}
    assert measured.gain["pass@2"].mean == 0.5


def test_new_files_have_the_old_verdicts_beside_the_new_and_the_old_files_stay(evaluation: Path) -> None:
    before = gzip.decompress((evaluation / "samples.jsonl.gz").read_bytes())
    report = rescore(evaluation, STRICT)
    assert gzip.decompress((evaluation / "samples.jsonl.gz").read_bytes()) == before
    out = Path(report.out)
    assert out.parent == evaluation.parent
    assert out.name == "eval-rescored-number"
    stored = list(read_rollouts(out / "samples.jsonl.gz"))
    assert [one.rollout.problem.id for one in stored] == ["a", "a", "b", "b", "a"]
    last = stored[3]
    assert last.rollout.verdicts["number"].outcome == "unparsed"
    assert last.provenance["grading"]["number"]["settings"] == {"strict": True}
    assert last.provenance["rescored"]["grading"] == GRADING
    assert last.provenance["rescored"]["verdicts"]["number"]["reason"] == "no tag"
    assert last.provenance["mode"] == "sampled"
    assert json.loads((out / "rescore.json").read_text()) == report.to_json()


def test_nothing_is_overwritten(evaluation: Path, tmp_path: Path) -> None:
    first, second = rescore(evaluation, LENIENT), rescore(evaluation, LENIENT)
    assert Path(second.out).name == "eval-rescored-number-2"
    assert first.out != second.out
    with pytest.raises(ConfigError, match="never overwritten"):
        rescore(evaluation, LENIENT, out=first.out)


def test_a_run_is_rescored_step_by_step_with_its_evaluations(run: Path) -> None:
    report = rescore(run, LENIENT)
    assert report.rollouts == 12
    assert [one.name for one in report.evaluations] == ["evaluations/step-000002.held-out.jsonl.gz"]
    assert list(report.evaluations[0].before) == ["pass@1"]
    files = {str(path.relative_to(report.out)) for path in Path(report.out).rglob("*.gz")}
    assert files == {
        "rollouts/step-000001.jsonl.gz",
        "rollouts/step-000002.jsonl.gz",
        "evaluations/step-000002.held-out.jsonl.gz",
    }
    assert rescore(run, LENIENT, step=2).rollouts == 4
    with pytest.raises(ConfigError, match="no rollouts of step 3"):
        rescore(run, LENIENT, step=3)


def test_one_file_becomes_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl.gz"
    write_rollouts(path, samples())
    report = rescore(path, LENIENT)
    assert Path(report.out).name == "mine-rescored-number.jsonl.gz"
    assert len(list(read_rollouts(report.out))) == 4
    assert report.evaluations == []
    assert rescore(path, LENIENT, k=(2,)).evaluations[0].after["pass@2"].mean == 1.0


def test_rollouts_that_failed_stay_failed_and_unscored(tmp_path: Path) -> None:
    failed = {**row("a", 0, "5", Verdict.error("the rollout failed")), "error": "engine died"}
    path = tmp_path / "mine.jsonl.gz"
    write_rollouts(path, [failed, *samples()])
    report = rescore(path, LENIENT)
    assert report.transitions["verifier_error", "verifier_error"] == 1
    assert next(iter(read_rollouts(report.out))).rollout.error == "engine died"


def test_a_damaged_file_leaves_nothing_half_written(tmp_path: Path) -> None:
    from rlvr.errors import RlvrError

    path = tmp_path / "mine.jsonl"
    write_rollouts(path, samples())
    path.write_text(path.read_text() + '{"torn": ')
    with pytest.raises(RlvrError, match="cannot be read"):
        rescore(path, LENIENT)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.jsonl"]


def test_the_verb_shows_the_matrix_the_gain_and_examples(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rescore", str(evaluation), "--verifier", "number"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "1 of 5 verdicts flipped (20.0%)",
        "pass@2",
        "unparsed → correct",
        "no tag",
        "eval-rescored-number",
        "version 0",
    ):
        assert words in shown
    assert main(["rescore", str(evaluation), "--verifier", "number", "--set", "strict=true", "-k", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["flipped"] == 1  # the greedy answer has no tag
    assert report["grading"]["after"]["number"]["settings"] == {"strict": True}
    assert list(report["evaluations"][0]["after"]) == ["pass@1"]


def test_what_cannot_be_rescored_is_a_usage_error(tmp_path: Path, evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rescore", str(tmp_path / "none"), "--verifier", "number"]) == 2
    assert "holds no rollouts" in capsys.readouterr().err
    assert main(["rescore", str(evaluation), "--verifier", "nubmer"]) == 2
    assert "did you mean 'number'" in capsys.readouterr().err
    assert main(["rescore", str(evaluation), "--verifier", "number", "-k", "x"]) == 2
    assert not list(tmp_path.glob("*rescored*"))


def test_a_damaged_file_among_others_is_left_out_and_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "rollouts" / "step-000002.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-30])
    out = run.parent / "again"
    assert main(["rescore", str(run), "--verifier", "number", "--out", str(out), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    (failure,) = report["failures"]
    assert failure.startswith("rollouts/step-000002.jsonl.gz was left out")
    assert report["rollouts"] == 8  # what was read of the damaged file before its end does not count
    assert sorted(path.name for path in out.rglob("*.gz")) == ["step-000001.jsonl.gz", "step-000002.held-out.jsonl.gz"]
    assert len(report["evaluations"]) == 1
    for path in run.rglob("*.gz"):
        path.write_bytes(path.read_bytes()[:-30])
    assert main(["rescore", str(run), "--verifier", "number", "--out", str(run.parent / "none")]) == 3
    assert "cannot be read" in capsys.readouterr().err


def test_in_a_narrow_terminal_measurements_stand_under_their_names_and_nothing_is_cut_off(run: Path) -> None:
    report = rescore(run, LENIENT)
    for width in (60, 80, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(rescore_table(report, 0))
        printed = console.export_text()
        assert "…" not in printed
        assert "evaluations/step-000002.held-out.jsonl.gz" in printed
        assert "+25.0" in printed
