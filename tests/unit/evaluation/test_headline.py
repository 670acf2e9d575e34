from __future__ import annotations

import pytest

from rlvr.evaluation.headline import Cell, duration, headline

BEFORE = {"pass@1": {"mean": 0.3, "low": 0.25, "high": 0.35}, "pass@16": {"mean": 0.7}, "tokens": {"mean": 20.0}}
AFTER = {"pass@1": {"mean": 0.9, "low": 0.85, "high": 0.95}, "pass@4": {"mean": 1.0}, "truncated_share": 0.01}


def test_rows_come_in_the_order_that_a_reader_wants() -> None:
    rows = headline({"before": BEFORE, "after": AFTER})
    assert [row.label for row in rows] == ["pass@1", "pass@4", "pass@16", "length, tokens", "truncated"]


def test_texts_show_percent_intervals_and_gains_in_points() -> None:
    summary = {"before": BEFORE, "after": AFTER, "gain": {"pass@1": {"mean": 0.6, "low": 0.55, "high": 0.66}}}
    assert headline(summary)[0].texts() == (" 30.0 % [25.0, 35.0]", " 90.0 % [85.0, 95.0]", "+60.0 [+55.0, +66.0]")


def test_a_gain_without_interval_is_the_difference() -> None:
    assert headline({"before": BEFORE, "after": AFTER})[0].gain == Cell(pytest.approx(0.6))


def test_what_was_measured_once_has_no_gain() -> None:
    row = headline({"after": AFTER})[1]
    assert (row.before, row.after, row.gain) == (None, Cell(1.0), None)
    assert row.texts() == ("", "100.0 %", "")


def test_further_sets_are_named() -> None:
    extra = {"harder": {"before": BEFORE, "after": AFTER, "gain": {}}}
    labels = [row.label for row in headline({"before": BEFORE, "after": AFTER, "extra": extra})]
    assert "harder: pass@1" in labels


@pytest.mark.parametrize(
    "summary",
    [{}, {"before": None}, {"before": {"pass@1": "n/a"}}, {"before": {"pass@x": 1}}, {"after": {"pass@1": {"mean": None}}}],
)
def test_unfinished_or_foreign_summaries_give_no_rows(summary: dict[str, object]) -> None:
    assert headline(summary) == []


def test_durations_use_the_unit_that_fits() -> None:
    assert [duration(s) for s in (0.0, 59.94, 60.0, 252, 3599.6, 8000)] == [
        "0.0 s", "59.9 s", "1 min 0 s", "4 min 12 s", "1 h 0 min", "2 h 13 min",
    ]  # fmt: skip
