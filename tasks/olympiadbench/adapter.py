"""OlympiadBench: the hub's rows (`question`, `final_answer` as a list), or rows with `prompt` and `answer`.

Rows marked `auto_verifiable = false` in `meta` (prose, answers in several parts) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.envs.tasks import Draft, RowReader, first_of
from rlvr.types import JSON


class Adapter(RowReader):
    """No arguments."""

    def read(self, row: Mapping[str, JSON]) -> Draft | None:
        meta = row.get("meta") or {}
        if meta.get("auto_verifiable") is False:
            return None
        finals = row.get("final_answer") or [row.get("answer")]
        row_id = first_of(row, "id")
        return Draft(
            first_of(row, "question", "prompt"),
            # Golds come with dollars around each answer; the box that they are compared with holds none.
            (finals[0] or "").replace("$", "").strip(),
            id=row_id if isinstance(row_id, str) else f"olympiadbench/{row_id}",
            metadata={"subfield": first_of(meta.get("orig", row), "subfield")},
        )
