from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path

import pytest

import rlvr
from rlvr.cli.main import main
from rlvr.errors import ConfigError, EvaluationError
from rlvr.evaluation.ledger import partial_path, read_rollouts
from rlvr.evaluation.observer import SilentObserver
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


@rlvr.verifier("likes_long_in_test", isolated=False)
def likes_long(problem: Problem, rollout: Rollout) -> Verdict:
    return Verdict.partial(min(1.0, rollout.completion_tokens / 8))


def test_several_seeds_are_one_larger_set_with_the_spread_between_them_shown_apart(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*COMMON, "-n", "2", "-k", "1,2", "--seeds", "0,1,2", "--greedy", "--out", str(tmp_path / "eval")]
    assert main(["eval", str(tiny_checkpoint), *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["seeds"], report["samples_per_problem"], report["counts"]["rollouts"]) == ([0, 1, 2], 6, 18)
    assert report["greedy_counts"]["rollouts"] == 3
    assert len(report["between_seeds"]["pass@1"]["means"]) == 3
    assert report["pass@1"]["mean"] == pytest.approx(sum(report["between_seeds"]["pass@1"]["means"]) / 3)
    assert set(report["between_seeds"]) >= {"pass@1", "pass@2", "pass^2"}
    seeds = [one.provenance["seed"] for one in read_rollouts(tmp_path / "eval" / "samples.jsonl.gz")]
    assert [seeds.count(seed) for seed in (0, 1, 2)] == [9, 6, 6]  # the greedy answers are of the first


def test_equal_seeds_twice_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "/no/such/model", *COMMON, "-n", "1", "-k", "1", "--seeds", "1,1"]) == 2
    assert "give each once" in capsys.readouterr().err


