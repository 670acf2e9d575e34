"""One answer out of k samples: by vote (maj@k) or by a scorer (best@k). Exact expectations, no random draws.

Both average over every subset of k of a problem's n samples, drawn without replacement, as pass@k does; and over ties. So neither
depends on the order of the samples, and both are unbiased for k fresh samples of the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ballot:
    """One sample of a problem: what it votes for (None: it has no answer and casts no vote), and whether it is right."""

    vote: Hashable | None
    is_correct: bool


@dataclass(frozen=True, slots=True)
class Ranked:
    """One sample of a problem: the scorer's score, higher is better, and whether it is right."""

    score: float
    is_correct: bool


def maj_at_k(ballots: Sequence[Ballot], k: int) -> float:
    """Probability that the answer with the most votes among k of the samples is right.

    The tie rule: answers with equally many votes are drawn from with equal chances. Where samples with one answer have
    different verdicts, the answer is right as often as they are. When none of the k samples has an answer, it is wrong.

    Source: Wang et al. 2022 (self-consistency), arXiv:2203.11171; the expectation over subsets and ties is ours.

    Raises:
        ValueError: k is not in 1..n.

    >>> round(maj_at_k([Ballot("7", True), Ballot("7", True), Ballot("8", False)], k=2), 4)  # 77, 78, 78
    0.6667
    """
    _check(k, len(ballots))
    votes = Counter(ballot.vote for ballot in ballots if ballot.vote is not None)
    right = Counter(ballot.vote for ballot in ballots if ballot.vote is not None and ballot.is_correct)
    answers = tuple(sorted((count, right[vote]) for vote, count in votes.items()))
    return _majority(answers, len(ballots), k)


def best_at_k(ranked: Sequence[Ranked], k: int) -> float:
    """Probability that the sample with the highest score among k of the samples is right; equal scores have equal chances.

    With a verifier's own score of right and wrong this is pass@k; it says something of its own for another scorer.

    Raises:
        ValueError: k is not in 1..n.

    >>> best_at_k([Ranked(0.9, False), Ranked(0.5, True), Ranked(0.1, False)], k=2)  # only without the first
    0.3333333333333333
    """
    n = len(ranked)
    _check(k, n)
    expected, below = 0.0, 0
    for score in sorted({one.score for one in ranked}):
        tied = [one.is_correct for one in ranked if one.score == score]
        # The highest score is this one when all k lie at or below it, and not all below.
        highest = (math.comb(below + len(tied), k) - math.comb(below, k)) / math.comb(n, k)
        expected += highest * sum(tied) / len(tied)
        below += len(tied)
    return expected


def _check(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} of n = {n} samples: k must be between 1 and n; draw more samples or lower k")


@lru_cache(maxsize=65_536)  # many problems share their counts of votes
def _majority(answers: tuple[tuple[int, int], ...], n: int, k: int) -> float:
    """`answers` are (votes, right votes) of n samples.

    Drawing k of n without replacement is tossing a coin for every sample, given that k come up. `ways[j, m]` is the probability
    that j coins came up and m answers stand at the winning number of votes, none above it; `value[j, m]` is the sum over those m
    of how often they are right, weighted alike.
    """
    share = k / n
    silent = _coins(n - sum(count for count, _ in answers), share)
    expected = 0.0
    for winning in range(1, min(k, max((count for count, _ in answers), default=0)) + 1):
        ways = np.zeros((k + 1, k // winning + 1))
        value = np.zeros_like(ways)
        ways[: min(k, len(silent) - 1) + 1, 0] = silent[: k + 1]
        for count, right in answers:
            coins = _coins(count, share)
            new_ways, new_value = np.zeros_like(ways), np.zeros_like(value)
            for drawn in range(min(count, winning - 1) + 1):
                new_ways[drawn:] += coins[drawn] * ways[: k + 1 - drawn]
                new_value[drawn:] += coins[drawn] * value[: k + 1 - drawn]
            if count >= winning:
                chance = coins[winning]
                new_ways[winning:, 1:] += chance * ways[: k + 1 - winning, :-1]
                gained = value[: k + 1 - winning, :-1] + (right / count) * ways[: k + 1 - winning, :-1]
                new_value[winning:, 1:] += chance * gained
            ways, value = new_ways, new_value
        expected += float((value[k, 1:] / np.arange(1, value.shape[1])).sum())
    return min(1.0, expected / float(_coins(n, share)[k]))


@lru_cache(maxsize=4096)
def _coins(n: int, share: float) -> NDArray[np.float64]:
    """The binomial probabilities of 0..n, through logarithms, since a product of them underflows for large n."""
    if share == 1.0:
        certain: NDArray[np.float64] = np.eye(n + 1)[n]
        return certain
    counts = np.arange(n + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in counts])
    found: NDArray[np.float64] = np.exp(choose + counts * math.log(share) + (n - counts) * math.log1p(-share))
    return found
