from __future__ import annotations

import json

import pytest

from rlvr.envs.tasks import load_task
from rlvr.errors import TaskError
from rlvr.integrations.reasoning_gym import _GUARDED, MAX_ENTRIES, _is_harmless, dataset_names, reasoning_gym
from rlvr.types import Outcome, Problem, Rollout
from rlvr.verifiers.call import call_verifier
from rlvr.verifiers.protocol import rollout_from_json, rollout_to_json

# Every data set was tried with version 0.1.25; these stand for the kinds of answers that there are.
PLAIN = ("chain_sum", "leg_counting", "graph_color", "propositional_logic", "mini_sudoku", "zebra_puzzles", "rubiks_cube", "maze")
NAMES = (*PLAIN, *_GUARDED, "prime_factorization", "game_of_life_halting")


def grade(problem: Problem, response: str, **settings: object) -> Outcome:
    return call_verifier(reasoning_gym, Rollout.from_response(problem, response), settings).outcome  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_gold_answers_pass_and_nothing_else_does(name: str) -> None:
    task = load_task(f"reasoning_gym:{name}")
    for problem in task.problems("train", limit=2):
        assert grade(problem, task.adapter.gold_response(problem) or "") is Outcome.CORRECT
        assert grade(problem, "") is Outcome.UNPARSED
        for wrong in ("zzz nonsense", problem.prompt[-1].content, "__import__('os').getpid()", "\x00"):
            assert grade(problem, f"<answer>{wrong}</answer>") in (Outcome.INCORRECT, Outcome.UNPARSED)


def test_problems_are_stable_and_splits_are_disjoint() -> None:
    first, again = (load_task("reasoning_gym:chain_sum") for _ in range(2))
    train, test = first.problems("train", limit=30), first.problems("test", limit=30)
    assert train == again.problems("train", limit=40)[:30]
    assert {problem.prompt for problem in train} & {problem.prompt for problem in test} == set()


def test_a_problem_survives_the_way_to_a_worker() -> None:
    (problem,) = load_task("reasoning_gym:graph_color").problems("train", limit=1)
    rollout = Rollout.from_response(problem, f"<answer>{problem.answer}</answer>")
    there = rollout_from_json(json.loads(json.dumps(rollout_to_json(rollout))))
    assert call_verifier(reasoning_gym, there, {}).outcome is Outcome.CORRECT


def test_settings_of_a_data_set_are_arguments_of_the_task() -> None:
    task = load_task("reasoning_gym:chain_sum", {"min_terms": 2, "max_terms": 2, "seed": 7})
    (problem,) = task.problems("train", limit=1)
    assert problem.metadata["reasoning_gym"]["config"] == {"min_terms": 2, "max_terms": 2}
    assert grade(problem, f"<answer>{problem.answer}</answer>") is Outcome.CORRECT
    with pytest.raises(TaskError, match="nonsense"):
        load_task("reasoning_gym:chain_sum", {"nonsense": 1})
    with pytest.raises(TaskError, match="did you mean 'chain_sum'"):
        load_task("reasoning_gym:chain_som")


def test_a_data_set_without_gold_answers_says_so() -> None:
    with pytest.raises(TaskError, match="0 distinct problems"):
        load_task("reasoning_gym:rush_hour").problems("train", limit=1)


@pytest.mark.parametrize(
    ("name", "answer", "is_harmless"),
    [
        ("countdown", "(30 - 100) + 93", True),
        ("countdown", "2**9", False),
        ("countdown", "exit()", False),
        ("n_queens", "[['Q','_'],['_','Q']]", True),
        ("n_queens", "print(1)", False),
        ("simple_integration", "2*X**3/3 + sin(x)/4 + C", True),
        ("simple_integration", "x**9**9", False),
        ("simple_integration", "x**(999)", False),
        ("simple_integration", "x.__class__", False),
        ("simple_integration", "(x).y", False),
        ("simple_integration", "open(x)", False),
        ("polynomial_multiplication", "-63*x**2 + 5.5*x*y - 1", True),
        ("spiral_matrix", "[1, 2] or exit()", False),
        ("chain_sum", "anything()", True),
    ],
)
def test_only_what_an_answer_can_need_reaches_an_evaluating_scorer(name: str, answer: str, *, is_harmless: bool) -> None:
    assert _is_harmless(name, answer) is is_harmless


def test_the_lists_name_data_sets_that_exist() -> None:
    assert {*_GUARDED, *MAX_ENTRIES} <= set(dataset_names())
