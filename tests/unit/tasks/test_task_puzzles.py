from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest

from rlvr.envs.tasks import load_task
from rlvr.envs.tasks.generated import split_of
from rlvr.envs.validate import validate
from rlvr.errors import TaskError
from rlvr.registry import resolve
from rlvr.types import Problem

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("chains", {}),
    ("chains", {"terms": [6, 8]}),
    ("countdown", {}),
    ("countdown", {"numbers": [5, 6], "largest": 100, "target": [1, 1000]}),
    ("knights_knaves", {}),
    ("knights_knaves", {"people": [6, 8], "depth": 2}),
    ("linear_equations", {}),
    ("linear_equations", {"unknowns": [3, 3], "denominator": 5}),
]


@pytest.mark.parametrize(("name", "args"), VARIANTS)
def test_every_gold_passes_its_verifier_and_wrong_answers_do_not(name: str, args: dict[str, Any]) -> None:
    reports = asyncio.run(validate(load_task(name, args), limit=40))
    assert [(report.split, report.problems, report.findings) for report in reports] == [("train", 40, ()), ("test", 40, ())]


@pytest.mark.parametrize(("name", "args"), VARIANTS)
def test_problems_are_the_same_in_every_process(name: str, args: dict[str, Any]) -> None:
    first, again = load_task(name, args), load_task(name, args)
    assert first.problems("train", limit=30) == again.problems("train", limit=50)[:30]
    assert first.demonstration("test", 3, 1) == again.demonstration("test", 3, 1)


@pytest.mark.parametrize(("name", "args"), VARIANTS)
def test_splits_are_disjoint(name: str, args: dict[str, Any]) -> None:
    task = load_task(name, args)
    train, test = task.problems("train", limit=120), task.problems("test", limit=60)
    assert not {problem.id for problem in train} & {problem.id for problem in test}
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}


@pytest.mark.parametrize("name", ["countdown", "knights_knaves", "linear_equations"])
def test_prompt_states_the_answer_format(name: str) -> None:
    assert "<answer>" in load_task(name).problems("test", limit=1)[0].prompt[-1].content


def numbers_of(problem: Problem) -> list[int]:
    found: list[int] = problem.answer["numbers"]
    return found


def test_countdown_numbers_and_targets_follow_the_arguments() -> None:
    for problem in load_task("countdown", {"numbers": [5, 5], "largest": 12, "target": [20, 40]}).problems("test", limit=100):
        assert len(numbers_of(problem)) == 5
        assert all(1 <= number <= 12 for number in numbers_of(problem))
        assert 20 <= problem.answer["target"] <= 40


def test_countdown_in_another_order_of_numbers_stays_in_its_split() -> None:
    for problem in load_task("countdown").problems("test", limit=50):
        assert split_of(f"{sorted(numbers_of(problem))} = {problem.answer['target']}") == "test"


def test_countdown_steps_of_a_demonstration_are_true() -> None:
    task = load_task("countdown")
    apply = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: Fraction(a, b)}
    for index in range(100):
        shown = task.demonstration("train", index, 0)
        steps = re.findall(r"^(\d+) ([-+*/]) (\d+) = (\d+)$", shown.response, re.MULTILINE)
        assert len(steps) == len(numbers_of(shown.problem)) - 1
        assert all(apply[operator](int(a), int(b)) == int(result) for a, operator, b, result in steps)
        assert int(steps[-1][-1]) == shown.problem.answer["target"]


def is_true(claim: list[Any], knights: tuple[bool, ...]) -> bool:
    kind, *parts = claim
    if kind in ("knight", "knave"):
        return knights[parts[0]] is (kind == "knight")
    values = [is_true(part, knights) for part in parts]
    table = {
        "not": not values[0],
        "and": all(values),
        "or": any(values),
        "if": values[0] <= values[-1],
        "iff": values[0] == values[-1],
    }
    return table[kind]


@pytest.mark.parametrize("args", [{}, {"people": [7, 8], "depth": 2}])
def test_knights_and_knaves_have_exactly_one_solution_and_it_is_the_answer(args: dict[str, Any]) -> None:
    for problem in load_task("knights_knaves", args).problems("test", limit=30):
        claims, names = problem.metadata["statements"], problem.metadata["names"]
        worlds = itertools.product((True, False), repeat=len(names))
        found = [w for w in worlds if all(is_true(claim, w) == w[i] for i, claim in enumerate(claims))]
        assert len(found) == 1
        assert problem.answer == {name: "knight" if kind else "knave" for name, kind in zip(names, found[0], strict=True)}


