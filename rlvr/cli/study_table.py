"""Evaluations side by side, as `rlvr eval` with several models and `rlvr compare` print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.evaluation.comparison import Study, TokenMatch
    from rlvr.evaluation.export import Line


def study_table(study: Study, k: Sequence[int]) -> RenderableType:
    """One column for each evaluation, one row for each estimate; then what may be claimed, and what to know before."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rlvr.evaluation.export import lines
    from rlvr.evaluation.printable import printable

    parts: list[RenderableType] = []
    for task in dict.fromkeys(one.task for one in study.evaluations):
        group = [one for one in study.evaluations if one.task == task]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        table.add_column("", no_wrap=True)
        for one in group:
            table.add_column(printable(one.label), no_wrap=True)
        columns = [{line.metric: line for line in lines(one, k)} for one in group]
        for name in dict.fromkeys(metric for column in columns for metric in column):
            table.add_row(name, *(_cell(column.get(name)) for column in columns))
        sizes = " / ".join(f"{len(one.samples)} x {one.n}" for one in group)
        # Two sets of arguments of one task are told apart by all of them.
        is_clear = len({one.task for one in study.evaluations if one.title == group[0].title}) == 1
        title = printable(group[0].title if is_clear else task)
        parts += ["", Text(f"{title}: {sizes} problems x samples", style="bold"), table]
    if study.matched:
        parts += ["", Text("at equal tokens", style="bold"), _matched(study.matched)]
    claims = [(one.sentence, one.p < 0.05) for one in study.comparisons] + [
        (one.sentence, one.p < 0.05) for one in study.templates
    ]
    parts += ["", *(Text(printable(text), style="bold" if is_claim else "") for text, is_claim in claims)]
    parts += [
        Text("[ ] 95 % interval over problems", style="dim"),
        *(Text(printable(note), style="yellow") for note in study.notes),
    ]
    return Group(*parts)


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    if line.metric == "tokens":
        return f"{line.mean:.1f}"
    interval = "" if line.low is None or line.high is None else f" [{line.low:.1%}, {line.high:.1%}]"
    return f"{line.mean:6.1%}{interval}"


def _matched(matched: Sequence[TokenMatch]) -> RenderableType:
    from rich.table import Table

    from rlvr.evaluation.printable import printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for title in ("tokens a problem", "", "difference in points", "p"):
        table.add_column(title, no_wrap=True)
    for one in matched:
        found = one.test.difference
        sides = ", ".join(
            f"{printable(label)} {value:.1%} ({k:.1f} samples)"
            for label, value, k in ((one.base, one.base_value, one.base_k), (one.other, one.other_value, one.other_k))
        )
        gain = f"{found.mean * 100:+.1f} [{found.low * 100:+.1f}, {found.high * 100:+.1f}]"
        table.add_row(f"{one.tokens:,.0f}", sides, gain, f"{one.test.p:.3f}")
    return table
