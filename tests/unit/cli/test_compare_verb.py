from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.cli.main import main
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict


def rows(right: dict[str, int], n: int = 4) -> list[dict[str, object]]:
    """`n` samples of each problem, of which the first so many are right."""
    turn = Turn((1, 2), Completion((5, 6), (-0.5, -0.5), FinishReason.STOP), Message("assistant", "text"))
    found = []
    for name, count in right.items():
        problem = Problem(name, (Message("user", "?"),), "7")
        for index in range(n):
            verdicts = {"answer": Verdict.correct("7") if index < count else Verdict.incorrect("8")}
            rollout = Rollout(problem, index, [turn], Stop.STOP, verdicts)
            found.append(rollout_to_json(rollout, mode="sampled", seed=0, task="sums", split="test"))
    return found


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    for name, count in (("base", 1), ("trained", 3)):
        write_rollouts(tmp_path / name / "samples.jsonl.gz", rows({str(i): count for i in range(20)}))
    return [str(tmp_path / name) for name in ("base", "trained")]


def test_the_table_holds_the_base_beside_the_trained_model_and_says_what_may_be_claimed(
    two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *two]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "base trained" in printed
    assert "25.0%" in printed
    assert "75.0%" in printed
    assert "trained is better than base: +50.0 points" in printed


def test_json_holds_tests_and_token_budgets(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *two, "--json", "--metric", "maj@4", "-k", "1,2,4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["metric"] for one in found["comparisons"]] == ["maj@4"]
    assert found["comparisons"][0]["difference"]["mean"] == pytest.approx(1.0)
    assert [one["tokens_per_problem"] for one in found["at_equal_tokens"]] == [2.0, 4.0, 8.0]
    assert set(found["evaluations"][0]["estimates"]) >= {
        "pass@1",
        "pass@2",
        "pass^4",
        "maj@4",
        "truncated",
        "unparsed",
        "unscored",
    }


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *two, str(tmp_path / "gone")]) == 3
    printed = " ".join(capsys.readouterr().out.split())
    assert "not read:" in printed
    assert "does not exist" in printed
    assert "trained is better" in printed


def test_nothing_that_can_be_read_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "gone")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 60])
def test_nothing_is_cut_off_in_a_narrow_terminal(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["base", "seed-0-step-24", "seed-1-step-24", "seed-2-step-24"]
    for count, name in enumerate(names):
        write_rollouts(tmp_path / name / "samples.jsonl.gz", rows({str(i): count for i in range(20)}))
    monkeypatch.setattr("rlvr.cli.live.console_for_tables", lambda: Console(width=width))
    assert main(["compare", *(str(tmp_path / name) for name in names)]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    assert "[" in printed
    text = " ".join(printed.split())
    assert "tokens a problem: base" in text
    for word in ("pass@1", "maj@4", "pass^4", "truncated", "unscored", "50.0%", "75.0%"):
        assert word in text


def test_sizes_beyond_the_samples_and_other_tasks_are_said_and_the_rest_is_shown(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [{**row, "provenance": {"task": "products", "split": "test", "seed": 0}} for row in rows({"p": 2})]
    write_rollouts(tmp_path / "else" / "samples.jsonl.gz", other)
    assert main(["compare", *two, str(tmp_path / "else"), "-k", "1,64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    said = " ".join(found["notes"])
    assert "k = 64 needs 64 samples of a problem" in said
    assert "base (4), trained (4), else (4)" in said
    assert "different tasks are held apart, never compared: sums test, products test" in said
    assert [one["other"] for one in found["comparisons"]] == ["trained"]
    assert found["evaluations"][2]["estimates"]["pass@1"]["mean"] == 0.5


def test_a_model_asked_with_other_numbers_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, varied in (("plain", False), ("varied", True)):
        about = {"task": "sums", "split": "test", "problems_sha256": name} | ({"other_numbers": True} if varied else {})
        write_rollouts(tmp_path / name / "samples.jsonl.gz", [{**row, "provenance": about} for row in rows({"p": 2})])
    assert main(["compare", str(tmp_path / "plain"), str(tmp_path / "varied"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == ["varied was asked the same problems with other numbers"]
