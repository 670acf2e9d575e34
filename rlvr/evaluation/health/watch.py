"""Watches a run by its rules, while it trains and afterwards. A rule speaks when it begins to hold, not at every step."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError
from rlvr.evaluation.health.rules import RULES, HeldOut, History, Row, Rule
from rlvr.evaluation.statistics import is_finite_number
from rlvr.types import JSON

OWN_KEYS = ("stop", "second", "sample")
SAMPLE = 16  # rollouts of a step that the second verifier sees


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


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """A recipe's `[health]`: rules by name, those that end a run, and the second verifier with how much it sees."""

    rules: Mapping[str, Rule]
    stop: frozenset[str] = frozenset()
    second: Mapping[str, Any] | None = None
    sample: int = SAMPLE


def health_settings(section: Mapping[str, Any]) -> HealthSettings:
    """Read `[health]`: `stop`, `second`, `sample`, and for every rule a table of thresholds, or false to switch it off.

    Raises:
        ConfigError: an unknown rule or threshold (with the closest known one), or a value of the wrong kind.
    """
    rules: dict[str, Rule] = {}
    for name in section:
        if name not in RULES and name not in OWN_KEYS:
            raise ConfigError(f"health.{name} is no rule; {_nearest(name, [*RULES, *OWN_KEYS])}")
    for name, kind in RULES.items():
        given = section.get(name, {})
        if given is False:
            continue
        if given is not True and not isinstance(given, Mapping):
            raise ConfigError(f"health.{name} = {given!r}: give a table of thresholds, or false")
        rules[name] = _rule(name, kind, {} if given is True else given)
    stop = section.get("stop", ())
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    for name in stop:
        if name not in rules:
            raise ConfigError(f"health.stop names {name!r}, which is no rule that is on; {_nearest(name, list(rules))}")
    second = section.get("second")
    if isinstance(second, str):
        second = {"name": second}
    if second is not None and (not isinstance(second, Mapping) or set(second) - {"name", "args"} or "name" not in second):
        raise ConfigError(f"health.second = {second!r}: give a verifier's name, or a table of name and args")
    sample = section.get("sample", SAMPLE)
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 1:
        raise ConfigError(f"health.sample = {sample!r}: give the number of rollouts a step that the second verifier sees")
    return HealthSettings(rules, frozenset(stop), second, sample)


class Watch:
    """Rules over a growing history. Made from what the run has so far, so that a resumed run does not say everything again."""

    def __init__(self, settings: HealthSettings, history: History) -> None:
        self._settings = settings
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
        return [
            Finding(
                name, step, said[name], evidence.get(self._settings.rules[name].signal, fallback), name in self._settings.stop
            )
            for name in new
        ]

    @property
    def holding(self) -> tuple[str, ...]:
        """Rules that hold now, in the order of the rules."""
        return tuple(name for name in self._settings.rules if name in self._holding)

    def _said(self, history: History) -> dict[str, str]:
        said = {name: rule.check(history) for name, rule in self._settings.rules.items()}
        return {name: words for name, words in said.items() if words is not None}


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


def _rule(name: str, kind: type[Rule], given: Mapping[str, Any]) -> Rule:
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"health.{name}.{key} is no threshold; {_nearest(key, list(known))}")
        if not is_finite_number(value) or value < 0 or (key == "window" and (not isinstance(value, int) or value < 1)):
            what = "a number of steps, 1 or more" if key == "window" else "a number, 0 or more"
            raise ConfigError(f"health.{name}.{key} = {value!r}: give {what}")
        values[key] = value
    return kind(**values)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
