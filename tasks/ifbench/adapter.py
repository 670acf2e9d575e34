"""IFBench: the hub's rows (`key`, `prompt`, `instruction_id_list`, `kwargs`), or rows with `prompt` and `constraints`."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader
from rlvr.types import JSON


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft:
        names = ("constraints",) if "constraints" in row else ("instruction_id_list", "kwargs")
        row_id = row.get("id") or (f"ifbench/{row['key']}" if "key" in row else None)
        return Draft(row["prompt"], {name: row[name] for name in names}, id=row_id)
