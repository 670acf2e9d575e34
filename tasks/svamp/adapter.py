"""SVAMP: rows with `Body`, `Question`, `Answer` and `ID`, or rows with `prompt` and `answer`."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader, first_of
from rlvr.types import JSON


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        answer = first_of(row, "Answer", "answer")
        if "Body" not in row:
            return Draft(first_of(row, "prompt"), answer)
        prompt = f"{row['Body'].rstrip(' .')}. {row['Question'].strip()}"
        return Draft(prompt, None if answer is None else _plain(float(answer)), id=f"svamp/{row['ID']}")


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() else str(number)
