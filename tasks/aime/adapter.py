"""AIME: rows with `problem` (or `prompt`) and an integer `answer`, written as 7, "7" or "007"."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader, first_of
from rlvr.types import JSON


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        answer = first_of(row, "answer")
        return Draft(first_of(row, "problem", "prompt"), None if answer is None else str(int(answer)))
