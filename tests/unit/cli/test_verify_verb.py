from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.main import main

PLUGINS = Path(__file__).parents[1] / "verifiers" / "plugins" / "misbehaving.py"


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(identity: Any, answer: Any, response: str, **more: Any) -> dict[str, Any]:
    return {"id": identity, "answer": answer, "response": response, **more}


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_verdicts_come_in_the_order_of_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "in.jsonl", *(row(number, number, f"\\boxed{{{number}}}") for number in range(50)), row("x", 1, "no idea")
    )
    assert main(["verify", "number", file]) == 0
    output = lines(capsys.readouterr().out)
    assert [line["id"] for line in output] == [*range(50), "x"]
    assert [line["outcome"] for line in output] == ["correct"] * 50 + ["unparsed"]
    assert all(list(line) == ["id", "outcome", "score", "extracted", "reason", "elapsed_s"] for line in output)
    assert output[3]["extracted"] == "3"
    assert output[3]["score"] == 1.0


def test_math_runs_in_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "in.jsonl", row("a", "x+1", "\\boxed{1+x}"), row("b", "x+1", "\\boxed{x}"), row("c", "3", "\\boxed{9^{9^{9}}}")
    )
    assert main(["verify", "math", file, "--workers", "1", "--timeout", "60"]) == 0
    assert [line["outcome"] for line in lines(capsys.readouterr().out)] == ["correct", "incorrect", "incorrect"]


def test_a_hanging_plugin_from_a_file_is_reported_and_the_rest_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", row(1, None, "ok"), row(2, None, "hang"), row(3, None, "exit"), row(4, None, "ok"))
    assert main(["verify", f"{PLUGINS}:misbehaving", file, "--timeout", "0.4"]) == 0
    captured = capsys.readouterr()
    output = lines(captured.out)
    assert [line["outcome"] for line in output] == ["correct", "verifier_error", "verifier_error", "correct"]
    assert [line["score"] for line in output] == [1.0, None, None, 1.0]
    assert "2 of 4 could not be graded" in captured.err


def test_a_verifier_that_fails_on_every_line_is_an_infrastructure_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in.jsonl", row(1, "seven", "7"))
    assert main(["verify", "number", file]) == 3
    assert lines(capsys.readouterr().out)[0]["outcome"] == "verifier_error"


def test_prompt_metadata_and_truncation_reach_the_verifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = """
from rlvr.types import Verdict
from rlvr.verifiers.base import verifier

@verifier("reader", isolated=False)
def reader(problem, rollout):
    return Verdict.correct("|".join([problem.prompt[-1].content, problem.metadata["k"], str(rollout.is_truncated)]))
"""
    plugin = tmp_path / "reader.py"
    plugin.write_text(code)
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = write(
        tmp_path / "in.jsonl",
        row(1, 0, "", prompt="p", metadata={"k": "v"}),
        row(2, 0, "", prompt=chat, metadata={"k": "w"}, truncated=True),
    )
    assert main(["verify", f"{plugin}:reader", file]) == 0
    assert [line["extracted"] for line in lines(capsys.readouterr().out)] == ["p|v|False", "u|w|True"]


def test_settings_are_json_or_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", row(1, "3.14159", "\\boxed{3.14}"))
    assert main(["verify", "number", file, "--set", "tolerance=0.01", "--set", "extract=boxed"]) == 0
    assert lines(capsys.readouterr().out)[0]["outcome"] == "correct"
    assert main(["verify", "number", file, "--set", "tolerence=0.01"]) == 2
    assert "did you mean 'tolerance'" in capsys.readouterr().err
    assert main(["verify", "number", file, "--set", "tolerance"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "is not JSON"),
        ("[1]", "is a list, not an object"),
        ('{"id": 1, "answer": 2}', "has no 'response'"),
        ('{"id": 1, "answer": 2, "response": 3}', "response is int, not text"),
        ('{"id": 1, "answer": 2, "response": "", "metadata": 3}', "metadata is int"),
        ('{"id": 1, "answer": 2, "response": "", "prompt": 3}', "prompt is neither"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named_after_the_good_ones_were_graded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row(1, "5", "5")) + "\n\n" + line + "\n")
    assert main(["verify", "number", str(path)]) == 2
    captured = capsys.readouterr()
    assert [item["outcome"] for item in lines(captured.out)] == ["correct"]
    assert f"{path}:3" in captured.err
    assert words in captured.err


def test_bytes_that_are_not_text_are_graded_like_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": 1, "answer": "5", "response": "\xff\xfe \\ud800 <answer>5</answer>"}\n')
    assert main(["verify", "number", str(path)]) == 0
    assert lines(capsys.readouterr().out)[0]["outcome"] == "correct"


def test_a_missing_file_and_an_unknown_verifier_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "number", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert main(["verify", "nubmer", write(tmp_path / "in.jsonl", row(1, "5", "5"))]) == 2
    assert "did you mean 'number'" in capsys.readouterr().err


def test_standard_input_is_read_as_it_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    write(path, row("a", "5", "5"))
    with path.open() as source:
        monkeypatch.setattr(sys, "stdin", source)
        assert main(["verify", "number", "-"]) == 0
    assert lines(capsys.readouterr().out)[0]["id"] == "a"
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(row("b", "5", "5"))))
    assert main(["verify", "number", "-"]) == 0
    assert lines(capsys.readouterr().out)[0]["id"] == "b"
