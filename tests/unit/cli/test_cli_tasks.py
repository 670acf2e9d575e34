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
