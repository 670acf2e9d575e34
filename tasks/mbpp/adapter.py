"""MBPP: the hub's rows (`task_id`, `text`, `code`, `test_list`, `test_setup_code`, `challenge_test_list`), or rows with `prompt`,
`tests` and `meta.orig`."""

from __future__ import annotations

import random
from collections.abc import Mapping

from pydantic import Field

from rlvr.envs.tasks import Draft, RowReader, first_of
from rlvr.types import JSON, Problem


class Adapter(RowReader):
    """`shown`: how many of the tests stand in the prompt. Without one, nobody knows what the function is called."""

    shown: int = Field(default=1, ge=1)

    def read(self, row: Mapping[str, JSON]) -> Draft:
        original = (row.get("meta") or {}).get("orig") or row
        tests = row.get("tests") or {
            "type": "asserts",
            "setup": row.get("test_setup_code") or "",
            "asserts": list(row["test_list"]),
            "challenge": list(row.get("challenge_test_list") or ()),
        }
        shown = tests["asserts"][: self.shown]
        what = "this test" if len(shown) == 1 else "these tests"
        listed = "\n".join(shown)
        solution = original.get("code")
        return Draft(
            f"{first_of(row, 'text', 'prompt').strip()}\n\nYour code must pass {what}:\n\n```python\n{listed}\n```",
            {"tests": {**tests, "public": len(shown)}},
            id=row.get("id") or f"mbpp/{int(row['task_id']):03d}",
            metadata={"solution": solution.replace("\r\n", "\n")} if solution else {},
        )

    def demonstrate(self, problem: Problem, rng: random.Random) -> str | None:
        solution = problem.metadata.get("solution")
        return f"```python\n{solution.strip()}\n```" if solution else None
