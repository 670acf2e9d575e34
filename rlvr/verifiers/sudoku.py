"""`sudoku`: a completed grid, checked by the rules, for a puzzle may have several solutions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isqrt

from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import Extract, find_answer

MAX_GRID_CHARS = 4_000
MAX_SHOWN_CHARS = 400

_SIZES = {16: 4, 81: 9}
_FRAME = re.compile(r"\\(?:hline|begin\{[a-z]{1,12}\}|end\{[a-z]{1,12}\}|\\)|[\s|+\-_=,;&\[\]()\"'`]")
_LINE_LABEL = re.compile(r"^\s{0,8}(?:row|r)\s{0,2}\d{1,2}\s{0,2}[:.)]", re.IGNORECASE | re.MULTILINE)


@verifier("sudoku", isolated=False)
def sudoku(problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False) -> Verdict:
    """Correct when the answer is a whole grid that keeps the puzzle's digits, with every digit once in each row, column and box.

    4x4 and 9x9. The puzzle is read from `metadata["puzzle"]`, else from the gold answer `{"puzzle": ...}`: digits in reading
    order, 0 or a dot for an empty cell. The response's grid may be drawn with bars, brackets or commas. Outside strict mode, and
    without a tag or box, the last lines of the answer that form a grid are read.
    """
    puzzle = puzzle_of(problem)
    if puzzle is None:
        return Verdict.error(f"{problem.id} has no puzzle of 16 or 81 cells with at least one empty, in metadata or answer")
    size = _SIZES[len(puzzle)]
    found = find_answer(rollout.response, extract, strict=strict, auto=("answer_tag", "boxed", "whole"))
    if found.text is None:
        return Verdict.unparsed(found.reason)
    if found.is_ambiguous:
        return Verdict.incorrect(found.text[:MAX_SHOWN_CHARS], found.reason)
    cells = read_grid(found.text, size)
    if cells is None and found.rule == "whole" and not strict:
        cells = _last_grid(found.text, size)
    if cells is None:
        return Verdict.unparsed(f"no grid of {size} x {size} digits in {found.text[:80]!r}")
    shown = "\n".join("".join(map(str, cells[row * size : (row + 1) * size])) for row in range(size))
    fault = broken_rule(puzzle, cells)
    return Verdict.correct(shown) if fault is None else Verdict.incorrect(shown, fault)


def puzzle_of(problem: Problem) -> tuple[int, ...] | None:
    """The puzzle's cells in reading order, 0 where empty."""
    answer = problem.answer
    for text in (problem.metadata.get("puzzle"), answer.get("puzzle") if isinstance(answer, Mapping) else None):
        if isinstance(text, str):
            digits = "".join(text.split()).replace(".", "0")
            is_puzzle = len(digits) in _SIZES and digits.isascii() and digits.isdigit() and "0" in digits
            if is_puzzle and max(map(int, digits)) <= _SIZES[len(digits)]:
                return tuple(map(int, digits))
    return None


def read_grid(text: str, size: int) -> tuple[int, ...] | None:
    """The grid that `text` is, drawn in whichever way; None if anything else stands in it.

    >>> read_grid("[[1,2],[2,1]]", 2)
    (1, 2, 2, 1)
    """
    if len(text) > MAX_GRID_CHARS:
        return None
    digits = _FRAME.sub("", _LINE_LABEL.sub("", text))
    if len(digits) != size * size or not (digits.isascii() and digits.isdigit()):
        return None
    cells = tuple(map(int, digits))
    return cells if min(cells) >= 1 and max(cells) <= size else None


def broken_rule(puzzle: Sequence[int], cells: Sequence[int]) -> str | None:
    """What is wrong with a completed grid, in words."""
    size = isqrt(len(cells))
    box = isqrt(size)
    changed = next((i for i, given in enumerate(puzzle) if given and cells[i] != given), None)
    if changed is not None:
        return f"row {changed // size + 1}, column {changed % size + 1} was given as {puzzle[changed]}"
    units: dict[str, list[int]] = {}
    for index, digit in enumerate(cells):
        row, column = divmod(index, size)
        for unit in (f"row {row + 1}", f"column {column + 1}", f"box {row // box * box + column // box + 1}"):
            units.setdefault(unit, []).append(digit)
    broken = next((unit for unit, digits in units.items() if len(set(digits)) < size), None)
    return None if broken is None else f"{broken} has a digit twice"


def _last_grid(text: str, size: int) -> tuple[int, ...] | None:
    rows: list[JSON] = []
    grid: list[JSON] = []
    for line in text[-MAX_GRID_CHARS:].splitlines():
        digits = _FRAME.sub("", _LINE_LABEL.sub("", line))
        if not digits:
            continue  # a ruler, or an empty line inside the grid
        is_row = len(digits) == size and digits.isascii() and digits.isdigit()
        rows = [*rows, digits] if is_row else []
        if len(rows) == size:
            grid, rows = rows, []
    return read_grid("".join(grid), size) if grid else None
