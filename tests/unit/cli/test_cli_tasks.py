from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.cli.main import main


def test_list_names_every_task_with_its_kind_and_verifier(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "list"]) == 0
    out = capsys.readouterr().out
    assert any(line.split()[:4] == ["chains", "endless", "train,", "test"] for line in out.splitlines())
    assert main(["tasks", "list", "--json"]) == 0
    listed = {task["name"]: task for task in json.loads(capsys.readouterr().out)}
    assert listed["gsm8k"]["kind"] == "data set"
    assert listed["gsm8k"]["verifiers"][0]["name"] == "math"


def test_show_prints_problems_with_the_arguments_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "show", "chains", "--limit", "2", "terms=[7,7]", "--split", "test", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["args"]["terms"] == [7, 7]
    assert len(shown["problems"]) == 2
    assert main(["tasks", "show", "chains", "terms=[7,7]", "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert shown["problems"][0]["prompt"][0]["content"] in out
    assert shown["problems"][1]["id"] in out


def test_validate_says_that_all_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "validate", "countdown", "--limit", "20"]) == 0
    assert "countdown test: 20 problems, all pass" in capsys.readouterr().out


def test_validate_lists_faults_and_answers_no(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    rows = [{"Body": "b", "Question": f"q{i}", "Answer": i, "ID": min(i, 2)} for i in range(4)]
    (tmp_path / "svamp").mkdir()
    (tmp_path / "svamp" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["tasks", "validate", "svamp", "--split", "test", "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "svamp test: 4 problems, 1 fault\n" in out
    assert "svamp/2  duplicate_id" in out
    assert main(["tasks", "validate", "svamp", "--split", "test", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    assert report["splits"][0]["findings"][0]["fault"] == "duplicate_id"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "needs a task"),
        (["show", "chain"], "did you mean 'chains'"),
        (["show", "chains", "terms"], "'terms' is not of the form key=value"),
        (["show", "chains", "--split", "dev"], "no split 'dev'"),
        (["validate", "chains", "--limit", "0"], "limit = 0"),
        (["validate", "chains", "--limit", "3", "--workers", "0"], "workers = 0"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_reason(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def leaky(tmp_path: Path) -> tuple[Path, Path]:
    """A file of training problems and one of an exam; the second training problem is in the exam, the third is the first."""
    apples = "Tom buys three apples and five pears at the market and eats two of them on his way home"
    trains = "A train leaves the station at noon and drives with ninety kilometres an hour for six hours [bold]straight"
    files = tmp_path / "training.jsonl", tmp_path / "exam.jsonl"
    rows = [{"prompt": apples, "answer": "6"}, {"prompt": trains, "answer": "540"}, {"prompt": apples.upper(), "answer": "6"}]
    files[0].write_text("".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows))
    files[1].write_text(json.dumps({"prompt": f"{trains}. How far?", "answer": "540", "split": "test"}) + "\n")
    return files


def test_leakage_shows_the_passages_and_answers_no(leaky: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    training, exam = map(str, leaky)
    assert main(["tasks", "leakage", training, "--against", f"{exam}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["is_leak"], one["covered"] > 0.8) for one in found["overlaps"]] == [(True, True)]
    assert [one["has_same_answer"] for one in found["duplicates"]] == [True]
    assert len(found["removed"]) == 2
    assert main(["tasks", "leakage", training, "--against", f"{exam}"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 problems leak 1 of 1 held-out ones" in printed
    assert "1 near-duplicates of earlier problems, 1 of them with the same answer; to leave out: 2" in printed


def test_splits_of_a_generator_are_held_against_each_other_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "leakage", "chains"]) == 0
    assert "chains:train against chains:test: 0 of" in capsys.readouterr().out


def test_a_task_without_a_held_out_split_needs_one_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "leakage", "ifeval", "--split", "test"]) == 2
    assert "--against TASK:SPLIT" in capsys.readouterr().err
