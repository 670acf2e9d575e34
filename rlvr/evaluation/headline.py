"""The short table of a run: what was measured before and after, row by row, ready to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.evaluation.statistics import is_finite_number
from rlvr.types import JSON


@dataclass(frozen=True, slots=True)
class Cell:
    """A number and its interval, where it has one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Shares are in [0, 1]; other rows are counts of tokens."""

    label: str
    is_share: bool
    before: Cell | None
    after: Cell | None
    gain: Cell | None

    def texts(self) -> tuple[str, str, str]:
        """before, after (percent or tokens) and gain (points or tokens) as text; empty where nothing was measured."""
        return self._text(self.before), self._text(self.after), self._text(self.gain, is_gain=True)

    def _text(self, cell: Cell | None, *, is_gain: bool = False) -> str:
        if cell is None:
            return ""
        scale = 100.0 if self.is_share else 1.0
        style = "+.1f" if is_gain else ".1f"
        unit = " %" if self.is_share and not is_gain else ""
        text = f"{f'{cell.mean * scale:{style}}':>5}{unit}"
        if cell.low is None or cell.high is None:
            return text
        return f"{text} [{cell.low * scale:{style}}, {cell.high * scale:{style}}]"


def headline(summary: Mapping[str, JSON]) -> list[Row]:
    """Rows of `summary.json`: pass@k, greedy, further sets, lengths, shares. Whatever is missing is left out."""
    before, after, gains = (_section(summary, name) for name in ("before", "after", "gain"))
    rows = [_row(name, name, before, after, gains) for name in _pass_names(before, after)]
    rows += [_row("greedy", "greedy", before, after, gains)]
    for extra, measured in _section(summary, "extra").items():
        parts = [_section(measured, name) for name in ("before", "after", "gain")]
        rows += [_row(f"{extra}: {name}", name, *parts) for name in [*_pass_names(*parts[:2]), "greedy"]]
    rows += [
        _row("length, tokens", "tokens", before, after, gains, is_share=False),
        _row("truncated", "truncated_share", before, after, gains),
        _row("rollouts with a useful call", "useful_call_share", before, after, gains),
        _row("unscored", "unscored_share", before, after, gains),
    ]
    return [row for row in rows if row.before is not None or row.after is not None]


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (4.2, 252, 8000)]
    ['4.2 s', '4 min 12 s', '2 h 13 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _section(parent: Any, name: str) -> dict[str, Any]:
    value = parent.get(name) if isinstance(parent, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _pass_names(*sections: Mapping[str, Any]) -> list[str]:
    names = {name for section in sections for name in section if name.startswith("pass@") and name[5:].isdigit()}
    return sorted(names, key=lambda name: int(name[5:]))


def _row(
    label: str,
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    gains: Mapping[str, Any],
    *,
    is_share: bool = True,
) -> Row:
    old, new, gain = _cell(before.get(name)), _cell(after.get(name)), _cell(gains.get(name))
    if gain is None and old is not None and new is not None:
        gain = Cell(new.mean - old.mean)
    return Row(label, is_share, old, new, gain)


def _cell(value: Any) -> Cell | None:
    if is_finite_number(value):
        return Cell(value)
    if not isinstance(value, Mapping) or not is_finite_number(value.get("mean")):
        return None
    low, high = (value[end] if is_finite_number(value.get(end)) else None for end in ("low", "high"))
    return Cell(value["mean"], low, high)