def test_knights_and_knaves_people_follow_the_arguments() -> None:
    assert {len(p.answer) for p in load_task("knights_knaves", {"people": [3, 6]}).problems("test", limit=100)} == {3, 4, 5, 6}


def test_claims_are_spoken_without_ambiguity() -> None:
    spoken = resolve("tasks", f"{load_task('knights_knaves').folder}/adapter.py:spoken").target
    claim = ["if", ["not", ["knight", 0]], ["or", ["knave", 1], ["and", ["knight", 0], ["knave", 0]]]]
    assert spoken(claim, ["Ada", "Dov"]) == (
        "if (it is not true that Ada is a knight), then (Dov is a knave or (Ada is a knight and Ada is a knave), or both)"
    )


def test_puzzle_with_its_people_in_another_order_is_the_same_puzzle() -> None:
    canonical = resolve("tasks", f"{load_task('knights_knaves').folder}/adapter.py:canonical").target
    claims = [["and", ["knight", 1], ["knave", 2]], ["knave", 0], ["if", ["knight", 0], ["knave", 1]]]
    order = [2, 0, 1]  # the new place of each person

    def moved(claim: list[Any]) -> list[Any]:
        kind, *parts = claim
        return [kind, order[parts[0]]] if kind in ("knight", "knave") else [kind, *(moved(part) for part in parts)]

    shuffled = [moved(claims[order.index(place)]) for place in range(3)]
    assert canonical(shuffled) == canonical(claims)
    assert canonical([["and", ["knave", 2], ["knight", 1]], *claims[1:]]) == canonical(claims)
    assert canonical([["if", ["knight", 1], ["knave", 2]], *claims[1:]]) != canonical(claims)


def value_of(side: str, values: Mapping[str, Fraction]) -> Fraction:
    terms = re.findall(r"([-+]?)(\d*)([xyz]?)", side.replace(" ", ""))
    pieces = [(sign, size, name) for sign, size, name in terms if size or name]
    return sum(
        (Fraction(f"{sign}1") * Fraction(size or 1) * (values[name] if name else 1) for sign, size, name in pieces), Fraction(0)
    )


@pytest.mark.parametrize("args", [{}, {"unknowns": [1, 1]}, {"unknowns": [3, 3], "denominator": 4}])
def test_linear_equations_hold_at_the_answer(args: dict[str, Any]) -> None:
    for problem in load_task("linear_equations", args).problems("test", limit=60):
        values = {name: Fraction(value) for name, value in problem.answer.items()}
        equations = [line.split(" = ") for line in problem.prompt[-1].content.split("\n") if re.match(r"[-\dxyz].* = ", line)]
        assert len(equations) == len(values)
        assert all(value_of(left, values) == value_of(right, values) for left, right in equations)


def test_linear_equations_solutions_are_whole_unless_a_denominator_is_asked_for() -> None:
    whole = load_task("linear_equations").problems("test", limit=100)
    assert all("/" not in value for problem in whole for value in problem.answer.values())
    fractions = load_task("linear_equations", {"denominator": 4}).problems("test", limit=100)
    assert any("/" in value for problem in fractions for value in problem.answer.values())


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("countdown", {"numbers": [1, 3]}, r"numbers = \[1, 3\]"),
        ("countdown", {"target": [9, 3]}, r"target = \[9, 3\]"),
        ("countdown", {"largest": 1}, r"largest = 1"),
        ("knights_knaves", {"people": [2, 9]}, r"people = \[2, 9\]"),
        ("knights_knaves", {"depth": 3}, r"depth = 3"),
        ("knights_knaves", {"depth": 0}, r"depth = 0"),
        ("linear_equations", {"unknowns": [0, 1]}, r"unknowns = \[0, 1\]"),
        ("linear_equations", {"coefficient": 0}, r"coefficient = 0"),
    ],
)
def test_impossible_arguments_are_refused(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(name, args)


def test_too_few_puzzles_of_two_people_are_said_to_be_too_few() -> None:
    with pytest.raises(TaskError, match=r"distinct problems were found with Adapter\(people=\(2, 2\), depth=1\)"):
        load_task("knights_knaves", {"people": [2, 2]}).problems("train", limit=500)
