from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.filtering.pass_rates import (
    PassRate,
    PassRateFile,
    PassRates,
    Window,
    load_pass_rates,
    select_problems,
    wilson_interval,
)
from rlvr.types import Message, Problem

SETTINGS = {"model": "m", "task": "countdown", "n": 16}


def rate(id: str, correct: int, n: int = 16, unscored: int = 0) -> PassRate:
    return PassRate(id, n, correct, unscored, 12.5, {"correct": correct})


def problem(id: str) -> Problem:
    return Problem(id, (Message("user", id),), None)


def write(path: Path, rates: list[PassRate], keep: Window | None = None) -> None:
    with PassRateFile(path, SETTINGS, keep or Window()) as file:
        for found in rates:
            file.append(found)
        file.finish([found.id for found in rates])


def test_sixteen_samples_and_a_window_of_20_to_80_percent_keep_4_to_12_correct() -> None:
    rates = PassRates(SETTINGS, {str(count): rate(str(count), count) for count in range(17)})
    assert rates.kept(Window(0.2, 0.8)) == tuple(str(count) for count in range(4, 13))


def test_the_window_includes_both_ends() -> None:
    rates = PassRates(SETTINGS, {str(count): rate(str(count), count, n=10) for count in range(11)})
    assert rates.kept(Window(0.3, 0.7)) == ("3", "4", "5", "6", "7")


def test_unscored_samples_are_not_failures() -> None:
    assert rate("a", correct=6, unscored=4).pass_rate == 0.5
    assert rate("a", correct=0, unscored=16).pass_rate is None
    assert not Window(0.0, 1.0).holds(None)


def test_a_line_holds_everything_that_was_counted(tmp_path: Path) -> None:
    write(tmp_path / "rates.jsonl", [rate("p1", 8), rate("p2", 16)])
    header, first, second = [json.loads(line) for line in (tmp_path / "rates.jsonl").read_text().splitlines()]
    assert header == {"format": "rlvr pass rates 1", "settings": SETTINGS, "keep": [0.2, 0.8]}
    assert first == {
        "id": "p1", "n": 16, "correct": 8, "unscored": 0, "pass_rate": 0.5, "low": pytest.approx(0.28, abs=0.01),
        "high": pytest.approx(0.72, abs=0.01), "mean_tokens": 12.5, "verdicts": {"correct": 8}, "kept": True,
    }  # fmt: skip
    assert second["kept"] is False
    assert load_pass_rates(tmp_path / "rates.jsonl").by_id["p1"] == rate("p1", 8)


@pytest.mark.parametrize("torn", ['{"id": "p2", "n": 1', "x"])
def test_a_torn_last_line_is_dropped_and_the_rest_taken_up(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "rates.jsonl"
    write(path, [rate("p1", 8)])
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    assert list(load_pass_rates(path).by_id) == ["p1"]
    with PassRateFile(path, SETTINGS, Window()) as file:
        assert file.found == {"p1": rate("p1", 8)}
    assert path.read_bytes() == whole


def test_a_torn_header_starts_the_file_afresh(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_bytes(b'{"format": "rlvr pa')
    write(path, [rate("p1", 8)])
    assert list(load_pass_rates(path).by_id) == ["p1"]


def test_another_window_is_no_other_measurement(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    write(path, [rate("p1", 15)])
    with PassRateFile(path, SETTINGS, Window(0.2, 0.95)) as file:
        file.finish(["p1"])
    assert json.loads(path.read_text().splitlines()[1])["kept"] is True


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    write(path, [rate("p1", 8)])
    with pytest.raises(ConfigError, match=r"model: 'm' there, 'other' now; seed: None there, 3 now"):
        PassRateFile(path, SETTINGS | {"model": "other", "seed": 3}, Window())


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    for content in ("hello\n", '{"format": "other"}\n', "[1]\n"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="not a file of pass rates"):
            load_pass_rates(path)
    write_target = tmp_path / "damaged.jsonl"
    write(write_target, [rate("p1", 8)])
    write_target.write_text(write_target.read_text() + '{"id": "p2"}\n')
    with pytest.raises(ConfigError, match="line 3 is damaged"):
        load_pass_rates(write_target)
    with pytest.raises(ConfigError, match="rlvr filter"):
        load_pass_rates(tmp_path / "nowhere.jsonl")


def test_pass_rates_of_another_task_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "rates.jsonl", [rate("p1", 8)])
    assert load_pass_rates(tmp_path / "rates.jsonl", task="countdown").settings == SETTINGS
    with pytest.raises(ConfigError, match="of task 'countdown', but this run trains on 'gsm8k'"):
        load_pass_rates(tmp_path / "rates.jsonl", task="gsm8k")


def test_selection_keeps_the_order_of_the_problems() -> None:
    rates = PassRates(SETTINGS, {"a": rate("a", 8), "b": rate("b", 0), "c": rate("c", 5)})
    chosen = select_problems([problem("c"), problem("new"), problem("b"), problem("a")], rates, Window())
    assert [found.id for found in chosen] == ["c", "a"]


def test_selection_refuses_unknown_ids_and_empty_windows() -> None:
    rates = PassRates(SETTINGS, {"a": rate("a", 8), "b": rate("b", 8)})
    with pytest.raises(ConfigError, match=r"1 of 2 kept problems are unknown here, first 'b'"):
        select_problems([problem("a")], rates, Window())
    with pytest.raises(ConfigError, match=r"no problem has a pass rate in 0\.9:1\.0"):
        select_problems([problem("a"), problem("b")], rates, Window(0.9, 1.0))


@pytest.mark.parametrize("text", ["0.2", "0.8:0.2", "a:b", "-1:1", "0:nan", ""])
def test_windows_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="keep ="):
        Window.parse(text)


def test_a_window_is_read_from_text() -> None:
    assert Window.parse("0.2:0.8") == Window(0.2, 0.8)


@given(st.integers(1, 300), st.data())
def test_the_wilson_interval_solves_its_quadratic(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    share = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= share <= high <= 1.0
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:  # |share - p| = z * sqrt(p (1 - p) / n) at both ends
            assert abs(share - end) == pytest.approx(1.959964 * (end * (1 - end) / trials) ** 0.5, abs=1e-5)


def test_no_trials_say_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
