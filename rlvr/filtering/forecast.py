"""What a curriculum will do with given problems, as far as their solve rates are known: for people, before they train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.errors import ConfigError
from rlvr.filtering.curriculum import Course, make_curriculum
from rlvr.filtering.pass_rates import PassRates
from rlvr.filtering.posterior import SolveRates
from rlvr.types import Problem

BINS = 5
_MOMENTS = (0.0, 0.5, 1.0)  # of the run


@dataclass(frozen=True, slots=True)
class Bin:
    """Problems that are believed to be solved between `low` and `high`; `shares` of the draws at the moments of the run."""

    low: float
    high: float
    problems: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """`moments`: shares of the run. `signal`: what share of the groups drawn then is expected to be neither all correct nor all
    wrong. Nothing is assumed about what training will change."""

    name: str
    words: str
    problems: int
    known: int  # of them, how many were sampled
    group_size: int
    moments: tuple[float, ...]
    bins: tuple[Bin, ...]
    signal: tuple[float, ...]
    signal_uniform: float  # the same for a curriculum that draws evenly


def forecast(
    problems: Sequence[Problem],
    rates: PassRates | None,
    name: str,
    arguments: dict[str, object],
    *,
    group_size: int,
    steps: int,
    seed: int = 0,
) -> Forecast:
    """What the curriculum `name` draws at the beginning, in the middle and at the end of a run.

    Raises:
        PluginError, ConfigError: see `make_curriculum`.
        StarvedError: there is nothing that it would draw.
    """
    if steps < 1 or group_size < 1:
        raise ConfigError(f"steps = {steps} and rollout.group_size = {group_size}; both must be 1 or more")
    beliefs = SolveRates((problem.id for problem in problems), math.inf)  # nothing fades: only the schedule moves
    if rates is not None:
        beliefs.observe_filter(rates)
    curriculum = make_curriculum(Course(problems, beliefs, group_size, steps, seed), name, arguments)
    at = [round(moment * (steps - 1)) for moment in _MOMENTS]
    shares = [curriculum.shares(step) for step in at]
    known = [beliefs.at(problem.id, 0) for problem in problems]
    chances = [rate.chance_of_signal(group_size) for rate in known]
    return Forecast(
        name=name,
        words=curriculum.words,
        problems=len(problems),
        known=sum(rate.evidence > 0 for rate in known),
        group_size=group_size,
        moments=_MOMENTS,
        bins=_bins([rate.mean for rate in known], shares),
        signal=tuple(math.fsum(s * c for s, c in zip(share, chances, strict=True)) for share in shares),
        signal_uniform=math.fsum(chances) / len(chances),
    )


def _bins(means: Sequence[float], shares: Sequence[Sequence[float]]) -> tuple[Bin, ...]:
    place = [min(BINS - 1, int(mean * BINS)) for mean in means]
    return tuple(
        Bin(
            index / BINS,
            (index + 1) / BINS,
            place.count(index),
            tuple(math.fsum(value for value, where in zip(share, place, strict=True) if where == index) for share in shares),
        )
        for index in range(BINS)
    )
