"""GSM8K: the hub's rows (`question`, `answer` with the working and `#### 72`), or rows with `prompt`, `answer` and the working in
`meta.orig.answer`."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader, first_of
from rlvr.types import JSON, Problem

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        working, mark, final = str(_full_answer(row)).partition("####")
        answer = final if mark else str(row.get("answer") or "")
        metadata = {"working": _CALCULATOR_MARK.sub("", working).strip()} if mark else {}
        return Draft(first_of(row, "question", "prompt"), answer.strip().replace(",", ""), metadata=metadata)

    def demonstrate(self, problem: Problem, rng: random.Random) -> str | None:
        working = problem.metadata.get("working")
        return f"{working}\nThe answer is \\boxed{{{problem.answer}}}." if working else None


def _full_answer(row: Mapping[str, JSON]) -> JSON:
    original = (row.get("meta") or {}).get("orig") or {}
    return first_of(original, "answer") or row.get("answer") or ""
