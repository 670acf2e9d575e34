from __future__ import annotations

import json
from pathlib import Path

import pytest

import rlvr
from rlvr.cli.main import main
from rlvr.errors import ConfigError, EvaluationError
from rlvr.evaluation.ledger import partial_path, read_rollouts
from rlvr.types import Problem, Rollout, Verdict

COMMON = ["--task", "chains", "--problems", "3", "--max-tokens", "8"]


def test_json_holds_pass_at_k_with_intervals_and_what_it_depends_on(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval"
    code = main(["eval", str(tiny_checkpoint), *COMMON, "-n", "4", "-k", "1,4", "--greedy", "--json", "--out", str(out)])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    for key in ("pass@1", "pass@4", "greedy", "tokens"):
        assert list(report[key]) == ["mean", "low", "high"]
        assert report[key]["low"] <= report[key]["mean"] <= report[key]["high"]
    assert (report["problems"], report["samples_per_problem"], report["counts"]["rollouts"]) == (3, 4, 12)
    assert (report["task"], report["split"], report["sampling"]["max_tokens"]) == ("chains", "test", 8)
    assert json.loads((out / "report.json").read_text()) == report
    stored = list(read_rollouts(out / "samples.jsonl.gz"))
    assert [one.provenance["mode"] for one in stored] == (["sampled"] * 4 + ["greedy"]) * 3
    assert stored[0].provenance["grading"] == report["grading"]
    assert stored[0].rollout.verdict is not None


def test_equal_seeds_give_equal_numbers_and_samples(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        rlvr.evaluate(tiny_checkpoint, "chains", n=2, k=(1,), problems=2, max_tokens=8, seed=5, out=tmp_path / name)
    rows = [[one.rollout.turns for one in read_rollouts(tmp_path / name / "samples.jsonl.gz")] for name in ("a", "b")]
    assert rows[0] == rows[1]


def test_the_table_names_pass_at_k_and_the_outcomes(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tiny_checkpoint), *COMMON, "-n", "2", "-k", "2,1"]) == 0
    printed = capsys.readouterr()
    assert "chains test: 3 problems, 2 samples each" in printed.out
    assert printed.out.index("pass@1") < printed.out.index("pass@2") < printed.out.index("outcomes")
    assert "base model" in printed.err  # the note that prompts are plain text


def test_task_arguments_reach_the_task(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*COMMON, "-n", "1", "-k", "1", "--task-args", "terms=[2,2]", "--json"]
    assert main(["eval", str(tiny_checkpoint), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["task_args"]["terms"] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "4", "-k", "1,8"], "pass@k needs 1 <= k <= n"),
        (["-k", "one"], "sizes look like 1,4,16"),
        (["--temperature", "0"], "temperature 0"),
        (["--temperature", "-1"], "temperature = -1.0 is out of range"),
        (["--max-rows", "0"], "--max-rows = 0"),
        (["--split", "nope"], "has no split 'nope'"),
        (["--task-args", "unknown=1"], "no argument 'unknown'"),
    ],
)
def test_wrong_options_are_usage_errors_before_a_model_is_looked_for(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "/no/such/model", "--task", "chains", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "/no/such/model", *COMMON]) == 2
    assert "/no/such/model" in capsys.readouterr().err


def test_more_tokens_than_the_context_holds_are_refused(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tiny_checkpoint), "--task", "chains", "--problems", "2", "--max-tokens", "1000000"]) == 2
    assert "do not fit into the model's context" in capsys.readouterr().err


def test_a_folder_that_holds_a_report_is_not_written_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="already holds the report"):
        rlvr.evaluate(tiny_checkpoint, "chains", n=1, k=(1,), problems=1, out=tmp_path)


def test_an_unknown_setting_of_evaluate_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting 'temprature'"):
        rlvr.evaluate("model", "chains", temprature=1.0)


@rlvr.verifier("broken_in_test", isolated=False)
def broken(problem: Problem, rollout: Rollout) -> Verdict:
    return Verdict.error("the grader's disk is full")


def test_samples_that_cannot_be_graded_stop_the_evaluation_and_are_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from rlvr.config import VerifierConfig

    verifiers = (VerifierConfig(name="broken_in_test"),)
    with pytest.raises(EvaluationError, match="the grader's disk is full"):
        rlvr.evaluate(tiny_checkpoint, "chains", n=2, k=(1,), problems=4, max_tokens=4, verifiers=verifiers, out=tmp_path)
    assert not (tmp_path / "report.json").exists()
    kept = list(read_rollouts(partial_path(tmp_path / "samples.jsonl.gz")))
    assert len(kept) == 2
    assert not (tmp_path / "samples.jsonl.gz").exists()
