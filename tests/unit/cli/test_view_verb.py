from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.evaluation.ledger import rollout_from_json, rollout_to_json, write_rollouts
from rlvr.filtering.posterior import SolveRates, write_solve_rates
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict


def rollout(id: str, sample: int, verdict: Verdict, text: str, stop: Stop = Stop.STOP, error: str | None = None) -> Rollout:
    turn = Turn((1,), Completion((5, 6), (-0.1, -0.2), FinishReason.STOP), Message("assistant", text))
    problem = Problem(id, (Message("user", f"question {id}"),), 4)
    return Rollout(problem, sample, [turn], stop, {"exact": verdict}, verdict.score, error)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rollouts = [
        rollout("a", 0, Verdict.correct("4"), "it is 4"),
        rollout("a", 1, Verdict.incorrect("5", "not 4"), "it is [bold]5[/bold] \x1b[2J"),
        rollout("b", 0, Verdict.unparsed("no answer"), "y" * 3000, Stop.LENGTH),
        rollout("b", 1, Verdict.error("hung"), "4", Stop.ERROR, "engine died"),
    ]
    for step in (1, 2):
        rows = [rollout_to_json(one, step=step, advantage=0.25 * step) for one in rollouts]
        write_rollouts(tmp_path / "rollouts" / f"step-{step:06d}.jsonl.gz", rows)
    return tmp_path


def test_rollouts_are_printed_with_verdict_reason_reward_and_advantage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "step 2 of 2" in printed
    assert "4 rollouts: correct 1 · incorrect 1 · unparsed 1 · truncated 1 · unscored 1" in printed
    assert "question a" in printed
    assert "reward 1 · advantage +0.5" in printed
    assert "incorrect · score 0 · read as '5' · not 4" in printed
    assert "2 rollouts: correct 1 · incorrect 1 · mean reward 0.5" in printed
    assert "engine died" in printed


def test_what_a_model_wrote_cannot_reach_the_terminal_as_a_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["view", str(run)])
    printed = capsys.readouterr().out
    assert "it is [bold]5[/bold] \\x1b[2J" in printed
    assert "\x1b" not in printed


def test_long_messages_are_cut_unless_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["view", str(run), "--outcome", "truncated"])
    assert "1,000 more characters" in capsys.readouterr().out
    main(["view", str(run), "--outcome", "truncated", "--full"])
    assert capsys.readouterr().out.count("y") >= 3000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--outcome", "correct"], [("a", 0)]),
        (["--outcome", "truncated"], [("b", 0)]),
        (["--outcome", "unscored"], [("b", 1)]),
        (["--outcome", "verifier_error"], [("b", 1)]),
        (["--problem", "a"], [("a", 0), ("a", 1)]),
        (["--problem", "b", "--limit", "1"], [("b", 0)]),
        ([], [("a", 0), ("a", 1), ("b", 0), ("b", 1)]),
    ],
)
def test_options_choose_rollouts_and_json_is_what_was_stored(
    run: Path, options: list[str], expected: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(run), "--step", "1", "--json", *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [rollout_from_json(row) for row in rows]
    assert [(one.problem.id, one.sample_index) for one in found] == expected
    assert {row["provenance"]["step"] for row in rows} == {1}


def test_the_limit_says_what_is_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["view", str(run), "--limit", "1"])
    assert "3 more" in capsys.readouterr().out


def test_nothing_found_is_the_answer_no(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(run), "--problem", "zebra"]) == 1
    assert "no rollout matches" in capsys.readouterr().out


def test_a_file_of_rollouts_can_be_read_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(run / "rollouts" / "step-000001.jsonl.gz"), "--limit", "1"]) == 0
    assert "it is 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--step", "9"], "holds steps 1 to 2"), (["--limit", "0"], "at least one rollout")],
)
def test_wrong_options_are_usage_errors(run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(run), *options]) == 2
    assert message in capsys.readouterr().err


def test_the_report_verb_prints_the_path_of_the_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(run / "report.html"), "problems": []}
    assert "question a" in (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def known(run: Path) -> Path:
    rates = SolveRates(["easy", "[bold]hard", "middle"], 10)
    rates.observe_evaluation([{"id": "easy", "correct": 16, "scored": 16}, {"id": "middle", "correct": 4, "scored": 8}], 0)
    rates.observe_evaluation([{"id": "[bold]hard", "correct": 0, "scored": 16}], 4)
    write_solve_rates(run / "solve_rates.parquet", rates.rows(4))
    return run


def test_solve_rates_are_printed_hardest_first(known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(known), "--solve-rates"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("[bold]hard") < printed.index("middle") < printed.index("easy")
    assert " 0-10 %" in printed
    assert "3 problems that were sampled" in printed
    assert main(["view", str(known / "solve_rates.parquet"), "--solve-rates", "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "easy" not in printed
    assert "2 more than shown" in printed


def test_solve_rates_as_json_are_the_rows_of_the_file(known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(known), "--solve-rates", "--problem", "hard", "--json"]) == 0
    [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["id"], row["wrong"], row["evaluation"]) == ("[bold]hard", 16, 16)
    assert main(["view", str(known), "--solve-rates", "--problem", "nothing"]) == 1


def test_solve_rates_that_are_not_there_are_a_usage_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(run), "--solve-rates"]) == 2
    assert "solve_rates.parquet does not exist" in capsys.readouterr().err
    assert main(["view", str(run), "--solve-rates", "--step", "2"]) == 2
    assert "do not apply" in capsys.readouterr().err


def test_a_newest_step_that_a_crash_cut_off_leaves_the_one_before_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "rollouts" / "step-000002.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert main(["view", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "step 1 of 2" in said
    assert "step-000002.jsonl.gz cannot be read" in said
    assert main(["view", str(run), "--step", "2"]) == 3  # asked for by name
    capsys.readouterr()
