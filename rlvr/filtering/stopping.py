"""When sampling of a problem may end: as few samples as possible for a given share of decisions that come out differently.

What a few samples of one problem say depends on what the others are like: 2 right out of 4 leave little doubt where nearly all
problems are solved half of the time, and much where they are solved always or never. So the spread of the solve rates is
estimated first, from a pilot of `PILOT` samples of every problem, and the rule is made for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rlvr.filtering.window import PILOT, Decision, Window, decide, samples_before_a_decision

Floats = NDArray[np.float64]
Spread = tuple[float, ...]  # weights of the solve rates `_RATES`, not normalised

# Never and always are spikes of their own in real data; between them every fortieth.
_RATES: Floats = np.array([1e-4, *((index + 0.5) / 40 for index in range(40)), 1.0 - 1e-4])
_JEFFREYS: Floats = 1.0 / np.sqrt(np.clip(_RATES * (1.0 - _RATES), _RATES[1] * (1.0 - _RATES[1]), None))
_BELIEVED = 10.0  # problems that Jeffreys' prior weighs as much as
_ROUNDS = 200
_DECIMALS = 6
_LEAST, _MOST, _HALVINGS = 1e-2, 1e7, 50  # of the price of a changed decision, in samples


def fit_spread(counts: Iterable[tuple[int, int]]) -> Spread:
    """How the solve rates of problems are spread, from (correct, scored) of each; when sampling ended does not matter.

    The mixture that makes the counts most likely, by expectation maximisation, held near Jeffreys' prior as if ten more problems
    had been seen that follow it. Deterministic.

    Source: Laird, "Nonparametric maximum likelihood estimation of a mixing distribution", 1978.
    """
    seen = Counter(counts)
    held = _JEFFREYS / _JEFFREYS.sum()
    weights = held
    if seen:
        likelihood = np.stack([_RATES**correct * (1.0 - _RATES) ** (scored - correct) for correct, scored in seen])
        number = np.array(list(seen.values()), dtype=np.float64)[:, None]
        for _ in range(_ROUNDS):
            share = likelihood * weights
            weights = (number * share / share.sum(axis=1, keepdims=True)).sum(axis=0) + _BELIEVED * held
            weights = weights / weights.sum()
    return tuple(max(round(weight, _DECIMALS), 10.0**-_DECIMALS) for weight in weights.tolist())


@dataclass(frozen=True, slots=True)
class Stopping:
    """How sampling for the window `keep` ends, before all samples are drawn.

    `epsilon` None: it does not. 0: when no outcome of the others could matter. Above: with a `spread`, so that the expected share
    of problems that all samples would decide otherwise is at most epsilon, and the expected number of samples least; without
    one, when the probability of another decision is at most epsilon under Jeffreys' prior, as in files of earlier versions.
    """

    keep: Window
    epsilon: float | None = None
    spread: Spread | None = None

    def decision(self, correct: int, scored: int, left: int) -> Decision:
        """What all `scored + left` samples would most likely say."""
        if self.spread is None or not self.epsilon or not scored + left:
            return decide(self.keep, correct, scored, left)
        keeps = float(_rule(self.keep, scored + left, self.epsilon, self.spread).keeps[scored][correct])
        return Decision(keeps >= 0.5, min(keeps, 1.0 - keeps))

    def more(self, correct: int, scored: int, left: int) -> int:
        """How many samples must be drawn before it can end; 0 when it does. Drawn together, they are as few as one by one."""
        if self.spread is None or not self.epsilon or not scored + left:
            return samples_before_a_decision(self.keep, correct, scored, left, self.epsilon)
        ends = _rule(self.keep, scored + left, self.epsilon, self.spread).ends
        return next(more for more in range(left + 1) if ends[scored + more][correct : correct + more + 1].any())


@dataclass(frozen=True, slots=True)
class _Rule:
    """By samples scored and correct, so [total + 1][scored + 1]: the probability that all samples keep it, and whether to end."""

    keeps: tuple[Floats, ...]
    ends: tuple[NDArray[np.bool_], ...]
    changed: float  # expected share of changed decisions
    drawn: float  # expected samples


@lru_cache(maxsize=256)
def _rule(keep: Window, total: int, epsilon: float, spread: Spread) -> _Rule:
    """Of the rules that change a share of `epsilon` or less, the one that draws least: it pays a price for each changed decision
    (backward induction), and the price is the lowest that is high enough."""
    weights = np.array(spread)
    inside = np.array([keep.holds(correct / total) for correct in range(total + 1)])
    keeps, nexts = [], []
    for scored in range(total + 1):
        correct = np.arange(scored + 1)[:, None]
        belief = weights * _RATES**correct * (1.0 - _RATES) ** (scored - correct)
        belief /= belief.sum(axis=1, keepdims=True)
        left = total - scored
        chances = np.stack([math.comb(left, more) * _RATES**more * (1.0 - _RATES) ** (left - more) for more in range(left + 1)])
        outcomes = belief @ chances.T  # [scored + 1, left + 1]
        windows = np.stack([inside[index : index + left + 1] for index in range(scored + 1)])
        chance = np.clip((outcomes * windows).sum(axis=1), 0.0, 1.0)
        # Where nothing can change any more, rounding must not say otherwise.
        keeps.append(np.where(windows.all(axis=1), 1.0, np.where(windows.any(axis=1), chance, 0.0)))
        nexts.append(belief @ _RATES)
    least, most = math.log(_LEAST), math.log(_MOST)
    found = _priced(keeps, nexts, total, math.exp(most))
    for _ in range(_HALVINGS):
        middle = (least + most) / 2.0
        rule = _priced(keeps, nexts, total, math.exp(middle))
        if rule.changed <= epsilon:
            found, most = rule, middle
        else:
            least = middle
    return found


def _priced(keeps: list[Floats], nexts: list[Floats], total: int, price: float) -> _Rule:
    flips = [np.minimum(chance, 1.0 - chance) for chance in keeps]
    ends = [np.ones(total + 1, dtype=np.bool_)]
    cost = np.zeros(total + 1)
    for scored in range(total - 1, -1, -1):
        going_on = 1.0 + nexts[scored] * cost[1:] + (1.0 - nexts[scored]) * cost[:-1]
        ending = price * flips[scored]
        is_over = (ending <= going_on) & (scored >= min(PILOT, total))
        ends.append(is_over)
        cost = np.where(is_over, ending, going_on)
    ends.reverse()
    reached, changed, drawn = np.ones(1), 0.0, 0.0
    for scored in range(total + 1):
        ended = reached * ends[scored]
        changed += float((ended * flips[scored]).sum())
        drawn += scored * float(ended.sum())
        if scored < total:
            going = reached - ended
            reached = np.zeros(scored + 2)
            reached[1:] += going * nexts[scored]
            reached[:-1] += going * (1.0 - nexts[scored])
    return _Rule(tuple(keeps), tuple(ends), changed, drawn)
