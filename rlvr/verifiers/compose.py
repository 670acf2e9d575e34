"""Several verdicts, one reward: a weighted sum whose parts stay visible."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.types import Verdict


def breakdown(verdicts: Mapping[str, Verdict], weights: Mapping[str, float]) -> dict[str, float | None]:
    """Each verifier's share of the reward, `weight * score`; None where the verifier failed. The shares sum to the reward."""
    return {
        name: None if verdicts[name].score is None else weight * (verdicts[name].score or 0.0) for name, weight in weights.items()
    }


def weighted_reward(verdicts: Mapping[str, Verdict], weights: Mapping[str, float]) -> float | None:
    """The sum of `weight * score`, or None if a verifier that counts (weight not 0) gave no score.

    >>> weighted_reward({"math": Verdict.correct(), "format": Verdict.incorrect()}, {"math": 1.0, "format": 0.1})
    1.0
    """
    shares = {name: share for name, share in breakdown(verdicts, weights).items() if weights[name] != 0}
    if any(share is None for share in shares.values()):
        return None
    return sum(share for share in shares.values() if share is not None)
