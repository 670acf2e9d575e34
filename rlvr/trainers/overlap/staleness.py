"""How many updates have overtaken the tokens that a step trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rlvr.types import Group


def oldest_version(group: Group) -> int | None:
    """The version of the policy that sampled a group's oldest token; None for a group without tokens."""
    turns = (turn for rollout in group.rollouts for turn in rollout.turns)
    return min((version for turn in turns for version in turn.completion.tokens_by_version), default=None)


def staleness_metrics(groups: Iterable[Group], version: int, max_staleness: int) -> dict[str, float]:
    """Mean and maximum over the sampled tokens, and how many there are of each age (`staleness_0` is the present policy's)."""
    ages: Counter[int] = Counter()
    for group in groups:
        for rollout in group.rollouts:
            for turn in rollout.turns:
                for sampled, count in turn.completion.tokens_by_version.items():
                    ages[version - sampled] += count
    total = ages.total()
    mean = sum(age * count for age, count in ages.items()) / total if total else 0.0
    counts = {f"staleness_{age}": float(ages[age]) for age in range(max(max_staleness, *ages) + 1 if ages else 1)}
    return {"staleness_mean": mean, "staleness_max": float(max(ages, default=0)), **counts}
