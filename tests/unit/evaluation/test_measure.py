from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from rlvr.errors import ConfigError, EvaluationError
from rlvr.evaluation.measure import Attempts, gain, measure
from rlvr.evaluation.passk import pass_at_k
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

SAMPLING = Sampling(max_tokens=8)
Answer = Callable[[str, int], Verdict | str]  # (problem id, sample) -> verdict, or the text of an infrastructure error


class TableRunner:
    """A rollout loop that answers from a table; the last problems finish first."""

    def __init__(self, answer: Answer, tokens: Callable[[str, int], int] = lambda problem, index: 3) -> None:
        self.answer, self.tokens = answer, tokens
        self.requests: list[tuple[str, int, float, tuple[object, ...]]] = []
        self.started = 0

    async def run(self, problem: Problem, sample_index: int, sampling: Sampling, *seed_parts: object) -> Rollout:
        self.started += 1
        self.requests.append((problem.id, sample_index, sampling.temperature, seed_parts))
        for _ in range(20 - min(int(problem.id), 19)):
            await asyncio.sleep(0)
        found = self.answer(problem.id, sample_index)
        length = self.tokens(problem.id, sample_index)
        is_cut = length >= sampling.max_tokens
        finish = FinishReason.LENGTH if is_cut else FinishReason.STOP
        turn = Turn((1,), Completion((5,) * length, (-0.5,) * length, finish), Message("assistant", "text"))
        rollout = Rollout(problem, sample_index, [turn], Stop.LENGTH if is_cut else Stop.STOP)
        if isinstance(found, str):
            rollout.error, rollout.stop = found, Stop.ERROR
        else:
            rollout.verdicts = {"answer": found, "format": Verdict.correct() if sample_index else Verdict.incorrect()}
        return rollout

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: object) -> Group:
        rollouts = await asyncio.gather(*(self.run(problem, index, sampling, *seed_parts) for index in range(n)))
        return Group(problem, tuple(rollouts))


def problems(count: int) -> list[Problem]:
    return [Problem(str(index), (Message("user", "?"),), None) for index in range(count)]


def first_are_correct(counts: Sequence[int]) -> Answer:
    """Problem i solves its first counts[i] samples."""
    return lambda problem, index: Verdict.correct() if index < counts[int(problem)] else Verdict.incorrect()


def test_pass_at_k_averages_the_unbiased_estimate_over_problems() -> None:
    counts = [0, 1, 2, 4]
    found = asyncio.run(measure(TableRunner(first_are_correct(counts)), problems(4), n=4, k=(2, 1), sampling=SAMPLING))
    assert list(found.pass_at) == [1, 2]
    for k, estimated in found.pass_at.items():
        assert estimated.mean == pytest.approx(sum(pass_at_k(4, count, k) for count in counts) / 4)
        assert estimated.low <= estimated.mean <= estimated.high
    assert [(p.id, p.scored, p.correct) for p in found.problems] == [("0", 4, 0), ("1", 4, 1), ("2", 4, 2), ("3", 4, 4)]


def test_every_outcome_is_counted_apart() -> None:
    verdicts = [Verdict.correct(), Verdict.partial(0.5), Verdict.incorrect(), Verdict.unparsed("no answer")]
    runner = TableRunner(lambda problem, index: verdicts[index % 4], tokens=lambda problem, index: 8 if index == 3 else 4)
    report = asyncio.run(measure(runner, problems(5), n=4, k=(1,), sampling=SAMPLING)).to_json()
    assert report["pass@1"]["mean"] == pytest.approx(0.25)  # a partial answer is not a pass
    assert report["outcomes"] == {
        "correct": 0.25, "partial": 0.25, "incorrect": 0.25, "unparsed": 0.25, "verifier_error": 0.0,
    }  # fmt: skip
    assert report["truncated_share"] == 0.25
    assert report["tokens"] == {"mean": 5.0, "low": 5.0, "high": 5.0}
    assert report["verifiers"] == {"answer": pytest.approx(0.375), "format": 0.75}
    assert report["counts"]["rollouts"] == 20
    json.dumps(report, allow_nan=False)


def test_unscored_rollouts_leave_the_denominator_and_are_counted() -> None:
    def answer(problem: str, index: int) -> Verdict | str:
        if (problem, index) == ("0", 0):
            return "engine died"
        if (problem, index) == ("1", 1):
            return Verdict.error("worker hung")
        return Verdict.correct()

    found = asyncio.run(measure(TableRunner(answer), problems(10), n=4, k=(1, 4), sampling=SAMPLING, max_unscored=0.05))
    assert found.pass_at[1].mean == 1.0
    assert (found.pass_at[1].n_problems, found.pass_at[4].n_problems) == (10, 8)
    report = found.to_json()
    assert report["problems_measured"] == {"pass@1": 10, "pass@4": 8}
    assert (report["counts"]["unscored"], report["counts"]["failed_rollouts"], report["counts"]["verifier_error"]) == (2, 1, 1)
    assert report["unscored_share"] == 0.05
    assert sum(report["outcomes"].values()) == pytest.approx(1 - 1 / 40)  # all but the rollout without any verdict


