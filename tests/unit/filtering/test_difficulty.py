from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rlvr.errors import ConfigError, EvaluationError
from rlvr.filtering.difficulty import measure_pass_rates
from rlvr.filtering.pass_rates import PassRates, load_pass_rates
from rlvr.filtering.window import Window
from rlvr.seeding import rng
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

SAMPLING = Sampling(max_tokens=8, temperature=0.7)
SETTINGS = {"model": "m", "task": "t"}
PROBLEMS = [Problem(f"p{index}", (Message("user", "?"),), None) for index in range(10)]


class SeededRunner:
    """Solves a problem with a chance that grows with its number; `fail_on` problems meet a broken engine."""

    def __init__(self, fail_on: frozenset[str] = frozenset()) -> None:
        self.fail_on = fail_on
        self.asked: list[str] = []
        self.drawn = 0

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: object) -> Rollout:
        if sample_index == 0:
            self.asked.append(problem.id)
        self.drawn += 1
        for _ in range(12 - int(problem.id[1:])):  # later problems finish first
            await asyncio.sleep(0)
        return self._rollout(problem, sample_index, seed_parts)

    def _rollout(self, problem: Problem, index: int, seed_parts: tuple[object, ...]) -> Rollout:
        drawn = rng(*seed_parts, problem.id, index)
        length = drawn.randrange(1, 8)
        turn = Turn((1,), Completion((5,) * length, (0.0,) * length, FinishReason.STOP), Message("assistant", ""))
        if problem.id in self.fail_on:
            return Rollout(problem, index, [turn], Stop.ERROR, error="engine died")
        is_solved = drawn.random() < int(problem.id[1:]) / 9
        verdict = Verdict.correct() if is_solved else Verdict.incorrect()
        return Rollout(problem, index, [turn], Stop.STOP, {"exact": verdict})


def run(runner: SeededRunner, out: Path, problems: list[Problem] = PROBLEMS, **changes: object) -> PassRates:
    arguments = {"n": 16, "sampling": SAMPLING, "settings": SETTINGS} | changes
    return asyncio.run(measure_pass_rates(runner, problems, out, **arguments))  # type: ignore[arg-type]


def test_pass_rates_are_written_in_the_order_of_the_problems(tmp_path: Path) -> None:
    rates = run(SeededRunner(), tmp_path / "rates.jsonl")
    assert list(rates.by_id) == [problem.id for problem in PROBLEMS]
    assert (rates.by_id["p0"].pass_rate, rates.by_id["p9"].pass_rate) == (0.0, 1.0)
    assert load_pass_rates(tmp_path / "rates.jsonl", task="t") == rates
    assert rates.settings["sampling"]["temperature"] == 0.7


@pytest.mark.parametrize("cut", [0.3, 0.55, 0.9])
def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path, cut: float) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(SeededRunner(), whole)
    data = whole.read_bytes()
    killed.write_bytes(data[: int(len(data) * cut)])  # kill -9 may stop anywhere, also inside a line
    already = len(load_pass_rates(killed).by_id)
    runner = SeededRunner()
    run(runner, killed)
    assert killed.read_bytes() == data
    assert 0 < already < len(PROBLEMS)
    assert len(runner.asked) == len(PROBLEMS) - already


def test_finished_problems_survive_an_interruption(tmp_path: Path) -> None:
    out = tmp_path / "rates.jsonl"
    done: list[str] = []

    def interrupt(group: Group) -> None:
        done.append(group.problem.id)
        if len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SeededRunner(), out, on_group=interrupt)
    assert list(load_pass_rates(out).by_id) == done == ["p9", "p8", "p7", "p6"]
    runner = SeededRunner()
    run(runner, out)
    assert runner.asked == ["p0", "p1", "p2", "p3", "p4", "p5"]


def test_a_finished_file_is_not_measured_again(tmp_path: Path) -> None:
    run(SeededRunner(), tmp_path / "rates.jsonl")
    runner = SeededRunner()
    assert len(run(runner, tmp_path / "rates.jsonl").by_id) == 10
    assert runner.asked == []


