"""Evaluations side by side, as `rlvr eval` with several models and `rlvr compare` print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlvr.cli.fitting import Fitting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.evaluation.comparison import Study, TokenMatch
    from rlvr.evaluation.export import Line


def study_table(study: Study, k: Sequence[int]) -> RenderableType:
    """One column for each evaluation, one row for each estimate; then what may be claimed, and what to know before."""
    from rich.console import Group
    from rich.text import Text

    from rlvr.evaluation.export import lines
    from rlvr.evaluation.printable import printable

    parts: list[RenderableType] = []
    for task in dict.fromkeys(one.task for one in study.evaluations):
        group = [one for one in study.evaluations if one.task == task]
        columns = [{line.metric: line for line in lines(one, k)} for one in group]
        tables = [_estimates([printable(one.label) for one in group], columns, is_narrow=narrow) for narrow in (False, True)]
        sizes = " / ".join(f"{len(one.samples)} x {one.n}" for one in group)
        # Two sets of arguments of one task are told apart by all of them.
        is_clear = len({one.task for one in study.evaluations if one.title == group[0].title}) == 1
        title = printable(group[0].title if is_clear else task)
        parts += ["", Text(f"{title}: {sizes} problems x samples", style="bold"), Fitting(*tables)]
    if study.matched:
        parts += ["", Text("at equal tokens", style="bold"), Fitting(_matched(study.matched), _matched_lines(study.matched))]
    claims = [(one.sentence, one.p < 0.05) for one in study.comparisons] + [
        (one.sentence, one.p < 0.05) for one in study.templates
    ]
    parts += ["", *(Text(printable(text), style="bold" if is_claim else "") for text, is_claim in claims)]
    parts += [
        Text("[ ] 95 % interval over problems", style="dim"),
        *(Text(printable(note), style="yellow") for note in study.notes),
    ]
    return Group(*parts)


def _estimates(labels: Sequence[str], columns: Sequence[Mapping[str, Line]], *, is_narrow: bool) -> RenderableType:
    """A column for each evaluation; narrow ones have the interval below the value."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for label in labels:
        table.add_column(label, no_wrap=not is_narrow, overflow="fold")
    for name in dict.fromkeys(metric for column in columns for metric in column):
        table.add_row(name, *(_cell(column.get(name), "\n " if is_narrow else " ") for column in columns))
    return table


def _cell(line: Line | None, before_interval: str) -> str:
    if line is None:
        return ""
    if line.metric == "tokens":
        return f"{line.mean:.1f}"
    if line.low is None or line.high is None:
        return f"{line.mean:6.1%}"
    digits = 0 if "\n" in before_interval else 1
    return f"{line.mean:6.1%}{before_interval}[{line.low:.{digits}%}, {line.high:.{digits}%}]"


def _matched_lines(matched: Sequence[TokenMatch]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from rlvr.evaluation.paired import p_text
    from rlvr.evaluation.printable import printable

    lines = []
    for one in matched:
        found = one.test.difference
        lines.append(
            f"{one.tokens:,.0f} tokens a problem: {printable(one.base)} {one.base_value:.1%} ({one.base_k:.1f} samples), "
            f"{printable(one.other)} {one.other_value:.1%} ({one.other_k:.1f}): {found.mean * 100:+.1f} points "
            f"[{found.low * 100:+.1f}, {found.high * 100:+.1f}], {p_text(one.test.p)}"
        )
    return Group(*map(Text, lines))


def _matched(matched: Sequence[TokenMatch]) -> RenderableType:
    from rich.table import Table

    from rlvr.evaluation.paired import p_text
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
        table.add_row(f"{one.tokens:,.0f}", sides, gain, p_text(one.test.p).removeprefix("p ").removeprefix("= "))
    return table
