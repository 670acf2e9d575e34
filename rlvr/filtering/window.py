"""Which problems are worth training on, and when a few samples already say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from rlvr.errors import ConfigError

# Jeffreys' prior: pass rates of real data sets are U-shaped, with most problems near never or always solved.
PRIOR = 0.5
PILOT = 4  # samples of every problem, before any sampling ends early
EPSILON = 0.015  # share of decisions that may be expected to change; benchmarks/filter_savings.py shows what that saves


@dataclass(frozen=True, slots=True)
class Window:
    """Pass rates worth training on, both ends included."""

    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ConfigError(f"keep = {self.low}:{self.high}, but a window is LOW:HIGH with 0 <= LOW <= HIGH <= 1")

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `0.2:0.8`.

        Raises:
            ConfigError: another form, or out of range.
        """
        low, _, high = text.partition(":")
        try:
            return cls(float(low), float(high))
        except ValueError:
            raise ConfigError(f"keep = {text!r}, but a window looks like 0.2:0.8") from None

    def holds(self, pass_rate: float | None) -> bool:
        return pass_rate is not None and self.low <= pass_rate <= self.high

    def __str__(self) -> str:
        return f"{self.low}:{self.high}"


@dataclass(frozen=True, slots=True)
class Decision:
    """Keep or drop, and the probability that the samples which were not drawn would have turned it round."""

    is_kept: bool
    flip: float


def decide(keep: Window, correct: int, scored: int, left: int) -> Decision:
    """What `scored + left` samples would say about a problem of which `scored` are known.

    A problem belongs in the window by the pass rate of all its samples. How many of the `left` ones will be correct is
    beta-binomial under Jeffreys' prior; `flip` is summed exactly, and is 0 when no outcome of them matters any more.
    Because `flip` is a posterior probability, stopping as soon as it is at most some epsilon errs with probability epsilon at
    most however often it is looked at, averaged over problems whose solve rates follow the prior.

    >>> decide(Window(0.2, 0.8), correct=4, scored=8, left=8)
    Decision(is_kept=True, flip=0.0)
    """
    return _decide(keep.low, keep.high, correct, scored, left)


@lru_cache(maxsize=65536)
def _decide(low: float, high: float, correct: int, scored: int, left: int) -> Decision:
    total = scored + left
    if total == 0:
        return Decision(False, 0.0)
    inside = [low <= (correct + more) / total <= high for more in range(left + 1)]
    if all(inside) or not any(inside):
        return Decision(inside[0], 0.0)
    keeps = math.fsum(
        beta_binomial(more, left, correct + PRIOR, scored - correct + PRIOR) for more in range(left + 1) if inside[more]
    )
    return Decision(keeps >= 0.5, min(max(0.0, min(keeps, 1.0 - keeps)), 0.5))


def samples_before_a_decision(keep: Window, correct: int, scored: int, left: int, epsilon: float | None) -> int:
    """How many more samples must be drawn before `decide` can reach `flip <= epsilon`; 0 when it has.

    Drawn together, they are as few as drawn one by one. `epsilon` None: all that are left.
    """
    if epsilon is None or left == 0:
        return left
    return next(
        more
        for more in range(left + 1)
        if any(decide(keep, correct + hits, scored + more, left - more).flip <= epsilon for hits in range(more + 1))
    )


def beta_binomial(successes: int, trials: int, alpha: float, beta: float) -> float:
    """Probability of so many successes when the rate of success is Beta(alpha, beta)."""
    return math.comb(trials, successes) * math.exp(
        _log_beta(alpha + successes, beta + trials - successes) - _log_beta(alpha, beta)
    )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
