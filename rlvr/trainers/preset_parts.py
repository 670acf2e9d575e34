"""From the words of a preset's arguments to the parts that they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from rlvr.errors import ConfigError
from rlvr.trainers.advantages import Center, Normalize, NormalizeOverBatch, Score
from rlvr.trainers.aggregation import Aggregate, SequenceMean, SequenceSum, TokenMean, TokenSumOver
from rlvr.trainers.correction import Correction, TruncatedImportance
from rlvr.trainers.objectives import Clipped, Objective, Reinforce

Normalization = Literal["group", "batch", "none"]
Aggregation = Literal["sequence_mean", "token_mean", "sequence_sum", "token_sum_over"]
P = TypeVar("P")


def score(normalize: Normalization, *, std_eps: float, std_ddof: int) -> Score:
    scores: dict[str, Score] = {
        "group": Normalize(std_eps, std_ddof),
        "batch": NormalizeOverBatch(std_eps, std_ddof),
        "none": Center(),
    }
    return chosen("normalize", normalize, scores)


def aggregated(aggregate: Aggregation, max_tokens: int | None) -> Aggregate:
    choices: dict[str, Aggregate] = {
        "sequence_mean": SequenceMean(),
        "token_mean": TokenMean(),
        "sequence_sum": SequenceSum(),
        "token_sum_over": TokenSumOver(max_tokens),
    }
    return chosen("aggregate", aggregate, choices)


def chosen(key: str, value: str, choices: Mapping[str, P]) -> P:
    if value not in choices:
        raise ConfigError(f"algorithm.{key} = {value!r}; allowed: {', '.join(choices)}")
    return choices[value]


def corrected(tis_cap: float | None) -> Correction | None:
    return None if tis_cap is None else TruncatedImportance(tis_cap)


def plain_or_clipped(clip_low: float | None, clip_high: float | None) -> Objective:
    if clip_low is None and clip_high is None:
        return Reinforce()
    if clip_low is None or clip_high is None:
        raise ConfigError(f"algorithm.clip_low = {clip_low}, clip_high = {clip_high}; set both, or neither for no clip")
    return Clipped(clip_low, clip_high)
