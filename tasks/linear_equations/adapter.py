"""Systems of linear equations: the solution is drawn first, then coefficients that determine it."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Annotated

from pydantic import Field, model_validator

from rlvr.envs.tasks import Draft, Generator
from rlvr.envs.tasks.adapter import MAX_VARIED
from rlvr.types import Problem

NAMES = ("x", "y", "z")
Row = list[Fraction]  # the coefficients, then the right-hand side
Positive = Annotated[int, Field(ge=1)]


class Adapter(Generator):
    """`unknowns`: fewest and most; `coefficient`, `value`: largest size; `denominator`: largest, 1 for whole numbers."""

    unknowns: tuple[int, int]
    coefficient: Positive
    value: Positive
    denominator: Positive

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 1 <= self.unknowns[0] <= self.unknowns[1] <= len(NAMES):
            raise ValueError(f"unknowns = {list(self.unknowns)}, but fewest and most are needed, from 1 to {len(NAMES)}")
        return self

    def draw(self, rng: random.Random) -> Draft | None:
        count = rng.randint(*self.unknowns)
        solution = [Fraction(rng.randint(-self.value, self.value), rng.randint(1, self.denominator)) for _ in range(count)]
        rows = [self._row(solution, rng) for _ in range(count)]
        if solve(rows)[0] is None:
            return None
        names = NAMES[:count]
        shown = [written(row) for row in rows] if count > 1 else [self._on_both_sides(rows[0], rng)]
        task = f"Solve for {', '.join(names)}:" if count > 1 else "Solve for x:"
        return Draft(
            "\n".join([task, *shown]),
            {name: str(value) for name, value in zip(names, solution, strict=True)},
            content=str(sorted(shown)),
            metadata={"equations": [[int(number) for number in row] for row in rows]},
        )

    def vary(self, problem: Problem, rng: random.Random) -> Draft | None:
        """As many unknowns, with other coefficients and another solution; signs may change, too."""
        for _ in range(MAX_VARIED):
            draft = self.draw(rng)
            if draft is not None and draft.answer.keys() == problem.answer.keys():
                return draft
        return None

    def _row(self, solution: list[Fraction], rng: random.Random) -> Row:
        coefficients = [Fraction(rng.randint(-self.coefficient, self.coefficient)) for _ in solution]
        right = sum((a * x for a, x in zip(coefficients, solution, strict=True)), Fraction(0))
        return [number * right.denominator for number in (*coefficients, right)]

    def _on_both_sides(self, row: Row, rng: random.Random) -> str:
        """One equation in one unknown is too easy and too rare as `5x = -10`, so x and a constant stand on both sides."""
        coefficient, right = row
        more_x, more = rng.randint(-self.coefficient, self.coefficient), rng.randint(-self.value, self.value)
        return f"{_side([coefficient + more_x], Fraction(more))} = {_side([Fraction(more_x)], right + more)}"

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        return self.gold_response(problem)

    def gold_response(self, problem: Problem) -> str:
        _, steps = solve([[Fraction(number) for number in row] for row in problem.metadata["equations"]])
        if len(problem.answer) == 1:
            steps = [f"Collect: {written([Fraction(number) for number in problem.metadata['equations'][0]])}", *steps]
        worked = "\n".join(steps)
        values = ", ".join(f"{name} = {value}" for name, value in problem.answer.items())
        return f"<think>\n{worked}\n</think>\n<answer>{values}</answer>"


def solve(rows: list[Row]) -> tuple[list[Fraction] | None, list[str]]:
    """Gauss-Jordan elimination: the one solution, or None if there is none or more than one; and the working."""
    rows, steps = [list(row) for row in rows], []
    for column in range(len(rows)):
        pivot = next((i for i in range(column, len(rows)) if rows[i][column] != 0), None)
        if pivot is None:
            return None, steps
        if pivot != column:
            rows[column], rows[pivot] = rows[pivot], rows[column]
            steps.append(f"Swap equations {column + 1} and {pivot + 1}.")
        scale = rows[column][column]
        if scale != 1:
            rows[column] = [number / scale for number in rows[column]]
            steps.append(f"Divide equation {column + 1} by {scale}: {written(rows[column])}")
        for i in range(len(rows)):
            factor = rows[i][column]
            if i != column and factor != 0:
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
                steps.append(f"Subtract {factor} times equation {column + 1} from equation {i + 1}: {written(rows[i])}")
    return [row[-1] for row in rows], steps


def written(row: Row) -> str:
    """`[2, -1, 3]` is `2x - y = 3`."""
    return f"{_side(row[:-1], Fraction(0))} = {row[-1]}"


def _side(coefficients: Row, constant: Fraction) -> str:
    terms = [(number, name) for number, name in zip(coefficients, NAMES, strict=False) if number != 0]
    terms += [(constant, "")] if constant != 0 or not terms else []
    first, *others = [(number < 0, _term(abs(number), name)) for number, name in terms]
    text = f"-{first[1]}" if first[0] else first[1]
    return text + "".join(f" - {term}" if is_negative else f" + {term}" for is_negative, term in others)


def _term(size: Fraction, name: str) -> str:
    if not name:
        return str(size)
    return name if size == 1 else f"{size}{name}" if size.denominator == 1 else f"({size}){name}"
