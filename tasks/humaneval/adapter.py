"""HumanEval: the hub's rows (`task_id`, `prompt`, `canonical_solution`, `test`, `entry_point`), or rows with `prompt`, `tests`
and `meta.orig`."""

from __future__ import annotations

import random
from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader
from rlvr.types import JSON, Problem


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        original = (row.get("meta") or {}).get("orig") or row
        source = row["prompt"]
        given = row.get("tests") or {"entry_point": row["entry_point"], "code": row["test"]}
        # The prompt belongs to the tests: some compare with a helper that stands in it.
        tests = {"type": "humaneval", "entry_point": given["entry_point"], "code": given["code"], "prompt": source}
        solution = original.get("canonical_solution")
        return Draft(
            f"```python\n{source.strip()}\n```",
            {"tests": tests},
            id=str(row.get("id") or row["task_id"]).lower(),
            metadata={"solution": source + solution} if solution else {},
        )

    def demonstrate(self, problem: Problem, rng: random.Random) -> str | None:
        solution = problem.metadata.get("solution")
        return f"```python\n{solution.strip()}\n```" if solution else None