def test_more_problems_can_be_added_later(tmp_path: Path) -> None:
    run(SeededRunner(), tmp_path / "grown.jsonl", PROBLEMS[:4])
    run(SeededRunner(), tmp_path / "grown.jsonl")
    run(SeededRunner(), tmp_path / "whole.jsonl")
    assert (tmp_path / "grown.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_smaller_limit_loses_nothing_that_was_measured(tmp_path: Path) -> None:
    run(SeededRunner(), tmp_path / "rates.jsonl")
    assert len(run(SeededRunner(), tmp_path / "rates.jsonl", PROBLEMS[:2]).by_id) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 8}, "n: 16 there, 8 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"sampling": Sampling(max_tokens=8)}, "sampling: .*0.7.* there, .*1.0.* now"),
        ({"settings": {"model": "m2", "task": "t"}}, "model: 'm' there, 'm2' now"),
    ],
)
def test_resuming_with_other_settings_says_what_differs(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    run(SeededRunner(), tmp_path / "rates.jsonl")
    with pytest.raises(ConfigError, match=message):
        run(SeededRunner(), tmp_path / "rates.jsonl", **changes)


def test_problems_that_could_not_be_scored_are_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "rates.jsonl"
    rates = run(SeededRunner(frozenset({"p3"})), out, max_unscored=0.5)
    assert (rates.by_id["p3"].unscored, rates.by_id["p3"].pass_rate) == (16, None)
    assert "p3" not in rates.kept(Window(0.0, 1.0))
    runner = SeededRunner()
    run(runner, out)
    assert runner.asked == ["p3"]
    run(SeededRunner(), tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_too_many_unscored_rollouts_stop_the_filter_and_keep_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "rates.jsonl"
    broken = frozenset({"p4", "p5"})
    with pytest.raises(EvaluationError, match=r"16 rollouts .*max_unscored = 2\.0%.*First causes: problem p5: engine died"):
        run(SeededRunner(broken), out)
    assert list(load_pass_rates(out).by_id)[:5] == ["p9", "p8", "p7", "p6", "p5"]


def test_stopping_early_decides_the_same_with_a_prefix_of_the_samples(tmp_path: Path) -> None:
    full, early = SeededRunner(), SeededRunner()
    whole = run(full, tmp_path / "full.jsonl")
    found = run(early, tmp_path / "early.jsonl", epsilon=0.0)
    assert found.kept(Window()) == whole.kept(Window())
    assert early.drawn < full.drawn == 160
    assert found.saved_share == 1 - early.drawn / 160
    for id, rate in found.by_id.items():
        prefix = SeededRunner()
        alone = run(prefix, tmp_path / f"{id}.jsonl", [PROBLEMS[int(id[1:])]], n=rate.n).by_id[id]
        assert alone == rate


@pytest.mark.parametrize("cut", [0.3, 0.55, 0.9])
def test_a_killed_run_with_early_stopping_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path, cut: float) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(SeededRunner(), whole, epsilon=0.03)
    data = whole.read_bytes()
    killed.write_bytes(data[: int(len(data) * cut)])
    run(SeededRunner(), killed, epsilon=0.03)
    assert killed.read_bytes() == data


@pytest.mark.parametrize("change", [{"keep": Window(0.05, 0.95), "epsilon": 0.03}, {"epsilon": None}, {"epsilon": 0.0}])
def test_what_is_not_decided_for_another_window_or_epsilon_is_sampled_further(tmp_path: Path, change: dict[str, object]) -> None:
    out, fresh = tmp_path / "rates.jsonl", SeededRunner()
    first = SeededRunner()
    run(first, out, epsilon=0.03)
    second = SeededRunner()
    found = run(second, out, **change)
    expected = run(fresh, tmp_path / "fresh.jsonl", **change)
    keep = change.get("keep", Window())
    assert isinstance(keep, Window)
    assert found.kept(keep) == expected.kept(keep)
    assert 0 < second.drawn < fresh.drawn
    assert all(found.by_id[id].n >= rate.n for id, rate in expected.by_id.items())


def test_an_unscored_sample_is_drawn_again_from_the_start_of_its_problem(tmp_path: Path) -> None:
    out = tmp_path / "rates.jsonl"
    broken = run(SeededRunner(frozenset({"p3"})), out, max_unscored=0.5, epsilon=0.0)
    assert broken.by_id["p3"].unscored == 16
    run(SeededRunner(), out, epsilon=0.0)
    run(SeededRunner(), tmp_path / "whole.jsonl", epsilon=0.0)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_pilot_that_met_a_broken_engine_is_made_up_for(tmp_path: Path) -> None:
    out = tmp_path / "rates.jsonl"
    run(SeededRunner(frozenset({"p3"})), out, max_unscored=0.5, epsilon=0.03)
    found = run(SeededRunner(), out, epsilon=0.03)
    whole = run(SeededRunner(), tmp_path / "whole.jsonl", epsilon=0.03)
    assert found.by_id["p3"].unscored == 0
    assert found.kept(Window()) == whole.kept(Window())


class Interrupted(SeededRunner):
    """Ends the whole filter after so many samples."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: object) -> Rollout:
        if self.drawn == self._after:
            raise EvaluationError("interrupted")
        return await super().run(problem, sample_index, sampling, *seed_parts)


@pytest.mark.parametrize("after", [25, 39, 41, 60, 80])
def test_an_interruption_in_the_pilot_or_after_it_changes_nothing(tmp_path: Path, after: int) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "rates.jsonl"
    uninterrupted = SeededRunner()
    run(uninterrupted, whole, epsilon=0.03)
    assert 40 < after < uninterrupted.drawn or after < 40
    with pytest.raises(EvaluationError, match="interrupted"):
        run(Interrupted(after), out, epsilon=0.03)
    run(SeededRunner(), out, epsilon=0.03)
    assert out.read_bytes() == whole.read_bytes()
    again = SeededRunner()
    run(again, out, epsilon=0.03)
    assert again.drawn == 0


def test_progress_counts_every_problem_that_needs_samples_once(tmp_path: Path) -> None:
    started: list[tuple[int, int]] = []
    done: list[Group] = []

    def start(total: int, known: int) -> None:
        started.append((total, known))

    found = run(SeededRunner(), tmp_path / "rates.jsonl", epsilon=0.03, on_start=start, on_group=done.append)
    assert started == [(10, 0)]
    assert sorted(group.problem.id for group in done) == [problem.id for problem in PROBLEMS]
    assert {group.problem.id: len(group.rollouts) for group in done} == {id: rate.n for id, rate in found.by_id.items()}


def test_a_window_that_keeps_everything_stops_nothing(tmp_path: Path) -> None:
    runner = SeededRunner()
    found = run(runner, tmp_path / "rates.jsonl", keep=Window(0.0, 1.0), epsilon=0.03)
    assert (runner.drawn, found.epsilon) == (160, None)


@pytest.mark.parametrize("epsilon", [-0.1, 0.5, float("nan")])
def test_an_epsilon_that_is_no_small_probability_is_refused(tmp_path: Path, epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"epsilon = .*from 0 to below 0\.5"):
        run(SeededRunner(), tmp_path / "rates.jsonl", epsilon=epsilon)
    assert not (tmp_path / "rates.jsonl").exists()


def test_a_problem_that_changed_in_between_is_refused(tmp_path: Path) -> None:
    run(SeededRunner(), tmp_path / "rates.jsonl")
    changed = [Problem("p0", (Message("user", "another"),), None), *PROBLEMS[1:]]
    with pytest.raises(ConfigError, match=r"'p0' is another one than .* was measured on"):
        run(SeededRunner(), tmp_path / "rates.jsonl", changed)


def test_nothing_to_filter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no problems"):
        run(SeededRunner(), tmp_path / "rates.jsonl", [])
