"""Algorithms are data: an `Algorithm` is a choice of parts, and a preset is a function whose keyword arguments are its config.

    grpo     Normalize    · Clipped(0.2, 0.2)            · SequenceMean
    dr_grpo  Center       · Clipped(0.2, 0.2)            · TokenSumOver(max_tokens)
    dapo     Normalize    · Clipped(0.2, 0.28)           · TokenMean     · MixedOutcomes · OverlongPenalty
    rloo     LeaveOneOut  · Reinforce                    · SequenceSum
    gspo     Normalize    · SequenceClipped(3e-4, 4e-4)  · SequenceMean
    cispo    Normalize    · StopGradRatio(5.0)           · TokenMean
    reinforce     BatchMean        · Reinforce           · SequenceSum
    reinforce_pp  WhitenedReturns  · Clipped(0.2, 0.2)   · TokenMean

No preset uses a KL term or an entropy bonus unless asked: with `kl_coef=0` no reference model is loaded.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from rlvr.errors import ConfigError, PluginError
from rlvr.registry import resolve
from rlvr.trainers.advantages import (
    Advantage,
    BatchMean,
    Center,
    LeaveOneOut,
    PerRollout,
    Unchanged,
    WhitenedReturns,
)
from rlvr.trainers.aggregation import Aggregate
from rlvr.trainers.arguments import checked_arguments
from rlvr.trainers.correction import STALE, Correction, Stale, StaleName, for_stale_tokens
from rlvr.trainers.kl import ESTIMATORS, K3, KlEstimator
from rlvr.trainers.objectives import Clipped, Objective, Reinforce, SequenceClipped, StopGradRatio
from rlvr.trainers.preset_parts import Aggregation, Normalization, aggregated, chosen, corrected, plain_or_clipped, score
from rlvr.trainers.shaping.base import Identity, KeepAll, KeepGroup, MixedOutcomes, OverlongPenalty, Shape, is_in_loss
from rlvr.types import Rollout

Kl = Literal["k1", "k2", "k3"]
P = TypeVar("P")


@runtime_checkable
class BoundToLength(Protocol):
    """A part with a constant that defaults to the longest response of the run."""

    def bind(self, *, max_tokens: int) -> Any:
        """The part with its constant set."""
        ...


@runtime_checkable
class BoundToStep(Protocol):
    """A part that changes in the course of a run, as a function of the number of steps before the present one alone."""

    def at_step(self, step: int, /) -> Any:
        """The part as it is after `step` updates."""
        ...


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Everything that decides a step's gradient, given its rollouts. Any part may be a function of your own."""

    name: str
    advantage: Advantage
    objective: Objective
    aggregate: Aggregate
    kl: KlEstimator = K3
    kl_coef: float = 0.0
    kl_in_reward: bool = False  # False: kl_coef * KL is added to each token's loss; True: it is taken from the reward
    entropy_coef: float = 0.0  # taken from each token's loss, times its entropy; aggregated like the loss
    correction: Correction | None = None
    stale: Stale = Stale.TIS  # what is done about tokens of earlier policies, where generation runs ahead of the update
    keep_group: KeepGroup = field(default_factory=KeepAll)
    shape: Shape = field(default_factory=Identity)
    critic: bool = False  # the advantage reads `Step.values`
    arguments: Mapping[str, Any] = field(default_factory=dict)  # what its preset was called with

    def __post_init__(self) -> None:
        for key in ("kl_coef", "entropy_coef"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"algorithm.{key} = {value}; give 0 (off) or a positive number")

    @property
    def needs_reference(self) -> bool:
        """A reference model's logprobs are part of the loss or of the reward."""
        return self.kl_coef > 0

    @property
    def needs_policy_logprobs(self) -> bool:
        """Advantages depend on the policy's own logprobs before the update (KL in the reward)."""
        return self.needs_reference and self.kl_in_reward

    @property
    def needs_whole_rollouts(self) -> bool:
        """All rows of a rollout must be in one micro-batch, because the objective looks at their common ratio."""
        return bool(getattr(self.objective, "needs_whole_rollouts", False))

    @property
    def needs_fresh(self) -> bool:
        """Only rollouts of the present policy may be learned from: there is no ratio that would account for an older one."""
        return bool(getattr(self.objective, "needs_fresh", False))

    def for_staleness(self, max_staleness: int) -> Algorithm:
        """The algorithm as it learns from rollouts that up to `max_staleness` updates have overtaken; itself for 0.

        Raises:
            ConfigError: `stale` is "ratio", but the objective has none.
        """
        if max_staleness == 0:
            return self
        if self.stale is Stale.RATIO:
            if self.needs_fresh:
                raise ConfigError(
                    f"algorithm.stale = 'ratio', but {self.name!r} has no ratio that would account for older rollouts; use 'tis'"
                )
            return self
        return replace(self, correction=for_stale_tokens(self.stale, self.correction))

    @property
    def drops_groups(self) -> bool:
        return not isinstance(self.keep_group, KeepAll)

    @property
    def min_group_size(self) -> int:
        return max(getattr(part, "min_group_size", 1) for part in (self.advantage, self.keep_group))

    def check_group_size(self, group_size: int) -> None:
        """Raises:
        ConfigError: the algorithm compares the rollouts of a group, and there are too few.
        """
        if group_size < self.min_group_size:
            raise ConfigError(
                f"rollout.group_size = {group_size}, but {self.name!r} compares rollouts in a group; "
                f"set it to {self.min_group_size} or more."
            )

    def bind(self, *, max_tokens: int) -> Algorithm:
        """Give `max_tokens` (the run's longest response) to the parts that were built without one."""
        return replace(
            self, aggregate=_bind(self.aggregate, max_tokens=max_tokens), shape=_bind(self.shape, max_tokens=max_tokens)
        )

    def at_step(self, step: int) -> Algorithm:
        """The algorithm as it is after `step` finished steps; a pure function of it, so that a resumed run goes on exactly."""
        return replace(self, shape=self.shape.at_step(step)) if isinstance(self.shape, BoundToStep) else self

    def in_loss(self, rollout: Rollout) -> bool:
        """Whether a rollout's tokens are learned from; its reward may be compared with others in any case."""
        return is_in_loss(self.shape, rollout)


