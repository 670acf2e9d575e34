"""`check_health_rule`: what every rule must do, tried on runs that never were, for pytest."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.errors import PluginError, boundary
from rlvr.evaluation.health.rules import HeldOut, History, Row, Rule
from rlvr.evaluation.health.settings import build_rule

MAX_WORDS = 500  # characters


def check_health_rule(
    rule: Rule | Callable[..., Rule] | str,
    *,
    sick: Sequence[Row],
    well: Sequence[Row],
    held_out: Sequence[HeldOut] = (),
    thresholds: Mapping[str, Any] | None = None,
) -> str:
    """Try a rule (an object, what makes one, or a plugin's name or reference), and return what it says of the sick run.

    `sick` and `well` are rows of `metrics.jsonl`, of a run in which it must speak by the end and of one in which it must not. It
    must also be silent before the first step and where its metrics were not written; take a run with gaps without an error; say
    the same of the same run; leave the run as it is; and say it in words that fit on a line or two.

    Raises:
        AssertionError: lists what is wrong.
        ConfigError, PluginError: the rule cannot be made.
    """
    made = _made(rule, thresholds or {})
    wrong: list[str] = []
    rows = [{"step": float(step), **row} for step, row in enumerate(sick, start=1)]
    healthy = [{"step": float(step), **row} for step, row in enumerate(well, start=1)]
    shown = copy.deepcopy(rows)
    said = _asked(made, History(shown, held_out), "the sick run", wrong)
    if said is None:
        wrong.append("it is silent about the sick run")
    elif not isinstance(said, str) or not said.strip() or len(said) > MAX_WORDS or "\n" in said:
        wrong.append(f"what it says is no sentence of at most {MAX_WORDS} characters in one line: {said!r}")
    bare = [{"step": row["step"]} for row in rows]
    gaps = [row if index % 2 else {"step": row["step"]} for index, row in enumerate(rows)]
    for what, history in {
        "the run that is well": History(healthy, held_out),
        "a run before its first step": History([]),
        "a run whose metrics were not written": History(bare),
    }.items():
        if (other := _asked(made, history, what, wrong)) is not None:
            wrong.append(f"it speaks of {what}: {other!r}")
    for what, history in {
        "a run of one step": History(copy.deepcopy(rows[:1])),
        "a run with gaps": History(copy.deepcopy(gaps), held_out),
    }.items():
        _asked(made, history, what, wrong)
    if _asked(made, History(copy.deepcopy(rows), held_out), "the sick run, asked again", wrong) != said:
        wrong.append("asked again about the same run, it says something else")
    if not _equal(shown, rows):
        wrong.append("it changes the rows that it is shown")
    if wrong:
        listed = "\n".join(f"- {line}" for line in wrong)
        raise AssertionError(f"health rule {rule!r} breaks {len(wrong)} of its rules:\n{listed}")
    return str(said)


def _made(rule: Rule | Callable[..., Rule] | str, thresholds: Mapping[str, Any]) -> Rule:
    if isinstance(rule, str):
        return build_rule(rule, thresholds)
    if not isinstance(rule, type) and callable(getattr(rule, "check", None)):
        return rule  # type: ignore[return-value]
    if not callable(rule):
        raise PluginError(f"{rule!r} is no health rule: it has no check(history)")
    with boundary(PluginError, f"health rule {rule!r} failed to be made of {dict(thresholds)}"):
        made = rule(**thresholds)
    if not callable(getattr(made, "check", None)) or not isinstance(getattr(made, "signal", None), str):
        raise PluginError(f"{made!r} is no health rule: a rule has check(history) and a signal (a metric's name)")
    return made


def _asked(rule: Rule, history: History, what: str, wrong: list[str]) -> str | None:
    try:
        with boundary(PluginError, f"it raises on {what}"):
            return rule.check(history)
    except PluginError as error:
        wrong.append(str(error))
        return None


def _equal(one: Sequence[Row], other: Sequence[Row]) -> bool:
    """NaN is equal to itself here."""
    return len(one) == len(other) and all(
        left.keys() == right.keys()
        and all(left[key] == right[key] or (math.isnan(left[key]) and math.isnan(right[key])) for key in left)
        for left, right in zip(one, other, strict=True)
    )
