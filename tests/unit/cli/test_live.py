from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from rlvr.cli.live import LiveView, describe
from rlvr.evaluation.observer import Observer, SilentObserver

SUMMARY: dict[str, Any] = {
    "before": {"pass@1": {"mean": 0.312, "low": 0.271, "high": 0.355}, "tokens": {"mean": 21.3, "low": 20.9, "high": 21.8}},
    "after": {"pass@1": {"mean": 0.943, "low": 0.921, "high": 0.96}, "tokens": {"mean": 18.1, "low": 17.7, "high": 18.5}},
    "gain": {"pass@1": {"mean": 0.631, "low": 0.59, "high": 0.67}},
    "wall_time_s": 231.4,
}


class Screen:
    """A LiveView with captured consoles and a clock that stands until it is moved."""

    def __init__(self, *, is_terminal: bool = False, width: int = 200) -> None:
        self.now = 0.0
        self.err_file, self.out_file = io.StringIO(), io.StringIO()
        err = Console(file=self.err_file, force_terminal=is_terminal, width=width, color_system=None, legacy_windows=False)
        self.view = LiveView(err=err, out=Console(file=self.out_file, width=200), clock=lambda: self.now)

    @property
    def err(self) -> str:
        return self.err_file.getvalue()

    @property
    def out(self) -> str:
        return self.out_file.getvalue()


def test_a_log_file_gets_a_line_at_most_every_ten_seconds() -> None:
    screen = Screen()
    with screen.view as view:
        view.stage("train", 100)
        for _ in range(99):
            screen.now += 1.0
            view.advance(1, reward_mean=0.5)
        view.advance()
    lines = screen.err.splitlines()
    assert len(lines) == 10
    assert "10/100  10.0 s, 1 min 30 s left  reward 0.50" in lines[0]
    assert lines[-1].startswith("✓ train")
    assert "100/100" in lines[-1]


def test_a_stage_that_comes_back_goes_on_where_it_stood() -> None:
    screen = Screen()
    with screen.view as view:
        view.stage("train", 4)
        view.advance(2)
        view.stage("evaluate", 1)
        view.advance()
        view.stage("train", 4)
        view.advance(2)
    assert [line.split()[-3] for line in screen.err.splitlines() if "✓" in line] == ["1/1", "4/4"]


def test_a_stage_that_is_complete_starts_afresh_under_the_same_name() -> None:
    screen = Screen()
    with screen.view as view:
        for _ in range(2):
            view.stage("evaluate", 3)
            view.advance(3)
    assert screen.err.count("3/3") == 2


def test_an_interrupted_stage_says_how_far_it_came() -> None:
    screen = Screen()
    with screen.view as view:
        view.stage("train", 10)
        view.advance(3)
        screen.now = 6.0
    assert "3/10  6.0 s, 14.0 s left" in screen.err
    assert "✓" not in screen.err


def test_on_a_terminal_the_bar_moves_and_ends_as_a_line() -> None:
    screen = Screen(is_terminal=True)
    with screen.view as view:
        view.stage("train", 2)
        view.advance(1, correct_share=0.5)
        view.advance(1, correct_share=0.75)
    assert "0/2" in screen.err
    assert "✓ train" in screen.err
    assert "2/2  0.0 s  correct 75%" in screen.err


def test_the_closing_table_is_on_stdout_and_progress_is_not(tmp_path: Path) -> None:
    screen = Screen()
    (tmp_path / "rollouts").mkdir()
    places = {"rollouts": str(tmp_path / "rollouts"), "report": str(tmp_path / "report.html")}
    with screen.view as view:
        view.stage("train", 1)
        view.advance()
        view.note("checkpoint written")
        view.final_table(SUMMARY | places)
    row = next(line for line in screen.out.splitlines() if line.startswith("pass@1"))
    assert " ".join(row.split()) == "pass@1 31.2 % [27.1, 35.5] 94.3 % [92.1, 96.0] +63.1 [+59.0, +67.0]"
    assert "3 min 51 s" in screen.out
    assert places["rollouts"] in screen.out
    assert places["report"] not in screen.out  # it was not written
    assert "✓" not in screen.out
    assert "checkpoint written" in screen.err


def test_a_run_without_evaluation_closes_with_its_loss_and_places(tmp_path: Path) -> None:
    screen = Screen()
    screen.view.final_table({"loss": 0.25, "wall_time_s": 3.0, "checkpoint": str(tmp_path)})
    assert "before" not in screen.out
    assert "0.25" in screen.out
    assert str(tmp_path) in screen.out


def test_a_closing_line_never_wraps_on_a_terminal() -> None:
    screen = Screen(is_terminal=True, width=60)
    with screen.view as view:
        view.stage("held-out problems, before", 1)
        view.advance(1, correct_share=0.5, tokens_mean=21, truncated_share=0.0, unscored_share=0.0, tokens_per_s=5e4)
    closing = next(line for line in screen.err.splitlines() if "✓" in line)
    assert closing.rstrip().endswith("…")


def test_names_and_notes_cannot_command_the_terminal() -> None:
    screen = Screen()
    with screen.view as view:
        view.stage("train [red]\x1b[2J", 1)
        view.note("[bold]\x07")
        view.advance()
    assert "\x1b" not in screen.err
    assert "train [red]\\x1b[2J" in screen.err
    assert "[bold]\\x07" in screen.err


def test_the_numbers_of_a_line_come_in_a_fixed_order_and_unknown_ones_are_left_out() -> None:
    fields = {"tokens_per_s": 12_345.0, "unscored_share": 0.001, "mystery": 1.0, "reward_mean": 0.5}
    assert describe(fields) == "reward 0.50 · unscored 0.1% · 12.3k tok/s"


def test_silent_and_live_views_are_observers() -> None:
    observers: list[Observer] = [SilentObserver(), Screen().view]
    for observer in observers:
        observer.advance()  # before any stage
        observer.stage("train", 1)
        observer.advance(1, loss=1.0)
        observer.note("done")
        observer.final_table(SUMMARY)
