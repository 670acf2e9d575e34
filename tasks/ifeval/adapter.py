"""IFEval: the hub's rows (`key`, `prompt`, `instruction_id_list`, `kwargs`), or rows with `prompt` and `constraints`."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader
from rlvr.errors import ConfigError
from rlvr.types import JSON, Problem
from rlvr.verifiers.instruction.registry import read_constraints
from rlvr.verifiers.instruction.satisfy import satisfy


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        names = ("constraints",) if "constraints" in row else ("instruction_id_list", "kwargs")
        row_id = row.get("id") or (f"ifeval/{row['key']}" if "key" in row else None)
        return Draft(row["prompt"], {name: row[name] for name in names}, id=row_id)

    def gold_response(self, problem: Problem) -> str | None:
        """A text that follows the constraints, whatever the prompt asks for; None where none was found."""
        try:
            return satisfy(read_constraints(problem.answer))
        except ConfigError:
            return None  # what is wrong with the row is the verifier's to say
