from __future__ import annotations

import random

import pytest

from rlvr.envs.tasks import Draft, Generator
from rlvr.envs.tasks.generated import GeneratedProblems, split_of
from rlvr.envs.tasks.spec import PromptSpec
from rlvr.errors import TaskError


class Numbers(Generator):
    size: int = 5000

    def draw(self, rng: random.Random) -> Draft | None:
        number = rng.randrange(self.size)
        return None if number % 7 == 0 else Draft(f"{number}?", number, content=str(number))


def numbers(**args: int) -> GeneratedProblems:
    return GeneratedProblems("numbers", Numbers(**args), PromptSpec(), {"train": 300, "test": 60})


def test_first_problems_do_not_depend_on_how_many_are_asked_for() -> None:
    long = numbers().problems("train", 200)
    assert numbers().problems("train", 20) == long[:20]
    grown = numbers()
    assert [grown.problem("train", i) for i in (5, 150, 0)] == [long[i] for i in (5, 150, 0)]


def test_splits_share_no_problem_under_any_arguments() -> None:
    train = {problem.answer for size in (500, 800) for problem in numbers(size=size).problems("train", 250)}
    test = {problem.answer for size in (500, 800) for problem in numbers(size=size).problems("test", 60)}
    assert not train & test


def test_problem_lies_in_the_split_that_its_content_says() -> None:
    for split in ("train", "test"):
        assert all(split_of(str(problem.answer)) == split for problem in numbers().problems(split, None))


def test_a_fifth_of_all_problems_is_held_out() -> None:
    share = sum(split_of(f"problem {i}") == "test" for i in range(5000)) / 5000
    assert share == pytest.approx(0.2, abs=0.03)


def test_problems_and_ids_are_distinct_and_rejected_draws_do_not_appear() -> None:
    problems = numbers().problems("train", None)
    assert len({problem.id for problem in problems}) == len({problem.answer for problem in problems}) == len(problems) == 300
    assert all(problem.answer % 7 for problem in problems)


def test_id_belongs_to_the_content_and_not_to_the_position() -> None:
    by_answer = {problem.answer: problem.id for problem in numbers(size=400).problems("train", 200)}
    again = {problem.answer: problem.id for problem in numbers(size=500).problems("train", 200)}
    shared = by_answer.keys() & again.keys()
    assert shared
    assert all(by_answer[answer] == again[answer] for answer in shared)


def test_a_returned_list_does_not_grow_afterwards() -> None:
    problems = numbers()
    first = problems.problems("train", 10)
    problems.problems("train", 20)
    assert len(first) == 10


def test_exhausted_space_is_an_error_with_the_number_found() -> None:
    with pytest.raises(TaskError, match=r"task numbers, split train: \d+ distinct problems were found with Numbers\(size=20\)"):
        numbers(size=20).problems("train", 100)
