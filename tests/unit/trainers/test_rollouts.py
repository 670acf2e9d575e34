"""Collecting a step's groups: seeds, refills, what is dropped, and what cannot be scored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rlvr.config import RunConfig, load_recipe
from rlvr.filtering.curriculum import Uniform
from rlvr.trainers.algorithms import build
from rlvr.trainers.distributed import World
from rlvr.trainers.rollouts import Collected, Collector
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

PROBLEMS = tuple(Problem(f"p{i}", (Message("user", str(i)),), "") for i in range(40))
Score = Callable[[Problem, int], float | None]


class Runner:
    """Stands for the rollout loop: scores by a rule, and notes what it was asked for."""

    def __init__(self, score: Score, tokens: int = 2) -> None:
        self._score, self._tokens = score, tokens
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Any) -> Group:
        self.asked.append((problem.id, seed_parts))
        return Group(problem, tuple(self._rollout(problem, index) for index in range(n)))

    def _rollout(self, problem: Problem, index: int) -> Rollout:
        score = self._score(problem, index)
        completion = Completion((5,) * self._tokens, (-1.0,) * self._tokens, FinishReason.STOP)
        rollout = Rollout(problem, index, [Turn((1,), completion, Message("assistant", ""))], Stop.STOP)
        verdict = Verdict.error("the grader died") if score is None else Verdict.correct() if score == 1 else Verdict.incorrect()
        rollout.verdicts, rollout.reward = {"v": verdict}, score
        return rollout


def collect(
    score: Score,
    *,
    algorithm: str = "dapo",
    problems: Sequence[Problem] = PROBLEMS,
    tokens: int = 2,
    steps: int = 1,
    **settings: Any,
) -> tuple[list[Collected], Runner]:
    recipe = load_recipe({"model": "m", "task": "t", "rollout": {"group_size": 4, "problems_per_step": 4, **settings}})
    assert isinstance(recipe, RunConfig)
    runner = Runner(score, tokens)
    collector = Collector(
        runner,  # type: ignore[arg-type]
        Uniform(problems, 0),
        build(algorithm).bind(max_tokens=10),
        recipe,
        Sampling(max_tokens=10),
        World(),
    )

    async def main() -> list[Collected]:
        return [await collector.collect(step) for step in range(steps)]

    return asyncio.run(main()), runner


def mixed(problem: Problem, index: int) -> float:
    return float(index == 0)


def mixed_if_even(problem: Problem, index: int) -> float:
    return float(index == 0 and int(problem.id[1:]) % 2 == 0)


def never(problem: Problem, index: int) -> float:
    return 0.0


def test_groups_with_signal_fill_the_step_at_once() -> None:
    [found], runner = collect(mixed)
    assert (len(found.kept), found.rounds, found.dropped, len(runner.asked)) == (4, 1, 0, 4)


def test_dropped_groups_are_replaced_by_new_problems_until_the_step_is_full() -> None:
    [found], runner = collect(mixed_if_even, max_refills=20)
    assert len(found.kept) == 4
    assert found.rounds > 1
    assert len({name for name, _ in runner.asked}) == len(runner.asked)
    assert found.tally.rollouts == 4 * len(found.groups) == 4 * (found.dropped + 4)


@pytest.mark.parametrize("refills", [0, 2])
def test_refills_are_bounded_and_a_step_without_signal_is_no_error(refills: int) -> None:
    [found], runner = collect(never, max_refills=refills)
    assert (found.kept, found.rounds, found.failure) == ([], refills + 1, None)
    assert len(runner.asked) == 4 * (refills + 1)
    assert found.dropped == len(found.groups)


def test_without_dynamic_sampling_every_group_stays() -> None:
    [found], _ = collect(never, algorithm="grpo")
    assert (len(found.kept), found.rounds) == (4, 1)


def test_steps_refills_and_repeated_problems_all_have_seeds_of_their_own() -> None:
    _, runner = collect(never, problems=PROBLEMS[:3], max_refills=2, steps=3)
    assert len(set(runner.asked)) == len(runner.asked) == 36


def test_unscored_rollouts_are_left_out_of_their_group() -> None:
    def one_missing(problem: Problem, index: int) -> float | None:
        return None if problem.id == "p3" and index == 1 else mixed(problem, index)

    recipe_problems = PROBLEMS[:4]
    recipe = {"model": "m", "task": "t", "max_unscored": 0.1, "rollout": {"group_size": 4, "problems_per_step": 4}}
    runner = Runner(one_missing)
    collector = Collector(
        runner,  # type: ignore[arg-type]
        Uniform(recipe_problems, 0),
        build("grpo"),
        load_recipe(recipe),  # type: ignore[arg-type]
        Sampling(max_tokens=10),
        World(),
    )
    found = asyncio.run(collector.collect(0))
    assert found.failure is None
    assert found.tally.unscored == 1
    assert sorted(len(group.rollouts) for group in found.kept) == [3, 4, 4, 4]
    assert sum(len(group.rollouts) for group in found.groups) == 16


def test_too_many_unscored_rollouts_are_a_failure_with_its_causes_and_the_rollouts_at_hand() -> None:
    [found], _ = collect(lambda problem, index: None if index == 2 else 0.0, algorithm="grpo")
    assert found.failure is not None
    assert "step 1: 4 of 16 rollouts could not be scored (25.0%, max_unscored = 2.0%)" in found.failure
    assert found.failure.count("the grader died") == 3  # the first three causes
    assert len(found.groups) == 4


def test_shaped_rewards_are_on_record_for_dropped_groups_too() -> None:
    [found], _ = collect(mixed_if_even, tokens=10, max_refills=1)
    assert found.dropped
    rewards = {r.reward for group in found.groups for r in group.rollouts}
    assert rewards <= {0.0, -1.0}  # a full response loses 1
