from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.filtering.pass_rates import (
    PassRate,
    PassRateFile,
    PassRates,
    digest_of,
    load_pass_rates,
    select_problems,
    wilson_interval,
)
from rlvr.filtering.window import Window
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
    rates = PassRates({"n": 10}, {str(count): rate(str(count), count, n=10) for count in range(11)})
    assert rates.kept(Window(0.3, 0.7)) == ("3", "4", "5", "6", "7")


def test_unscored_samples_are_not_failures() -> None:
    assert rate("a", correct=6, unscored=4).pass_rate == 0.5
    assert rate("a", correct=0, unscored=16).pass_rate is None
    assert not Window(0.0, 1.0).holds(None)


def test_a_line_holds_everything_that_was_counted(tmp_path: Path) -> None:
    write(tmp_path / "rates.jsonl", [rate("p1", 8), rate("p2", 16)])
    header, first, second = [json.loads(line) for line in (tmp_path / "rates.jsonl").read_text().splitlines()]
    assert header == {"format": "rlvr pass rates 1", "settings": SETTINGS, "keep": [0.2, 0.8], "epsilon": None}
    assert first == {
        "id": "p1", "n": 16, "correct": 8, "unscored": 0, "pass_rate": 0.5, "low": pytest.approx(0.28, abs=0.01),
        "high": pytest.approx(0.72, abs=0.01), "mean_tokens": 12.5, "verdicts": {"correct": 8}, "kept": True, "digest": "",
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


def test_an_empty_window_says_how_many_problems_lie_on_either_side() -> None:
    rates = PassRates(SETTINGS, {"a": rate("a", 8), "b": rate("b", 16)})
    with pytest.raises(
        ConfigError, match=r"none of 3 problems within 0\.9:0\.95: 2 of them are measured, 1 lie below 0\.9 and 1"
    ):
        select_problems([problem("a"), problem("b"), problem("new")], rates, Window(0.9, 0.95))


def test_ids_that_two_problems_share_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 ids belong to several problems, first 'a'"):
        select_problems([problem("a"), problem("a"), problem("b")], PassRates(SETTINGS, {"a": rate("a", 8)}), Window())


def test_a_problem_that_changed_since_it_was_measured_is_refused() -> None:
    before, after = Problem("a", (Message("user", "1 + 1"),), 2), Problem("a", (Message("user", "1 + 1"),), 3)
    rates = PassRates(SETTINGS, {"a": replace(rate("a", 8), digest=digest_of(before))})
    assert select_problems([before], rates, Window()) == [before]
    with pytest.raises(ConfigError, match=r"1 problems are others than those of the pass rates with the same id, first 'a'"):
        select_problems([after], rates, Window())


def test_problems_that_were_stopped_for_another_window_are_refused_with_the_command_that_helps() -> None:
    rates = PassRates(SETTINGS, {"a": rate("a", 0, n=7), "b": rate("b", 8)}, epsilon=0.03)
    chosen = select_problems([problem("a"), problem("b")], rates, Window(0.2, 0.8))
    assert [found.id for found in chosen] == ["b"]
    with pytest.raises(ConfigError, match=r"1 of 2 problems .* first 'a'; `rlvr filter --keep 0\.02:0\.8`"):
        select_problems([problem("a"), problem("b")], rates, Window(0.02, 0.8))


def test_a_problem_on_two_lines_is_refused_unless_the_later_one_knows_more(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    write(path, [rate("p1", 2, n=4)])
    line = path.read_text().splitlines(keepends=True)[1]
    with PassRateFile(path, SETTINGS, Window()) as file:
        file.append(rate("p1", 3, n=6))
    assert load_pass_rates(path).by_id["p1"] == rate("p1", 3, n=6)
    with path.open("a") as appended:
        appended.write(line)
    with pytest.raises(ConfigError, match=r"line 4 repeats problem 'p1'"):
        load_pass_rates(path)


def test_samples_in_two_parts_are_the_samples_in_one() -> None:
    whole = PassRate("a", 7, 3, 1, 31 / 7, {"correct": 3, "incorrect": 3}, "x")
    first = PassRate("a", 3, 1, 1, 13 / 3, {"correct": 1, "incorrect": 1}, "x")
    second = PassRate("a", 4, 2, 0, 18 / 4, {"correct": 2, "incorrect": 2}, "x")
    assert first.plus(second) == whole


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
