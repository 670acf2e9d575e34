"""A recipe's `[health]`: which rules watch a run, with which thresholds, and which of them end it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.errors import ConfigError, PluginError, boundary
from rlvr.evaluation.health.rules import Rule
from rlvr.evaluation.statistics import is_finite_number
from rlvr.registry import names, resolve

# On unless they are switched off, and in this order. Rules of other packages are asked for by name.
BUILT_IN = (
    "reward_without_gain",
    "length_blowup",
    "entropy_collapse",
    "clipped_tokens",
    "policy_kl",
    "reference_kl",
    "truncation",
    "repetition",
    "mixed_language",
    "form_only",
    "no_gradient",
    "second_opinion",
    "mismatch",
)
OWN_KEYS = ("stop", "second", "sample")
SAMPLE = 16  # rollouts of a step that the second verifier sees


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Rules by name, those that end a run, and the second verifier with how much it sees."""

    rules: Mapping[str, Rule]
    stop: frozenset[str] = frozenset()
    second: Mapping[str, Any] | None = None
    sample: int = SAMPLE


def health_settings(section: Mapping[str, Any]) -> HealthSettings:
    """Read `[health]`: `stop`, `second`, `sample`, and for every rule a table of thresholds, true, or false to switch it off.

    A rule is named as plugins are: by its name, or by reference (`"rules.py:ShortAnswers" = { limit = 3.0 }`), whose last part
    is then its name.

    Raises:
        ConfigError: an unknown rule or threshold (with the closest known one), or a value of the wrong kind.
        PluginError: a rule that cannot be loaded, or is none.
    """
    rules: dict[str, Rule] = {}
    known = names("health")
    for key in section:
        if key not in known and key not in OWN_KEYS and ":" not in key:
            raise ConfigError(f"health.{key} is no rule; {_nearest(key, [*known, *OWN_KEYS])} (or give path/file.py:name)")
    for key in [*BUILT_IN, *(key for key in section if key not in OWN_KEYS and key not in BUILT_IN)]:
        given = section.get(key, {})
        if given is False:
            continue
        if given is not True and not isinstance(given, Mapping):
            raise ConfigError(f"health.{key} = {given!r}: give a table of thresholds, or false")
        name = key.rpartition(":")[2]
        if name in rules:
            raise ConfigError(f"health.{key}: there is a rule {name!r} already; give yours another name")
        rules[name] = build_rule(key, {} if given is True else given)
    stop = section.get("stop", ())
    stop = tuple(name.rpartition(":")[2] for name in ((stop,) if isinstance(stop, str) else stop))
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


def build_rule(reference: str, thresholds: Mapping[str, Any]) -> Rule:
    """A rule from a plugin's name or reference and its thresholds.

    Raises:
        ConfigError: an unknown threshold (with the closest known one), or a value of the wrong kind.
        PluginError: there is no such plugin, or what it makes has no `check` and `signal`.
    """
    target = resolve("health", reference).target
    if not callable(target):
        raise PluginError(f"health plugin {reference!r} is {target!r}, but a class or function that makes a rule is needed")
    known = inspect.signature(target).parameters
    for key, value in thresholds.items():
        if key not in known:
            raise ConfigError(f"health.{reference}.{key} is no threshold; {_nearest(key, list(known))}")
        _check_threshold(f"health.{reference}.{key}", key, value, known[key].default)
    with boundary(PluginError, f"health plugin {reference!r} failed to make a rule of {dict(thresholds)}"):
        rule = target(**thresholds)
    if not callable(getattr(rule, "check", None)) or not isinstance(getattr(rule, "signal", None), str):
        raise PluginError(
            f"health plugin {reference!r} made {rule!r}, but a rule has check(history) and a signal (a metric's name)"
        )
    made: Rule = rule
    return made


def _check_threshold(what: str, key: str, value: Any, default: Any) -> None:
    """Numbers where the default is one; what else a rule of another package takes is its own to check."""
    if key == "window":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{what} = {value!r}: give a number of steps, 1 or more")
    elif is_finite_number(default) and (not is_finite_number(value) or value < min(0, default)):
        raise ConfigError(f"{what} = {value!r}: give a number" + (", 0 or more" if default >= 0 else ""))


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
