"""Watches a run by its rules, while it trains and afterwards. A rule speaks when it begins to hold, not at every step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import PluginError, boundary
from rlvr.evaluation.health.rules import HeldOut, History, Row
from rlvr.evaluation.health.settings import HealthSettings
from rlvr.evaluation.statistics import is_finite_number
from rlvr.types import JSON


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule said after `step`, and the rollouts that show it."""

    rule: str
    step: int
    words: str
    rollouts: tuple[str, ...] = ()
    stops: bool = False

    @property
    def sentence(self) -> str:
        shown = f" (see {'; '.join(self.rollouts)})" if self.rollouts else ""
        return f"{self.rule}, step {self.step}: {self.words}{shown}"

    def to_json(self) -> dict[str, JSON]:
        return {"rule": self.rule, "words": self.words, "rollouts": list(self.rollouts), "stops": self.stops}


class Watch:
    """Rules over a growing history. Made from what the run has so far, so that a resumed run does not say everything again.

    A rule that raises says so once, and is not asked again: a run of days does not end because somebody's rule divides by zero.
    """

    def __init__(self, settings: HealthSettings, history: History) -> None:
        self._settings = settings
        self._broken: dict[str, str] = {}
        self._rows = list(history.rows)
        self._held_out = list(history.held_out)
        self._holding = set(self._said(history)) if self._rows else set()

    def measured(self, held_out: HeldOut) -> None:
        """A measurement was made; one of the same step is replaced."""
        self._held_out = [one for one in self._held_out if one.step != held_out.step] + [held_out]

    def step(self, row: Row, evidence: Mapping[str, tuple[str, ...]]) -> list[Finding]:
        """What begins to be wrong with this step's row of metrics."""
        self._rows.append({name: value for name, value in row.items() if is_finite_number(value)})
        said = self._said(History(self._rows, self._held_out))
        new = [name for name in said if name not in self._holding]
        self._holding = set(said)
        step = int(row["step"])
        fallback = evidence.get("reward_mean", ())
        return [self._finding(name, step, said[name], evidence, fallback) for name in new]

    @property
    def holding(self) -> tuple[str, ...]:
        """Rules that hold now, in the order of the rules."""
        return tuple(name for name in self._settings.rules if name in self._holding)

    def _finding(
        self, name: str, step: int, words: str, evidence: Mapping[str, tuple[str, ...]], fallback: tuple[str, ...]
    ) -> Finding:
        if name in self._broken:
            return Finding(name, step, words)
        shown = evidence.get(self._settings.rules[name].signal, fallback)
        return Finding(name, step, words, shown, name in self._settings.stop)

    def _said(self, history: History) -> dict[str, str]:
        said = {name: self._asked(name, history) for name in self._settings.rules}
        return {name: words for name, words in said.items() if words is not None}

    def _asked(self, name: str, history: History) -> str | None:
        if name in self._broken:
            return self._broken[name]
        try:
            with boundary(PluginError, "the rule itself failed and is not asked again"):
                words = self._settings.rules[name].check(history)
        except PluginError as error:
            self._broken[name] = str(error)
            return self._broken[name]
        return None if words is None else str(words)


def held_out_history(evaluations: Mapping[int, Mapping[str, Any]]) -> list[HeldOut]:
    """pass@1 of `RunFolder.evaluations()`, in order; a measurement without it is left out."""
    found = []
    for step, measured in sorted(evaluations.items()):
        one = measured.get("pass@1")
        if isinstance(one, Mapping) and all(is_finite_number(one.get(key)) for key in ("mean", "low", "high")):
            found.append(HeldOut(step, one["mean"], one["low"], one["high"]))
    return found


def stored_findings(metrics: Path) -> list[Finding]:
    """What the rules said while the run trained, as `metrics.jsonl` has it; a damaged line says nothing."""
    found: list[Finding] = []
    if not metrics.is_file():
        return found
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            found += _findings(row)
    return found


def replayed(settings: HealthSettings, rows: Sequence[Row], held_out: Sequence[HeldOut]) -> list[Finding]:
    """What the rules would have said, step by step, from a run's metrics alone: for other thresholds, without its rollouts."""
    watch = Watch(settings, History(()))
    found: list[Finding] = []
    waiting = list(held_out)
    for row in rows:
        while waiting and waiting[0].step < row["step"]:
            watch.measured(waiting.pop(0))
        found += watch.step(row, {})
    return found


def _findings(row: Mapping[str, Any]) -> Iterable[Finding]:
    said = row.get("health")
    for one in said if isinstance(said, list) else ():
        if isinstance(one, dict) and isinstance(one.get("words"), str) and is_finite_number(row.get("step")):
            ids = tuple(str(id) for id in one.get("rollouts") or ())
            yield Finding(str(one.get("rule")), int(row["step"]), one["words"], ids, bool(one.get("stops")))