def test_a_scorer_ranks_the_samples_and_does_not_grade_them(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*COMMON, "-n", "4", "-k", "1,4", "--json"]
    assert main(["eval", str(tiny_checkpoint), *arguments]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["eval", str(tiny_checkpoint), *arguments, "--scorer", "likes_long_in_test"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scorer"] == "likes_long_in_test"
    assert list(report["best@4"]) == ["mean", "low", "high"]
    assert "best@4" not in plain
    assert report["pass@1"] == plain["pass@1"]


def test_every_input_is_recorded(tiny_checkpoint: Path) -> None:
    found = [rlvr.evaluate(tiny_checkpoint, "chains", n=1, k=(1,), problems=size, max_tokens=4).to_json() for size in (2, 2, 3)]
    for key in ("problems_sha256", "prompts_sha256"):
        assert len(found[0][key]) == 64
        assert found[0][key] == found[1][key] != found[2][key]
    assert {"template", "sampling", "versions", "grading", "checkpoint", "seed"} <= set(found[0])


def test_an_interrupted_evaluation_continues_with_what_it_has(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = {"n": 2, "k": (1, 2), "problems": 4, "max_tokens": 8, "greedy": True}
    whole = rlvr.evaluate(tiny_checkpoint, "chains", out=tmp_path / "whole", **settings)
    half = tmp_path / "half"
    half.mkdir()
    with gzip.open(tmp_path / "whole" / "samples.jsonl.gz") as file:
        lines = file.readlines()
    (half / "samples.jsonl.gz.tmp").write_bytes(gzip.compress(b"".join(lines[:7]) + lines[7][:40])[:-8])  # killed while writing
    with pytest.raises(ConfigError, match="continue it with --resume"):
        rlvr.evaluate(tiny_checkpoint, "chains", out=half, **settings)
    notes: list[str] = []

    class Watcher(SilentObserver):
        def note(self, text: str) -> None:
            notes.append(text)

    again = rlvr.evaluate(tiny_checkpoint, "chains", out=half, resume=True, observer=Watcher(), **settings)
    assert "7 samples of the interrupted evaluation are used again" in notes
    assert again.measurement.samples == whole.measurement.samples
    assert again.pass_at == whole.pass_at
    assert sorted(path.name for path in half.iterdir()) == ["report.json", "samples.jsonl.gz"]


def test_resumed_samples_are_not_drawn_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = {"n": 1, "k": (1,), "problems": 2, "max_tokens": 8}
    rlvr.evaluate(tiny_checkpoint, "chains", out=tmp_path, **settings)
    (tmp_path / "report.json").unlink()
    stored = [json.loads(line) for line in gzip.decompress((tmp_path / "samples.jsonl.gz").read_bytes()).splitlines()]
    for row in stored:
        row["turns"][0]["message"]["content"] = "from the disk"
    text = "".join(json.dumps(row) + "\n" for row in stored)
    (tmp_path / "samples.partial.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    rlvr.evaluate(tiny_checkpoint, "chains", out=tmp_path, resume=True, **settings)
    assert {one.rollout.response for one in read_rollouts(tmp_path / "samples.jsonl.gz")} == {"from the disk"}


def test_samples_of_other_settings_are_not_mixed_in(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = {"n": 1, "k": (1,), "problems": 2, "max_tokens": 8}
    rlvr.evaluate(tiny_checkpoint, "chains", out=tmp_path, **settings)
    (tmp_path / "report.json").unlink()
    (tmp_path / "samples.jsonl.gz").rename(tmp_path / "samples.partial.jsonl.gz")
    with pytest.raises(ConfigError, match="stored samples have sampling ="):
        rlvr.evaluate(tiny_checkpoint, "chains", out=tmp_path, resume=True, temperature=0.5, **settings)
    assert len(list(tmp_path.glob("samples.resumed-*.jsonl.gz"))) == 1  # still there for another try


def test_two_models_are_tested_on_the_same_problems_and_stored_apart(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(tiny_checkpoint, twin)
    arguments = [
        *COMMON,
        "-n",
        "2",
        "-k",
        "1,2",
        "--json",
        "--out",
        str(tmp_path / "out"),
        "--metric",
        "pass@1",
        "--metric",
        "maj@2",
    ]
    assert main(["eval", str(tiny_checkpoint), str(twin), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["evaluations"]) == 2
    first = found["comparisons"][0]
    assert (first["difference"]["mean"], first["p"]) == (0.0, 1.0)  # equal models, equal seeds
    assert "no difference between twin" in first["sentence"]
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert main(["compare", *(str(tmp_path / "out" / name) for name in folders), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {one["p"] for one in again["comparisons"]} == {1.0}


def test_templates_are_held_against_each_other(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shouting = tmp_path / "shouting.jinja"
    shouting.write_text("{% for m in messages %}{{ m.content }}={% endfor %}")
    arguments = [*COMMON, "-n", "2", "-k", "1", "--templates", f"plain,{shouting}"]
    assert main(["eval", str(tiny_checkpoint), *arguments]) == 0
    assert "the template moves pass@1 of" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["json", "csv", "md"])
def test_what_was_found_can_be_exported(
    ending: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"found.{ending}"
    assert main(["eval", str(tiny_checkpoint), *COMMON, "-n", "2", "-k", "1,2", "--json", "--export", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    text = path.read_text()
    if ending == "json":
        estimates = {one["metric"]: one for one in json.loads(text)["evaluations"][0]["estimates"]}
        assert estimates["pass@2"]["mean"] == report["pass@2"]["mean"]
    elif ending == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert float(next(row for row in rows if row["metric"] == "pass@1")["high"]) == report["pass@1"]["high"]
    else:
        assert f"{report['pass@1']['mean'] * 100:.1f} %" in text
        assert report["problems_sha256"][:12] in text
        assert "3 problems x 2 samples" in text


def test_an_export_of_no_known_form_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "/no/such/model", *COMMON, "--export", "found.xlsx"]) == 2
    assert "must be one of .json, .csv, .md" in capsys.readouterr().err


def test_a_study_that_was_interrupted_reads_what_is_finished_and_draws_the_rest(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(tiny_checkpoint, twin)
    both = [str(tiny_checkpoint), str(twin), *COMMON, "-n", "2", "-k", "1,2", "--out", str(tmp_path / "study"), "--json"]
    assert main(["eval", *both]) == 0
    whole = json.loads(capsys.readouterr().out)
    second = tmp_path / "study" / "twin"
    (second / "report.json").unlink()
    (second / "samples.jsonl.gz").unlink()
    assert main(["eval", *both, "--resume"]) == 0
    printed = capsys.readouterr()
    again = json.loads(printed.out)
    assert "is finished already, and read from" in printed.err
    assert again["comparisons"] == whole["comparisons"]
    assert [one["label"] for one in again["evaluations"]] == [one["label"] for one in whole["evaluations"]]


def test_the_same_problems_with_other_numbers_stand_beside_them(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(tiny_checkpoint), *COMMON, "-n", "2", "-k", "1", "--other-numbers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["evaluations"]
    assert second["label"] == f"{first['label']}, other numbers"
    assert second["other_numbers"] is True
    assert first["problems_sha256"] != second["problems_sha256"]
    assert found["comparisons"][0]["problems"] == second["problems"]
