"""Problems of Google's Coding Competitions Archive: rows with `prompt` and `tests`, a program's inputs and outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader
from rlvr.types import JSON, Problem


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        meta = row.get("meta") or {}
        about = {key: meta[key] for key in ("name", "contest", "time_limits_s") if key in meta}
        return Draft(row["prompt"], {"tests": row["tests"]}, id=row.get("id"), metadata=about)

    def gold_response(self, problem: Problem) -> str | None:
        """The archive has no programs, only their outputs: a program that looks them up passes if the tests can be passed."""
        cases = problem.answer["tests"]["cases"]
        answers = {hashlib.sha256(case["input"].encode()).hexdigest(): case["output"] for case in cases}
        return (
            f"```python\nimport hashlib, sys\n\nanswers = {answers!r}\n"
            "sys.stdout.write(answers[hashlib.sha256(sys.stdin.buffer.read()).hexdigest()])\n```"
        )
