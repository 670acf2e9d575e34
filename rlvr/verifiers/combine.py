"""Verifiers made of verifiers: `gate`, `max`, `all_of`, `weighted` and `route`, with the parts in `Verdict.details`.

A part is a verifier's name or reference, or a table with `name` and `args` (and `weight` in `weighted`):

    [[verifiers]]
    name = "gate"
    [verifiers.args]
    of = { name = "math", args = { strict = true } }
    requires = ["format"]

Parts nest. Each part runs where it belongs: in the trainer's process, in a worker with the time limit to itself, or in a thread
where it waits. A part that fails (no score) makes the whole fail, unless the others settle the score without it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rlvr.errors import ConfigError
from rlvr.registry import register, resolve
from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.base import Asking, Nested, Verifier, as_verifier
from rlvr.verifiers.call import call_in_bounded_time, call_verifier, clip

Part: TypeAlias = str | dict[str, Any]

MAX_SHOWN_CHARS = 200


def nested_part(part: Part) -> Nested:
    """The verifier that a part names.

    Raises:
        ConfigError: the part is neither a name nor a table of `name`, `args` and `weight`.
    """
    if isinstance(part, str) and part:
        return Nested(part)
    if isinstance(part, Mapping) and isinstance(part.get("name"), str) and set(part) <= {"name", "args", "weight"}:
        args = part.get("args", {})
        if isinstance(args, Mapping):
            return Nested(part["name"], dict(args))
    raise ConfigError(f"a part of a combined verifier is {part!r}; write a name, or a table with name, args and weight")


def _listed_parts(settings: Mapping[str, JSON]) -> Sequence[Nested]:
    return [nested_part(part) for part in _at_least_one("of", settings["of"])]


def _weighted_parts(settings: Mapping[str, JSON]) -> Sequence[Nested]:
    for part in settings["of"]:
        _weight(part)
    return _listed_parts(settings)


def _gate_parts(settings: Mapping[str, JSON]) -> Sequence[Nested]:
    return [nested_part(part) for part in (*_at_least_one("requires", settings["requires"]), settings["of"])]


def _route_parts(settings: Mapping[str, JSON]) -> Sequence[Nested]:
    default = settings.get("default")
    parts = _at_least_one("to", list(settings["to"].values()))
    return [nested_part(part) for part in (*parts, *([] if default is None else [default]))]


def _at_least_one(key: str, parts: JSON) -> list[Part]:
    if not parts:
        raise ConfigError(f"a combined verifier has {key} = {parts!r}; name at least one verifier")
    return list(parts)


def _combination(
    name: str, nested: Callable[[Mapping[str, JSON]], Sequence[Nested]]
) -> Callable[[Callable[..., Asking]], Verifier]:
    """A verifier from a function that asks its parts: see `Verifier.asks`. Called directly, it runs them in this process."""

    def decorate(asks: Callable[..., Asking]) -> Verifier:
        @functools.wraps(asks)
        def grade(problem: Problem, rollout: Rollout, **settings: Any) -> Verdict:
            def ask(one: Nested) -> Verdict:
                return call_verifier(_found(one.reference), rollout, one.settings)

            verdict = _follow(asks(problem, rollout, **settings), ask)
            assert verdict is not None, "every part gave a verdict"
            return verdict

        def quick(problem: Problem, rollout: Rollout, **settings: Any) -> Verdict | None:
            def ask(one: Nested) -> Verdict | None:
                return call_in_bounded_time(_found(one.reference), rollout, one.settings)

            return _follow(asks(problem, rollout, **settings), ask)

        return register("verifiers", name)(Verifier(name, grade, nested=nested, quick=quick, asks=asks))

    return decorate


def _follow(asking: Asking, ask: Callable[[Nested], Verdict | None]) -> Verdict | None:
    """The combination's verdict; None as soon as a part gives none."""
    try:
        wanted = next(asking)
        while True:
            verdicts = []
            for one in wanted:
                if (verdict := ask(one)) is None:
                    return None
                verdicts.append(verdict)
            wanted = asking.send(verdicts)
    except StopIteration as done:
        decided: Verdict = done.value
        return decided


@functools.lru_cache(maxsize=256)
def _found(reference: str) -> Verifier:
    return as_verifier(resolve("verifiers", reference))


@_combination("gate", nested=_gate_parts)
def gate(problem: Problem, rollout: Rollout, *, of: Part, requires: list[Part], at_least: float = 1.0) -> Asking:
    """The verdict of `of`, if every verifier in `requires` scores `at_least`; else incorrect, and `of` is not asked.

    `gate(of="math", requires=["format"])` gives no reward for a right answer in a wrong layout.
    """
    required = yield [nested_part(part) for part in requires]
    details = _breakdown([*requires], required)
    for part, verdict in zip(requires, required, strict=True):
        if verdict.score is not None and verdict.score < at_least:
            return Verdict.incorrect(reason=f"{_name(part)} is required: {verdict.reason or verdict.outcome}", parts=details)
    if (failed := _first_failure(requires, required)) is not None:
        return Verdict.error(failed, parts=details)
    [verdict] = yield [nested_part(of)]
    return _as_own(verdict, of, details)