def _bind(part: P, *, max_tokens: int) -> P:
    return typing.cast(P, part.bind(max_tokens=max_tokens)) if isinstance(part, BoundToLength) else part


def preset(function: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """Let a preset's result remember its arguments, so that a recipe can name it."""

    @functools.wraps(function)
    def build_and_remember(**arguments: Any) -> Algorithm:
        return replace(function(**arguments), arguments=arguments)

    return build_and_remember


@preset
def grpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    normalize: Normalization = "group",
    std_eps: float = 1e-4,
    std_ddof: int = 1,
    aggregate: Aggregation = "sequence_mean",
    max_tokens: int | None = None,
    kl_coef: float = 0.0,
    kl: Kl = "k3",
    kl_in_reward: bool = False,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """Group-relative policy optimisation: rewards z-scored in their group, PPO clip, mean over each response.

    The paper adds a KL term with kl_coef 0.04; reasoning runs since leave it out, and so does the default.
    Source: arXiv:2402.03300, eq. 3 and section 4.1.2.
    """
    return Algorithm(
        "grpo",
        PerRollout(score(normalize, std_eps=std_eps, std_ddof=std_ddof)),
        Clipped(clip_low, clip_high, dual_clip),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


@preset
def dr_grpo(
    *,
    max_tokens: int | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    normalize: Normalization = "none",
    std_eps: float = 1e-4,
    std_ddof: int = 1,
    aggregate: Aggregation = "token_sum_over",
    kl_coef: float = 0.0,
    kl: Kl = "k3",
    kl_in_reward: bool = False,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """GRPO done right: no std in the advantage, and a constant (the run's max_tokens) instead of the response's length.

    Source: arXiv:2503.20783, section 3.2 and listing 1.
    """
    return Algorithm(
        "dr_grpo",
        PerRollout(score(normalize, std_eps=std_eps, std_ddof=std_ddof)),
        Clipped(clip_low, clip_high),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


@preset
def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    dynamic_sampling: bool = True,
    overlong: bool = True,
    overlong_buffer: int | None = None,
    max_tokens: int | None = None,
    normalize: Normalization = "group",
    std_eps: float = 1e-4,
    std_ddof: int = 1,
    aggregate: Aggregation = "token_mean",
    kl_coef: float = 0.0,
    kl: Kl = "k3",
    kl_in_reward: bool = False,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """GRPO with clip-higher, dynamic sampling, token-level loss and soft overlong punishment (last 20 % of max_tokens).

    Source: arXiv:2503.14476, eq. 8 to 13; its code adds a dual clip of 10.
    """
    return Algorithm(
        "dapo",
        PerRollout(score(normalize, std_eps=std_eps, std_ddof=std_ddof)),
        Clipped(clip_low, clip_high, dual_clip),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
        keep_group=MixedOutcomes() if dynamic_sampling else KeepAll(),
        shape=OverlongPenalty(max_tokens, overlong_buffer) if overlong else Identity(),
    )


@preset
def rloo(
    *,
    clip_low: float | None = None,
    clip_high: float | None = None,
    aggregate: Aggregation = "sequence_sum",
    max_tokens: int | None = None,
    kl_coef: float = 0.0,
    kl: Kl = "k1",
    kl_in_reward: bool = True,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """REINFORCE with the mean of the other rollouts as baseline; with `clip_low` and `clip_high`, PPO's clip on top.

    Source: arXiv:2402.14740.
    """
    return Algorithm(
        "rloo",
        PerRollout(LeaveOneOut()),
        plain_or_clipped(clip_low, clip_high),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


@preset
def reinforce(
    *,
    baseline: Literal["batch", "none"] = "batch",
    aggregate: Aggregation = "sequence_sum",
    max_tokens: int | None = None,
    kl_coef: float = 0.0,
    kl: Kl = "k1",
    kl_in_reward: bool = True,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """The plain policy gradient, with the step's mean reward as baseline. Source: Williams 1992."""
    return Algorithm(
        "reinforce",
        PerRollout(BatchMean() if baseline == "batch" else Unchanged()),
        Reinforce(),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


@preset
def reinforce_pp(
    *,
    baseline: Literal["none", "group"] = "none",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    std_eps: float = 1e-8,
    std_ddof: int = 0,
    aggregate: Aggregation = "token_mean",
    max_tokens: int | None = None,
    kl_coef: float = 0.0,
    kl: Kl = "k1",
    kl_in_reward: bool = True,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """REINFORCE++: token-level KL in the reward, returns whitened over the whole step, PPO clip.

    `baseline="group"` is the paper's variant for reasoning; it takes its KL in the loss (`kl="k2", kl_in_reward=false`).
    Source: arXiv:2501.03262.
    """
    return Algorithm(
        "reinforce_pp",
        WhitenedReturns(Center() if baseline == "group" else Unchanged(), std_eps, std_ddof),
        Clipped(clip_low, clip_high),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


@preset
def gspo(
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    normalize: Normalization = "group",
    std_eps: float = 1e-4,
    std_ddof: int = 1,
    aggregate: Aggregation = "sequence_mean",
    max_tokens: int | None = None,
    kl_coef: float = 0.0,
    kl: Kl = "k3",
    kl_in_reward: bool = False,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """Group sequence policy optimisation: ratio and clip of the whole response, so the clip range is far narrower.

    Source: arXiv:2507.18071, eq. 5 to 7; clip values from section 5.1.
    """
    return Algorithm(
        "gspo",
        PerRollout(score(normalize, std_eps=std_eps, std_ddof=std_ddof)),
        SequenceClipped(clip_low, clip_high),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


@preset
def cispo(
    *,
    ratio_max: float = 5.0,
    ratio_min: float = 0.0,
    normalize: Normalization = "group",
    std_eps: float = 1e-4,
    std_ddof: int = 1,
    aggregate: Aggregation = "token_mean",
    max_tokens: int | None = None,
    kl_coef: float = 0.0,
    kl: Kl = "k3",
    kl_in_reward: bool = False,
    entropy_coef: float = 0.0,
    tis_cap: float | None = None,
    stale: StaleName = "tis",
) -> Algorithm:
    """Clipped importance-sampling policy optimisation: the ratio is cut, never the gradient. The cap is an absolute ratio.

    Source: arXiv:2506.13585, eq. 4 and 5; it gives no cap, 5.0 is from ScaleRL, arXiv:2510.13786.
    """
    return Algorithm(
        "cispo",
        PerRollout(score(normalize, std_eps=std_eps, std_ddof=std_ddof)),
        StopGradRatio(ratio_max, ratio_min),
        aggregated(aggregate, max_tokens),
        kl=chosen("kl", kl, ESTIMATORS),
        kl_coef=kl_coef,
        kl_in_reward=kl_in_reward,
        entropy_coef=entropy_coef,
        correction=corrected(tis_cap),
        stale=chosen("stale", stale, STALE),
    )


def build(reference: str, arguments: Mapping[str, Any] | None = None) -> Algorithm:
    """An algorithm from a preset's name (or a plugin reference) and its keyword arguments.

    Raises:
        PluginError: no such preset, or it does not return an `Algorithm`.
        ConfigError: an argument is unknown (with the closest known one) or has a wrong value.
    """
    preset = resolve("algorithms", reference).target
    algorithm = preset(**checked_arguments(f"algorithm {reference!r}", preset, arguments or {}))
    if not isinstance(algorithm, Algorithm):
        raise PluginError(f"algorithms plugin {reference!r} returned {type(algorithm).__name__}, not an Algorithm")
    return algorithm