def test_too_many_unscored_rollouts_stop_the_evaluation_with_the_first_causes() -> None:
    runner = TableRunner(lambda problem, index: f"cause {problem}")
    with pytest.raises(EvaluationError, match=r"max_unscored = 2\.0%.*cause \d+; cause \d+; cause \d+$"):
        asyncio.run(measure(runner, problems(30), n=2, k=(1,), sampling=SAMPLING))


def test_a_k_that_no_problem_can_serve_is_an_error_not_a_number() -> None:
    runner = TableRunner(lambda problem, index: "lost" if index == 0 else Verdict.correct())
    with pytest.raises(EvaluationError, match="no problem has 4 scored samples of 4"):
        asyncio.run(measure(runner, problems(2), n=4, k=(4,), sampling=SAMPLING, max_unscored=0.5))


def test_greedy_answers_are_measured_beside_the_samples() -> None:
    runner = TableRunner(first_are_correct([1, 0, 1, 1]))
    found = asyncio.run(measure(runner, problems(4), n=2, k=(1,), sampling=SAMPLING, greedy=True))
    assert found.greedy is not None
    assert (found.greedy.mean, found.greedy.n_problems) == (0.75, 4)
    assert found.pass_at[1].mean == pytest.approx(0.375)
    assert found.tally.rollouts == 8
    greedy_requests = [request for request in runner.requests if request[2] == 0.0]
    assert [(index, parts) for _, index, _, parts in greedy_requests] == [(0, ("greedy", 0))] * 4


def test_problems_run_at_once_and_are_stored_in_order() -> None:
    stored: list[Attempts] = []
    runner = TableRunner(first_are_correct([1] * 12))
    started_before_first_store: list[int] = []

    def store(attempts: Attempts) -> None:
        started_before_first_store.append(runner.started)
        stored.append(attempts)

    asyncio.run(measure(runner, problems(12), n=2, k=(1,), sampling=SAMPLING, store=store))
    assert [attempts.group.problem.id for attempts in stored] == [str(index) for index in range(12)]
    assert started_before_first_store[0] == 24


def test_a_failing_store_stops_the_rollouts_that_are_under_way() -> None:
    def store(attempts: Attempts) -> None:
        raise EvaluationError("disk full")

    async def run() -> int:
        with pytest.raises(EvaluationError, match="disk full"):
            await measure(TableRunner(first_are_correct([1] * 9)), problems(9), n=1, k=(1,), sampling=SAMPLING, store=store)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_the_observer_sees_one_unit_for_each_problem() -> None:
    class Watcher:
        def __init__(self) -> None:
            self.stages: list[tuple[str, int]] = []
            self.units = 0
            self.last: dict[str, float] = {}

        def stage(self, name: str, total: int) -> None:
            self.stages.append((name, total))

        def advance(self, n: int = 1, **fields: float) -> None:
            self.units += n
            self.last = fields

        def note(self, text: str) -> None: ...

        def final_table(self, summary: object) -> None: ...

    watcher = Watcher()
    runner = TableRunner(first_are_correct([2, 1]))
    asyncio.run(measure(runner, problems(2), n=2, k=(1,), sampling=SAMPLING, observer=watcher, stage="before"))
    assert (watcher.stages, watcher.units) == ([("before", 2)], 2)
    assert watcher.last["correct_share"] == 0.75
    assert watcher.last["tokens_mean"] == 3


def test_the_gain_pairs_problems_and_uses_equal_seeds() -> None:
    solved_before = [index % 3 for index in range(24)]
    solved_after = [count + 2 for count in solved_before]
    before_runner, after_runner = TableRunner(first_are_correct(solved_before)), TableRunner(first_are_correct(solved_after))
    before, after = (
        asyncio.run(measure(runner, problems(24), n=4, k=(1, 4), sampling=SAMPLING, seed=7, greedy=True))
        for runner in (before_runner, after_runner)
    )
    gains = gain(before, after)
    assert set(gains) == {"pass@1", "pass@4", "greedy"}
    assert gains["pass@1"].mean == pytest.approx(0.5)
    assert gains["pass@4"].mean == pytest.approx(1 / 3)
    # The two intervals overlap; paired, the gain is clear.
    assert gains["pass@1"].high - gains["pass@1"].low < 0.5 * (after.pass_at[1].high - before.pass_at[1].low)
    assert sorted(before_runner.requests) == sorted(after_runner.requests)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": []}, "no problems"),
        ({"problems": [*problems(1), *problems(1)]}, "two problems have the id '0'"),
        ({"k": (5,)}, r"k = \[5\] with n = 4"),
        ({"k": ()}, "pass@k needs"),
        ({"sampling": Sampling(max_tokens=8, temperature=0.0)}, "temperature 0"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused_at_the_door(changes: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"problems": problems(2), "n": 4, "k": (1,), "sampling": SAMPLING} | changes
    runner = TableRunner(first_are_correct([1, 1]))
    with pytest.raises(ConfigError, match=message):
        asyncio.run(measure(runner, **settings))  # type: ignore[arg-type]
    assert runner.started == 0
