"""Sudoku: a full grid by a random search, and cells taken out of it as long as the solution stays unique."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from typing import Literal

from pydantic import model_validator

from rlvr.envs.tasks import Draft, DrawnOrRead
from rlvr.types import JSON, Problem

MOST_EMPTY = {4: 12, 9: 55}  # a 9x9 puzzle with fewer than 17 digits is never unique; with few it takes long to find


class Adapter(DrawnOrRead):
    """`size`: 4 or 9; `empty`: fewest and most empty cells; `unique`: with one solution only; `rows`: local data."""

    size: Literal[4, 9]
    empty: tuple[int, int]
    unique: bool

    @model_validator(mode="after")
    def _is_possible(self) -> Adapter:
        if not 1 <= self.empty[0] <= self.empty[1] <= MOST_EMPTY[self.size]:
            raise ValueError(f"empty = {list(self.empty)}, but fewest and most are needed, from 1 to {MOST_EMPTY[self.size]}")
        return self

    def draw(self, rng: random.Random) -> Draft | None:
        order = list(range(1, self.size + 1))
        rng.shuffle(order)
        solution = next(solutions([0] * self.size**2, order=order, rng=rng))
        puzzle = list(solution)
        wanted = rng.randint(*self.empty)
        for cell in rng.sample(range(len(puzzle)), len(puzzle)):
            if puzzle.count(0) == wanted:
                break
            puzzle[cell] = 0
            if self.unique and not has_one_solution(puzzle):
                puzzle[cell] = solution[cell]
        if puzzle.count(0) < wanted:
            return None
        return Draft(
            _question(puzzle),
            {"puzzle": _text(puzzle), "solution": _text(solution)},
            content=f"{self.size} {_relabelled(puzzle)}",
            metadata={"puzzle": _text(puzzle)},
        )

    def vary(self, problem: Problem, rng: random.Random) -> Draft | None:
        """The same puzzle with its digits renamed; it has as many solutions as before."""
        names = list(range(1, self.size + 1))
        rng.shuffle(names)
        puzzle, solution = ([int(digit) for digit in problem.answer[part]] for part in ("puzzle", "solution"))
        puzzle, solution = ([names[digit - 1] if digit else 0 for digit in digits] for digits in (puzzle, solution))
        return Draft(
            _question(puzzle),
            {"puzzle": _text(puzzle), "solution": _text(solution)},
            content=f"{self.size} {_relabelled(puzzle)}",
            metadata={"puzzle": _text(puzzle)},
        )

    def read(self, row: Mapping[str, JSON]) -> Draft:
        """Rows with `puzzle` (or upstream's `Puzzle` under meta.orig) and the solution as `answer`."""
        original = row["meta"]["orig"] if "puzzle" not in row else {"Puzzle": row["puzzle"]}
        puzzle = [int(digit) for digit in original["Puzzle"]]
        return Draft(_question(puzzle), {"puzzle": _text(puzzle), "solution": row["answer"]}, metadata={"puzzle": _text(puzzle)})

    def gold_response(self, problem: Problem) -> str:
        return f"<answer>\n{_drawn([int(digit) for digit in problem.answer['solution']])}\n</answer>"


def solutions(puzzle: Sequence[int], *, order: Sequence[int] = (), rng: random.Random | None = None) -> Iterator[list[int]]:
    """All completions, by trying the cell with the fewest candidates; `order` and `rng` decide which comes first."""
    cells = list(puzzle)
    size = isqrt(len(cells))
    digits = order or range(1, size + 1)

    def search() -> Iterator[list[int]]:
        open_cells = [cell for cell, digit in enumerate(cells) if digit == 0]
        if not open_cells:
            yield list(cells)
            return
        choices = {cell: [digit for digit in digits if digit not in _seen(cells, cell, size)] for cell in open_cells}
        cell = min(choices, key=lambda cell: len(choices[cell]))
        if rng is not None:
            rng.shuffle(choices[cell])
        for digit in choices[cell]:
            cells[cell] = digit
            yield from search()
        cells[cell] = 0

    return search()


def has_one_solution(puzzle: Sequence[int]) -> bool:
    found = solutions(puzzle)
    return next(found, None) is not None and next(found, None) is None


def _seen(cells: Sequence[int], cell: int, size: int) -> set[int]:
    """The digits in the row, column and box of a cell."""
    row, column = divmod(cell, size)
    box = isqrt(size)
    top, left = row - row % box, column - column % box
    inside = (cells[(top + i) * size + left + j] for i in range(box) for j in range(box))
    return {*cells[row * size : (row + 1) * size], *cells[column::size], *inside}


def _relabelled(puzzle: Sequence[int]) -> str:
    """The puzzle with its digits renamed in the order they first occur: equal for puzzles that differ in names alone."""
    names: dict[int, int] = {0: 0}
    return "".join(str(names.setdefault(digit, len(names))) for digit in puzzle)


def _question(puzzle: Sequence[int]) -> str:
    size = isqrt(len(puzzle))
    box = isqrt(size)
    return (
        f"Fill the empty cells (dots) of this {size}x{size} sudoku, so that every row, every column and every {box}x{box} box "
        f"holds each digit from 1 to {size} once.\n\n{_drawn(puzzle)}"
    )


def _drawn(cells: Sequence[int]) -> str:
    size = isqrt(len(cells))
    rows = (cells[row * size : (row + 1) * size] for row in range(size))
    return "\n".join(" ".join(str(digit) if digit else "." for digit in row) for row in rows)


def _text(cells: Sequence[int]) -> str:
    return "".join(map(str, cells))
