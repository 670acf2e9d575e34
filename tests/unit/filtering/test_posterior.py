"""One belief about each problem's solve rate, fed by everything that samples it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.filtering.pass_rates import PassRate, PassRates
from rlvr.filtering.posterior import SolveRate, SolveRates, read_solve_rates, write_solve_rates
from rlvr.seeding import rng
from rlvr.types import Group, Message, Problem, Rollout, Stop, Verdict

IDS = [f"p{index}" for index in range(5)]


def group(id: str, *scores: float | None) -> Group:
    problem = Problem(id, (Message("user", id),), None)
    verdicts = [Verdict.error("ours") if s is None else Verdict.correct() if s == 1 else Verdict.partial(s) for s in scores]
    rollouts = [Rollout(problem, i, [], Stop.STOP, {"v": verdict}) for i, verdict in enumerate(verdicts)]
    return Group(problem, tuple(rollouts))


def evaluated(id: str, correct: int, scored: int) -> dict[str, object]:
    return {"id": id, "correct": correct, "scored": scored, "tokens_mean": 3.0, "greedy_correct": True}


def test_a_problem_that_was_never_sampled_is_unknown() -> None:
    belief = SolveRates(IDS, 10).at("p0", 3)
    assert (belief.mean, belief.evidence) == (0.5, 0.0)


def test_filter_training_and_evaluation_feed_one_belief() -> None:
    rates = SolveRates(IDS, 10)
    rates.observe_filter(PassRates({}, {"p0": PassRate("p0", 16, 4, 2, 1.0, {})}))
    rates.observe_groups([group("p0", 1, 0, 0.5, None)], 0)  # a partial answer is not solved, an unscored one says nothing
    rates.observe_evaluation([evaluated("p0", 3, 4)], 0)
    belief = rates.at("p0", 0)
    assert (belief.correct, belief.wrong) == (4 + 1 + 3, 10 + 2 + 1)
    assert belief.mean == 8.5 / 22
    [row] = rates.rows(0)
    assert (row.filter, row.training, row.evaluation) == (14, 3, 4)


def test_old_samples_count_half_after_each_half_life() -> None:
    rates = SolveRates(IDS, 10)
    rates.observe_groups([group("p0", 1, 1, 1, 0)], 5)
    assert rates.at("p0", 15) == SolveRate(1.5, 0.5)
    rates.observe_groups([group("p0", 0, 0)], 15)
    assert rates.at("p0", 15) == SolveRate(1.5, 2.5)
    assert rates.at("p0", 25) == SolveRate(0.75, 1.25)
    assert rates.at("p0", 100_000).mean == 0.5


@pytest.mark.parametrize("half_life", [5.0, 50.0])
def test_the_belief_follows_a_policy_that_learns(half_life: float) -> None:
    learns, never = SolveRates(IDS, half_life), SolveRates(IDS, 1e12)
    for step in range(0, 200, 4):
        rate = 0.05 if step < 100 else 0.95
        scores = [float(rng("learns", step, index).random() < rate) for index in range(8)]
        for rates in (learns, never):
            rates.observe_groups([group("p0", *scores)], step)
    assert learns.at("p0", 199).mean > 0.7
    assert never.at("p0", 199).mean < 0.6


def test_problems_that_are_not_trained_on_are_left_out() -> None:
    rates = SolveRates(IDS, 10)
    rates.observe_evaluation([evaluated("test/1", 3, 4)], 0)
    rates.observe_filter(PassRates({}, {"dropped": PassRate("dropped", 16, 0, 0, 1.0, {})}))
    assert rates.rows(0) == []


def test_an_evaluation_that_is_read_again_counts_once() -> None:
    rates = SolveRates(IDS, 10)
    for _ in range(2):
        rates.observe_evaluation([evaluated("p1", 1, 4)], 0)
    restored = SolveRates(IDS, 10)
    restored.load_state_dict(rates.state_dict())
    restored.observe_evaluation([evaluated("p1", 1, 4)], 0)
    assert restored.at("p1", 0).evidence == 4
    restored.observe_evaluation([evaluated("p1", 1, 4)], 3)
    assert restored.at("p1", 3).evidence > 4


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 8), st.integers(0, 3)), max_size=20), st.integers(0, 20))
def test_a_restored_copy_goes_on_bit_for_bit(events: list[tuple[str, int, int]], cut: int) -> None:
    whole, first, step = SolveRates(IDS, 7), SolveRates(IDS, 7), 0
    current = first
    for index, (id, correct, wait) in enumerate(events):
        step += wait
        if index == cut:
            current = SolveRates(IDS, 7)
            current.load_state_dict(json.loads(json.dumps(first.state_dict())))
        for rates in (whole, current):
            rates.observe_groups([group(id, *[1.0] * correct, *[0.0] * (8 - correct))], step)
    assert current.state_dict() == whole.state_dict()
    assert current.rows(step + 5) == whole.rows(step + 5)


@given(st.floats(0, 50), st.floats(0, 50), st.integers(1, 32))
def test_the_chance_of_signal_is_what_integration_gives(correct: float, wrong: float, size: int) -> None:
    a, b = 0.5 + correct, 0.5 + wrong

    def moment(p: float, q: float) -> float:  # E[x^size] of Beta(p, q)
        return math.exp(math.lgamma(p + size) - math.lgamma(p) + math.lgamma(p + q) - math.lgamma(p + q + size))

    chance = SolveRate(correct, wrong).chance_of_signal(size)
    assert chance == pytest.approx(1 - moment(a, b) - moment(b, a), abs=1e-9)
    assert -1e-12 <= chance <= 1


def test_surprise_is_the_distance_between_expected_and_seen() -> None:
    rates = SolveRates(IDS, 10)
    assert rates.surprise([group("p0", 1, 0)], 0) is None
    rates.observe_groups([group("p0", 1, 0), group("p1", 0)], 0)
    assert rates.surprise([group("p0", 1, 1), group("p2", 1), group("p1", None)], 0) == 0.5


def test_the_file_holds_every_sampled_problem_in_the_order_of_the_problems(tmp_path: Path) -> None:
    rates = SolveRates(IDS, 10)
    rates.observe_groups([group("p3", 1, 0, 0, 0), group("p1", 1, 1)], 4)
    path = tmp_path / "solve_rates.parquet"
    write_solve_rates(path, rates.rows(14))
    assert read_solve_rates(path) == rates.rows(14)
    rows = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == ["p1", "p3"]
    assert (rows[1]["correct"], rows[1]["wrong"], rows[1]["step"], rows[1]["training"]) == (0.5, 1.5, 4, 4)
    assert rows[1]["low"] < rows[1]["mean"] == 1 / 3 < rows[1]["high"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_problems_can_be_read_again(tmp_path: Path) -> None:
    write_solve_rates(tmp_path / "empty.parquet", SolveRates(IDS, 10).rows(0))
    assert read_solve_rates(tmp_path / "empty.parquet") == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ConfigError, match=r"solve rates in .*text\.parquet cannot be read"):
        read_solve_rates(tmp_path / "text.parquet")


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("nan")])
def test_a_half_life_must_be_positive(half_life: float) -> None:
    with pytest.raises(ConfigError, match="half_life"):
        SolveRates(IDS, half_life)
