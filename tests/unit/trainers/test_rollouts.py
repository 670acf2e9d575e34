"""Collecting a step's groups: seeds, refills, what is dropped, and what cannot be scored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rlvr.config import load_recipe
from rlvr.filtering.curriculum import Course, Uniform, make_curriculum
from rlvr.filtering.posterior import SolveRates
from rlvr.trainers.algorithms import build
from rlvr.trainers.model.distributed import World
from rlvr.trainers.rollouts import Collected, Collector
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

PROBLEMS = tuple(Problem(f"p{i}", (Message("user", str(i)),), "") for i in range(40))
Score = Callable[[Problem, int], float | None]


class Runner:
    """Stands for the rollout loop: scores by a rule, and notes what it was asked for."""

    def __init__(self, score: Score, tokens: int = 2) -> None:
        self._score, self._tokens = score, tokens
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Any, first: int = 0) -> Group:
        self.asked.append((problem.id, seed_parts))
        return Group(problem, tuple(self._rollout(problem, index) for index in range(first, first + n)))

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
    rollout = {"group_size": 4, "problems_per_step": 4, **settings}
    recipe = load_recipe({"model": "m", "task": "t", "steps": steps, "rollout": rollout})
    runner = Runner(score, tokens)
    return run(make(runner, recipe, problems, algorithm), range(steps)), runner


def make(runner: Runner, recipe: Any, problems: Sequence[Problem] = PROBLEMS, algorithm: str = "dapo") -> Collector:
    rates = SolveRates((problem.id for problem in problems), half_life=50.0)
    course = Course(problems, rates, recipe.rollout.group_size, recipe.steps)
    preset = build(algorithm).bind(max_tokens=10)
    return Collector(runner, Uniform(course), preset, recipe, Sampling(max_tokens=10), World(), rates)  # type: ignore[arg-type]


def run(collector: Collector, steps: Iterable[int]) -> list[Collected]:
    async def main() -> list[Collected]:
        return [await collector.collect(step) for step in steps]

    return asyncio.run(main())


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
    [found], runner = collect(mixed_if_even, max_refills=20, surplus_steps=0)
    assert len(found.kept) == 4
    assert found.rounds > 1
    assert len({name for name, _ in runner.asked}) == len(runner.asked)
    assert found.tally.rollouts == 4 * len(found.groups) == 4 * (found.dropped + 4)


def test_refills_are_drawn_by_what_the_first_groups_of_the_step_showed() -> None:
    problems = [replace(problem, metadata={"kind": "good" if int(problem.id[1:]) % 2 == 0 else "bad"}) for problem in PROBLEMS]
    recipe: Any = load_recipe(
        {"model": "m", "task": "t", "rollout": {"group_size": 4, "problems_per_step": 8, "max_refills": 20, "oversample": 1.0}}
    )
    rates = SolveRates((problem.id for problem in problems), half_life=50.0)
    course = Course(problems, rates, 4, 1)
    chosen = make_curriculum(course, "mixture", {"by": "kind", "weights": "learnability", "sharpness": 8.0, "explore": 0.01})
    runner = Runner(mixed_if_even)
    collector = Collector(
        runner,  # type: ignore[arg-type]
        chosen,
        build("dapo").bind(max_tokens=10),
        recipe,
        Sampling(max_tokens=10),
        World(),
        rates,
    )
    [found] = run(collector, [0])
    first, later = (
        [int(name[1:]) % 2 == 0 for name, seed_parts in runner.asked if (seed_parts[3] == 0) is is_first]
        for is_first in (True, False)
    )
    assert found.rounds > 1
    assert set(first) == {True, False}
    assert all(later)


@pytest.mark.parametrize("refills", [0, 2])
def test_refills_are_bounded_and_a_step_without_signal_is_no_error(refills: int) -> None:
    [found], runner = collect(never, max_refills=refills, oversample=1.0)
    assert (found.kept, found.rounds, found.failure) == ([], refills + 1, None)
    assert len(runner.asked) == 4 * (refills + 1)
    assert found.dropped == found.drops["no_signal"] == len(found.groups)


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
    [found] = run(make(Runner(one_missing), load_recipe(recipe), recipe_problems, "grpo"), [0])
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


def test_as_many_prompts_are_drawn_as_are_expected_to_fill_the_step() -> None:
    steps, runner = collect(mixed_if_even, max_refills=5, steps=12)
    late = steps[6:]
    # Half of the groups have signal, so about twice as many are asked for at once instead of in refills.
    assert sum(found.rounds for found in late) / len(late) < 2.0
    assert all(len(found.kept) == 4 for found in late)
    assert len(set(runner.asked)) == len(runner.asked)


def test_never_more_is_sampled_than_the_refills_allow() -> None:
    steps, _ = collect(never, max_refills=2, steps=5)
    assert [len(found.groups) for found in steps] == [12] * 5
    assert steps[-1].rounds < 3  # where hardly anything has signal, larger rounds are drawn


def test_a_fixed_factor_of_prompts_is_kept() -> None:
    [found], _ = collect(mixed, oversample=1.5)
    assert (len(found.groups), len(found.kept), found.rounds) == (6, 4, 1)


def test_good_groups_that_were_not_needed_are_trained_on_in_the_next_step_and_stored_once() -> None:
    steps, _ = collect(mixed, oversample=1.5, steps=3)
    first, second, _ = steps
    assert [len(found.held) for found in steps] == [2, 1, 0]  # nothing waits for a step that does not come
    assert [id(group) for group in second.carried] == [id(group) for group in first.held]
    assert [len(found.kept) for found in steps] == [4, 4, 4]
    assert [len(found.groups) for found in steps] == [6, 3, 5]
    stored = [id(group) for found in steps for group in found.stored]
    assert len(set(stored)) == len(stored) == sum(len(found.groups) for found in steps)


def test_groups_wait_no_longer_than_they_may_and_are_then_stored_as_not_used() -> None:
    steps, _ = collect(mixed, oversample=3.0, steps=3)
    first, second, _ = steps
    assert (len(first.held), len(second.carried), len(second.expired)) == (8, 2, 6)  # at least half of a step is fresh
    longer, _ = collect(mixed, oversample=3.0, steps=3, surplus_steps=2)
    assert [len(found.expired) for found in longer[:2]] == [0, 0]
    assert all(len(found.carried) == 2 for found in longer[1:])


def test_nothing_is_kept_for_later_where_that_is_switched_off_or_the_algorithm_cannot_use_it() -> None:
    for settings in ({"surplus_steps": 0}, {"algorithm": "rloo"}):
        steps, _ = collect(mixed, oversample=1.5, steps=2, **settings)
        assert [len(found.held) + len(found.carried) for found in steps] == [0, 0]
        assert [len(found.stored) for found in steps] == [6, 6]
        assert [len(found.kept) for found in steps] == [4, 4]


def test_a_restored_collector_goes_on_with_the_groups_that_waited() -> None:
    recipe = load_recipe({"model": "m", "task": "t", "rollout": {"group_size": 4, "problems_per_step": 4, "oversample": 1.5}})
    whole = make(Runner(mixed), recipe)
    run(whole, range(2))
    restored = make(Runner(mixed), recipe)
    restored.load_state_dict(whole.state_dict())
    assert restored.state_dict() == whole.state_dict()
    restored._curriculum.load_state_dict(whole._curriculum.state_dict())
    one, other = run(whole, [2])[0], run(restored, [2])[0]
    assert one.kept == other.kept
    assert one.carried == other.carried != []


def test_filters_drop_groups_and_say_how_many_each() -> None:
    def score(problem: Problem, index: int) -> float:
        return float(index < int(problem.id[1:]) % 5)  # 0 to 4 of 4 correct

    recipe = load_recipe(
        {
            "model": "m",
            "task": "t",
            "filters": ["zero_variance", {"name": "too_easy", "above": 0.6}],
            "rollout": {"group_size": 4, "problems_per_step": 40, "max_refills": 0},
        }
    )
    [found] = run(make(Runner(score), recipe, algorithm="grpo"), [0])
    assert found.drops == {"zero_variance": 16, "too_easy": 8}
    assert {sum(r.is_correct for r in group.rollouts) for group in found.kept} == {1, 2}


def test_a_group_whose_probe_is_alike_ends_there_and_is_replaced() -> None:
    [found], _ = collect(mixed_if_even, algorithm="grpo", probe=2, max_refills=20, surplus_steps=0)
    assert [len(group.rollouts) for group in found.kept] == [4] * 4
    assert {len(group.rollouts) for group in found.groups if group not in found.kept} == {2}
    assert found.drops == {"probed": len(found.groups) - 4}
    assert found.tally.rollouts == 4 * 4 + 2 * found.dropped  # what was given up counts
    assert all(rollout.reward == 0.0 for group in found.groups[1:2] for rollout in group.rollouts)  # and is on record


def test_a_probe_is_the_first_part_of_its_group_with_the_seeds_that_it_would_have_had() -> None:
    [probed], runner = collect(mixed, algorithm="grpo", probe=2)
    [whole], _ = collect(mixed, algorithm="grpo")
    assert [[rollout.sample_index for rollout in group.rollouts] for group in probed.kept] == [[0, 1, 2, 3]] * 4
    assert [group.problem for group in probed.kept] == [group.problem for group in whole.kept]
    assert len({parts for _, parts in runner.asked}) == 1  # both parts of a group have the same seed parts


def test_a_step_with_probes_and_no_refills_trains_on_what_is_left() -> None:
    [found], _ = collect(mixed_if_even, algorithm="grpo", probe=2, max_refills=0, oversample=1.0)
    assert (len(found.groups), len(found.kept), found.drops) == (4, 2, {"probed": 2})


def test_a_probe_without_two_scores_says_nothing() -> None:
    def one_missing(problem: Problem, index: int) -> float | None:
        return None if index == 0 else float(index == 3)

    recipe = {"model": "m", "task": "t", "max_unscored": 0.5, "rollout": {"group_size": 4, "problems_per_step": 4, "probe": 2}}
    [found] = run(make(Runner(one_missing), load_recipe(recipe), algorithm="grpo"), [0])
    assert [len(group.rollouts) for group in found.groups] == [4] * 4
    assert [len(group.rollouts) for group in found.kept] == [3] * 4
