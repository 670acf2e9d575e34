from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.cli.main import main

pytestmark = pytest.mark.processes

SUBSTRING = f"{Path(__file__).parents[1] / 'verifiers' / 'plugins' / 'fooled.py'}:substring"
CASES = [
    {"answer": "72", "response": "<answer>72</answer>", "outcome": "correct", "why": "plain", "prompt": "What is 70 + 2?"},
    {"answer": "72", "response": "<answer>73</answer>", "outcome": "incorrect", "why": "another number"},
]


@pytest.fixture
def cases(tmp_path: Path) -> str:
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in CASES))
    return str(path)


def test_a_verifier_that_keeps_every_rule_is_a_yes(cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--audit", "number", "--cases", cases]) == 0
    shown = capsys.readouterr().out
    assert "every rule holds" in shown
    for word in ("golden", "mutated", "prompt_echo", "threads", "false positives", "p99", "95 % interval"):
        assert word in shown


def test_a_verifier_that_is_fooled_is_a_no_with_examples(cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", SUBSTRING, "--audit", "--cases", cases]) == 1
    shown = capsys.readouterr().out
    assert "broken in" in shown
    assert "multiple: 4 of 4, at most 0.5% allowed" in shown
    assert "72 or" in shown


def test_json_holds_rates_intervals_times_and_examples(cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--audit", SUBSTRING, "--cases", cases, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert "multiple" in report["broken"]
    assert 0 < report["false_positives"]["low"] < report["false_positives"]["rate"] < report["false_positives"]["high"] < 1
    assert 0 < report["times"]["cpu_p50_s"] <= report["times"]["cpu_p99_s"] < 1
    by_name = {row["name"]: row for row in report["rows"]}
    assert by_name["multiple"]["examples"]
    assert by_name["empty"]["count"] == 0


def test_limits_decide_what_is_too_much_but_tricks_are_never_allowed(cases: str, capsys: pytest.CaptureFixture[str]) -> None:
    lenient = ["--max-false-positives", "1", "--max-false-negatives", "1"]
    assert main(["verify", "--audit", SUBSTRING, "--cases", cases, *lenient, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["broken"] == ["exploit"]


def test_the_problems_and_the_settings_of_a_task_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--audit", "number", "--task", "chains", "--problems", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["source"] == "task chains, train"
    assert report["samples"] == 5
    assert report["kinds"] == {"number": 5}


def test_what_is_missing_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--audit", SUBSTRING]) == 2
    assert "golden/substring.jsonl beside its module" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text('{"answer": 1}\n')
    assert main(["verify", "--audit", "number", "--cases", str(tmp_path / "bad.jsonl")]) == 2
    assert "missing ['outcome', 'response', 'why']" in capsys.readouterr().err
    assert main(["verify", "number"]) == 2
    assert "give a file of JSON lines" in capsys.readouterr().err


@pytest.mark.parametrize("opinion", ["judge", "reward_model"])
def test_an_opinion_is_not_audited_without_cases_and_the_reason_is_said(opinion: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--audit", opinion]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    for words in ("gives an opinion: it is not verifiable", "nothing was checked", "--cases FILE"):
        assert words in captured.err


def test_the_report_on_an_opinion_says_that_it_is_one(cases: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "taste.py"
    plugin.write_text(
        "from rlvr import Verdict, verifier\n\n@verifier('taste', isolated=False, grades='opinion')\n"
        "def taste(problem, rollout):\n"
        "    return Verdict.correct() if '72' in rollout.response else Verdict.incorrect(reason='not to my taste')\n"
    )
    assert main(["verify", "--audit", f"{plugin}:taste", "--cases", cases, "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["verifiable"] is False
    assert main(["verify", "--audit", f"{plugin}:taste", "--cases", cases]) in (0, 1)
    assert "an opinion, not verifiable: the audit can only find it wrong" in capsys.readouterr().out
    assert main(["verify", "--audit", "number", "--cases", cases]) == 0
    assert "an opinion" not in capsys.readouterr().out