@_combination("max", nested=_listed_parts)
def max_of(problem: Problem, rollout: Rollout, *, of: list[Part]) -> Asking:
    """The best verdict of the parts: for answers that any of several rules may accept."""
    verdicts = yield [nested_part(part) for part in of]
    details = _breakdown(of, verdicts)
    best = _extreme(verdicts, sign=1)
    failed = _first_failure(of, verdicts)
    if best is None or (failed is not None and verdicts[best].score != 1.0):
        return Verdict.error(failed or "no parts to choose from", parts=details)
    return _as_own(verdicts[best], None, details)


@_combination("all_of", nested=_listed_parts)
def all_of(problem: Problem, rollout: Rollout, *, of: list[Part]) -> Asking:
    """The worst verdict of the parts, so that all must be correct; its `extracted` is the first part's."""
    verdicts = yield [nested_part(part) for part in of]
    details = _breakdown(of, verdicts)
    worst = _extreme(verdicts, sign=-1)
    failed = _first_failure(of, verdicts)
    if worst is None or (failed is not None and verdicts[worst].score != 0.0):
        return Verdict.error(failed or "no parts to ask", parts=details)
    verdict = verdicts[worst]
    reason = verdict.reason if verdict.outcome is Outcome.CORRECT else f"{_name(of[worst])}: {verdict.reason or verdict.outcome}"
    return Verdict(verdict.outcome, verdict.score, verdicts[0].extracted, reason, details={"parts": details})


@_combination("weighted", nested=_weighted_parts)
def weighted(problem: Problem, rollout: Rollout, *, of: list[Part]) -> Asking:
    """The weighted mean of the parts' scores; `weight` is 1 where a part names none. Correct when every part is."""
    weights = [_weight(part) for part in of]
    verdicts = yield [nested_part(part) for part in of]
    details = _breakdown(of, verdicts)
    if (failed := _first_failure(of, verdicts)) is not None:
        return Verdict.error(failed, parts=details)
    shares = [weight * (verdict.score or 0.0) for weight, verdict in zip(weights, verdicts, strict=True)]
    score = min(1.0, math.fsum(shares) / math.fsum(weights))
    extracted = verdicts[0].extracted
    if score == 1.0:
        return Verdict.correct(extracted, parts=details)
    reason = "; ".join(
        f"{_name(part)}: {verdict.reason or verdict.outcome}"
        for part, verdict in zip(of, verdicts, strict=True)
        if verdict.score != 1.0
    )
    if score == 0.0:
        return Verdict.incorrect(extracted, reason, parts=details)
    return Verdict.partial(score, extracted, reason, parts=details)


@_combination("route", nested=_route_parts)
def route(
    problem: Problem, rollout: Rollout, *, to: dict[str, Part], key: str = "verifier", default: Part | None = None
) -> Asking:
    """The verdict of the part that `problem.metadata[key]` names in `to`, or of `default`: for data sets that mix tasks.

    `metadata` may nest ("meta.kind"). A value without a route is our fault, not the model's.
    """
    value: JSON = problem.metadata
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    part = to.get(str(value), default) if value is not None else default
    if part is None:
        return Verdict.error(f"{problem.id}: metadata {key!r} is {str(value)[:80]!r}; there are routes for {', '.join(to)}")
    [verdict] = yield [nested_part(part)]
    return _as_own(verdict, part, [])


def _name(part: Part) -> str:
    return part if isinstance(part, str) else str(part["name"])


def _weight(part: Part) -> float:
    weight = 1.0 if isinstance(part, str) else part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight <= 0:
        raise ConfigError(f"part {_name(part)!r} has weight {weight!r}; a weight in 'weighted' is a positive number")
    return float(weight)


def _extreme(verdicts: Sequence[Verdict], *, sign: int) -> int | None:
    """The index of the best (`sign` 1) or worst (-1) scored verdict; the first of equals."""
    scored = [(sign * verdict.score, -index) for index, verdict in enumerate(verdicts) if verdict.score is not None]
    return -max(scored)[1] if scored else None


def _first_failure(parts: Iterable[Part], verdicts: Iterable[Verdict]) -> str | None:
    failed = ((part, verdict) for part, verdict in zip(parts, verdicts, strict=True) if verdict.score is None)
    return next((f"{_name(part)}: {verdict.reason}" for part, verdict in failed), None)


def _as_own(verdict: Verdict, part: Part | None, before: list[JSON]) -> Verdict:
    """The chosen part's verdict as the combination's own; `before` are the entries of parts that were asked earlier."""
    entries = before if part is None else [*before, *_breakdown([part], [verdict])]
    return Verdict(verdict.outcome, verdict.score, verdict.extracted, verdict.reason, details={"parts": entries})


def _breakdown(parts: Sequence[Part], verdicts: Sequence[Verdict]) -> list[JSON]:
    """What each part found, in order; a part that is a combination itself shows its own parts."""
    entries: list[JSON] = []
    for part, verdict in zip(parts, verdicts, strict=True):
        entry: dict[str, JSON] = {
            "name": _name(part),
            "version": _found(nested_part(part).reference).version,
            "outcome": verdict.outcome.value,
            "score": verdict.score,
            "extracted": None if verdict.extracted is None else clip(verdict.extracted, MAX_SHOWN_CHARS),
            "reason": clip(verdict.reason, MAX_SHOWN_CHARS),
        }
        if "parts" in verdict.details:
            entry["parts"] = verdict.details["parts"]
        entries.append(entry)
    return entries
