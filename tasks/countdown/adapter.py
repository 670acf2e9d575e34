"""Countdown: numbers are drawn and combined at random, so that every target can be reached."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import model_validator

from rlvr.envs.tasks import Draft, DrawnOrRead
from rlvr.types import JSON, Problem


@dataclass(frozen=True, slots=True)
class Term:
    """A number, or an expression of several, with the steps that led to its value."""

    value: int
    text: str
    steps: tuple[str, ...] = ()


class Adapter(DrawnOrRead):
    """`numbers`: fewest and most numbers; `largest` of them; `target`: smallest and largest; `rows`: a local data set."""

    numbers: tuple[int, int]
    largest: int
    target: tuple[int, int]

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 2 <= self.numbers[0] <= self.numbers[1] <= 8:
            raise ValueError(f"numbers = {list(self.numbers)}, but fewest and most are needed, from 2 to 8")
        if self.largest < 2:
            raise ValueError(f"largest = {self.largest}, but it must be at least 2")
        if not 1 <= self.target[0] <= self.target[1]:
            raise ValueError(f"target = {list(self.target)}, but smallest and largest are needed, from 1")
        return self

    def draw(self, rng: random.Random) -> Draft | None:
        numbers = [rng.randint(1, self.largest) for _ in range(rng.randint(*self.numbers))]
        result = combine_all(numbers, rng)
        if not self.target[0] <= result.value <= self.target[1]:
            return None
        return Draft(
            _question(numbers, result.value),
            {"numbers": numbers, "target": result.value},
            content=f"{sorted(numbers)} = {result.value}",
            metadata={"solution": result.text, "steps": list(result.steps)},
        )

    def read(self, row: Mapping[str, JSON]) -> Draft:
        """Rows whose `answer` is {"numbers", "target"}, with an example of a solution in `meta` where there is one."""
        answer = row["answer"]
        solution = (row.get("meta") or {}).get("example_solution", "")
        return Draft(_question(answer["numbers"], answer["target"]), answer, metadata={"solution": solution, "steps": []})

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        return self.gold_response(problem)

    def gold_response(self, problem: Problem) -> str:
        steps = "\n".join(problem.metadata["steps"])
        return f"<think>\n{steps}\n</think>\n<answer>{problem.metadata['solution']}</answer>"


def _question(numbers: list[int], target: int) -> str:
    return (
        f"Use each of the numbers {', '.join(map(str, numbers))} exactly once, with +, -, *, / and parentheses, to write an "
        f"expression that equals {target}."
    )


def combine_all(numbers: list[int], rng: random.Random) -> Term:
    """Combine two random terms until one is left; every value on the way is a positive whole number."""
    terms = [Term(number, str(number)) for number in numbers]
    while len(terms) > 1:
        rng.shuffle(terms)
        terms.append(combine(terms.pop(), terms.pop(), rng))
    return terms[0]


def combine(left: Term, right: Term, rng: random.Random) -> Term:
    if left.value < right.value:
        left, right = right, left
    values = {"+": left.value + right.value, "*": left.value * right.value}
    if left.value > right.value:
        values["-"] = left.value - right.value
    if left.value % right.value == 0:
        values["/"] = left.value // right.value
    operator = rng.choice(sorted(values))
    step = f"{left.value} {operator} {right.value} = {values[operator]}"
    text = f"{_inside(left)} {operator} {_inside(right)}"
    return Term(values[operator], text, (*left.steps, *right.steps, step))


def _inside(term: Term) -> str:
    return f"({term.text})" if term.steps else term.text
