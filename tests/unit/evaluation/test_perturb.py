from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlvr
from rlvr.envs.tasks import load_task
from rlvr.envs.validate import gold_response
from rlvr.errors import ConfigError
from rlvr.evaluation.perturb import perturbed, with_other_numbers
from rlvr.types import Message, Problem
from rlvr.verifiers.arithmetic import evaluate

CLIPS = Problem(
    "clips",
    (
        Message(
            "user", "Natalia sold 48 clips to friends in April, and half as many in May. She gave 5 away. How many did she sell?"
        ),
    ),
    "72",
    {"working": "In May she sold 48/2 = 24 clips.\nTogether she sold 48+24 = 72 clips."},
)


@pytest.mark.parametrize("task", ["chains", "products"])
def test_expressions_get_other_numbers_and_the_right_answer(task: str) -> None:
    problems = load_task(task).problems("test", limit=40)
    found = with_other_numbers(problems)
    assert len(found) >= 38
    by_id = {problem.id: problem for problem in problems}
    for changed in found:
        text, old = changed.prompt[-1].content, by_id[changed.id].prompt[-1].content
        assert text != old
        assert re.sub(r"\d", "0", text) == re.sub(r"\d", "0", old)  # as many digits everywhere
        assert changed.answer == str(evaluate(text.rstrip("?")).value)
        assert changed.answer != by_id[changed.id].answer


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_word_problem_is_calculated_again(seed: int) -> None:
    changed = perturbed(CLIPS, seed)
    assert changed is not None
    sold, away = map(int, re.findall(r"\d+", changed.prompt[-1].content))
    assert away == 5  # nothing is calculated with it
    assert sold % 2 == 0
    assert changed.answer == str(sold + sold // 2)
    assert changed.id == "clips"
    assert sold != 48


@pytest.mark.parametrize(
    ("text", "answer", "working"),
    [
        ("48 clips, then 48 more?", "72", "48/2 = 24, 48+24 = 72"),  # which of the two is meant?
        ("7 days of 100 each?", "700", "7*100 = 700"),  # may count something else
        ("48 clips?", "73", "48/2 = 24, 48+24 = 72"),  # the working is not that of the answer
        ("48 clips?", "72", "48/2 = 25, 48+24 = 72"),  # the working is wrong
        ("48.5 clips?", "97", "48.5*2 = 97"),
        ("20% of 48?", "10", "no calculation"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_out(text: str, answer: str, working: str) -> None:
    assert perturbed(Problem("p", (Message("user", text),), answer, {"working": working})) is None


def test_the_change_depends_on_problem_and_seed_alone() -> None:
    assert perturbed(CLIPS, 3) == perturbed(CLIPS, 3)
    assert len({perturbed(CLIPS, seed).answer for seed in range(20)}) > 3  # type: ignore[union-attr]


def test_problems_of_which_none_can_be_changed_are_refused() -> None:
    with pytest.raises(ConfigError, match="none of these problems"):
        with_other_numbers([Problem("p", (Message("user", "Prove it."),), "x")])


DRAWN = {"chains": {}, "products": {}, "countdown": {}, "linear_equations": {}, "sudoku": {}}


def form(text: str) -> str:
    return re.sub(r"\d", "0", text)


@pytest.mark.parametrize("name", DRAWN)
def test_a_task_that_draws_its_problems_draws_others_whose_gold_answer_passes_its_verifier(name: str) -> None:
    task = load_task(name)
    problems = {problem.id: problem for problem in task.problems("test", limit=12)}
    found = with_other_numbers(list(problems.values()), task=task)
    assert len(found) == 12
    chosen = task.verifiers[0]
    for changed in found:
        old = problems[changed.id]
        assert changed.answer != old.answer
        assert changed.prompt[-1].content != old.prompt[-1].content
        assert changed.metadata["other_numbers"] is True
        if name in ("products", "countdown"):
            assert form(changed.prompt[-1].content) == form(old.prompt[-1].content)
        gold = gold_response(task, changed)
        assert gold is not None
        assert rlvr.grade(gold, changed.answer, chosen.name, **chosen.args).score == 1.0
        # The old answer, known by heart, is wrong now.
        by_heart = gold_response(task, old)
        assert by_heart is not None
        assert rlvr.grade(by_heart, changed.answer, chosen.name, **chosen.args).score == 0.0


@pytest.mark.parametrize("name", ["chains", "products", "countdown"])
def test_a_problem_with_other_numbers_cannot_have_been_trained_on(name: str) -> None:
    task = load_task(name)
    trained = {problem.prompt[-1].content for problem in task.problems("train", limit=3000)}
    found = with_other_numbers(task.problems("test", limit=40), task=task)
    assert len(found) >= 38
    assert not trained & {problem.prompt[-1].content for problem in found}


def test_what_is_drawn_stays_in_its_split() -> None:
    task = load_task("chains", {"terms": [2, 2]})
    every = {"train": task.problems("train", limit=100), "test": task.problems("test", limit=26)}  # there are no others
    for split, problems in every.items():
        known = {problem.prompt[-1].content for problem in problems}
        found = with_other_numbers(problems, task=task, split=split)
        assert len(found) == len(problems)
        assert {one.prompt[-1].content for one in found} <= known


def test_a_wish_in_the_prompt_stays_with_other_numbers() -> None:
    task = load_task("length_target:products")
    problems = task.problems("test", limit=5)
    found = with_other_numbers(problems, task=task)
    assert [one.metadata["target_tokens"] for one in found] == [one.metadata["target_tokens"] for one in problems]
    assert [form(one.prompt[-1].content) for one in found] == [form(one.prompt[-1].content) for one in problems]


def test_tasks_without_numbers_to_change_are_refused() -> None:
    for name in ("knights_knaves", "if_synth"):
        task = load_task(name)
        with pytest.raises(ConfigError, match="none of these problems"):
            with_other_numbers(task.problems("test", limit=3), task=task)
