r"""MATH: rows with `problem`, `solution` and, in MATH-500, `answer`; elsewhere the answer is what the solution boxes last."""

from __future__ import annotations

import random
from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader, first_of
from rlvr.types import JSON, Problem


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        original = {**row, **((row.get("meta") or {}).get("orig") or {})}
        solution = first_of(original, "solution") or ""
        unique_id = first_of(original, "unique_id")
        details = {"subject": first_of(original, "subject", "type"), "level": first_of(original, "level"), "solution": solution}
        return Draft(
            first_of(row, "problem", "prompt"),
            first_of(row, "answer") or last_boxed(solution),
            id=row.get("id") or (f"math/{unique_id}" if unique_id else None),
            metadata={key: value for key, value in details.items() if value},
        )

    def demonstrate(self, problem: Problem, rng: random.Random) -> str | None:
        solution: str = problem.metadata.get("solution", "")
        return solution if last_boxed(solution) == problem.answer else None


def last_boxed(text: str) -> str:
    r"""What stands in the last \boxed{} or \fbox{} of a solution, or after `\boxed ` up to the end of the formula; else ''.

    >>> last_boxed(r"so $x = \boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> last_boxed(r"there are $\boxed 7$ ways")
    '7'
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return ""
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth = 0
    for position, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:position].strip()
    return ""
