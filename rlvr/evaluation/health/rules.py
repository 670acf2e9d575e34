"""Rules about the health of a run. A rule is data: thresholds, and what it says when they are crossed.

Every rule looks at means over a `window` of steps, so that one odd step says nothing, and at least at that many steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

Row = Mapping[str, float]  # a line of metrics.jsonl: finite numbers by name


@dataclass(frozen=True, slots=True)
class HeldOut:
    """pass@1 on held-out problems after `step`, with its interval."""

    step: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class History:
    """The run so far: a row for each step, in order, and the held-out measurements."""

    rows: Sequence[Row]
    held_out: Sequence[HeldOut] = ()

    def last(self, name: str, window: int) -> float | None:
        """Mean over the last `window` steps; None where one of them does not have it."""
        return _mean(self.rows[-window:], name, window)

    def first(self, name: str, window: int) -> float | None:
        """Mean over the first `window` steps, once there are twice as many."""
        return _mean(self.rows[:window], name, window) if len(self.rows) >= 2 * window else None


class Rule(Protocol):
    """`signal` names the metric whose evidence proves it; `check` says in words what is wrong, and None where nothing is."""

    @property
    def signal(self) -> str: ...

    def check(self, history: History) -> str | None: ...


@dataclass(frozen=True, slots=True)
class RewardWithoutGain:
    """Reward rises by `rise`, and held-out pass@1 by less than a share `share` of that: what is learned is the reward."""

    rise: float = 0.1
    share: float = 0.2
    window: int = 5
    signal = "reward_mean"

    def check(self, history: History) -> str | None:
        if len(history.held_out) < 2:
            return None
        old, new = history.held_out[0], history.held_out[-1]
        rewards = [_around(history.rows, one.step, self.window) for one in (old, new)]
        if rewards[0] is None or rewards[1] is None:
            return None
        rise, gain = rewards[1] - rewards[0], new.mean - old.mean
        if rise < self.rise or gain >= self.share * rise:
            return None
        return (
            f"the reward rose by {rise:.2f} between steps {old.step} and {new.step}, held-out pass@1 by "
            f"{gain * 100:+.1f} points (now {new.mean:.1%} [{new.low:.1%}, {new.high:.1%}]): what is learned is the reward, not "
            "the task"
        )


@dataclass(frozen=True, slots=True)
class LengthBlowup:
    """Responses are `factor` times as long as at first, and no more often right (by `gain`)."""

    factor: float = 2.0
    gain: float = 0.02
    window: int = 10
    signal = "tokens_mean"

    def check(self, history: History) -> str | None:
        old, new = history.first("tokens_mean", self.window), history.last("tokens_mean", self.window)
        right = [history.first("correct_share", self.window), history.last("correct_share", self.window)]
        if old is None or new is None or right[0] is None or right[1] is None:
            return None
        if new < self.factor * old or right[1] - right[0] >= self.gain:
            return None
        return (
            f"responses grew from {old:.0f} to {new:.0f} tokens, while the share of correct ones went from {right[0]:.1%} to "
            f"{right[1]:.1%}: the length is not paid for"
        )


@dataclass(frozen=True, slots=True)
class EntropyCollapse:
    """Entropy fell below a share `share` of what it was at first, while less than `solved` of the answers are right."""

    share: float = 0.1
    solved: float = 0.95
    window: int = 10
    signal = "entropy"

    def check(self, history: History) -> str | None:
        old, new = history.first("entropy", self.window), history.last("entropy", self.window)
        right = history.last("correct_share", self.window)
        if old is None or new is None or right is None or old <= 0 or new >= self.share * old or right >= self.solved:
            return None
        return (
            f"entropy fell from {old:.3g} to {new:.3g} nats per token with {right:.1%} correct: the policy stopped exploring, "
            "and the samples of a group are nearly equal"
        )


@dataclass(frozen=True, slots=True)
class Above:
    """The mean of a metric over a window is above `limit`, and, with `rise`, that much above what it was at first."""

    limit: float
    window: int = 10
    rise: float = 0.0
    signal = ""
    words = ""

    def check(self, history: History) -> str | None:
        new = self.value(history)
        old = history.first(self.signal, self.window) if self.rise > 0 else None
        if new is None or new <= self.limit or (self.rise > 0 and (old is None or new - old < self.rise)):
            return None
        return self.words.format(value=new, limit=self.limit, window=self.window)

    def value(self, history: History) -> float | None:
        return history.last(self.signal, self.window)


@dataclass(frozen=True, slots=True)
class ClippedTokens(Above):
    """The objective's clip takes the gradient of more than `limit` of the tokens."""

    limit: float = 0.2
    signal = "clip_share"
    words = (
        "{value:.1%} of the tokens are clipped (limit {limit:.0%}): updates are too large for the clip; lower the learning rate"
    )


@dataclass(frozen=True, slots=True)
class PolicyKl(Above):
    """One step's updates move the policy by more than `limit` nats per token."""

    limit: float = 0.1
    signal = "policy_kl"
    words = "a step moves the policy by {value:.3g} nats per token (limit {limit}): updates are too large"


@dataclass(frozen=True, slots=True)
class ReferenceKl(Above):
    """The policy is further than `limit` nats per token from its reference."""

    limit: float = 1.0
    signal = "ref_kl"
    words = "the policy is {value:.3g} nats per token from its reference (limit {limit}): it has left what it was"


@dataclass(frozen=True, slots=True)
class Truncation(Above):
    """More than `limit` of the rollouts run into the limit of tokens, `rise` more than at first."""

    limit: float = 0.3
    rise: float = 0.1
    signal = "truncated_share"
    words = "{value:.1%} of the rollouts are cut at the limit of tokens: raise rollout.max_tokens, or shape lengths"


@dataclass(frozen=True, slots=True)
class Repetition(Above):
    """More than `limit` of the rollouts repeat themselves."""

    limit: float = 0.2
    signal = "repetition_share"
    words = "{value:.1%} of the rollouts repeat themselves: half of their 6-grams stand in them before"


@dataclass(frozen=True, slots=True)
class MixedLanguage(Above):
    """More than `limit` of the rollouts mix scripts, `rise` more than at first."""

    limit: float = 0.1
    rise: float = 0.05
    signal = "mixed_script_share"
    words = "{value:.1%} of the rollouts mix scripts: the model changes its language; the verifier `language` could say so"


@dataclass(frozen=True, slots=True)
class FormOnly(Above):
    """More than `limit` of the rollouts with a positive reward have it from form alone."""

    limit: float = 0.5
    signal = "form_only_share"
    words = (
        "{value:.1%} of the rollouts that earn anything earn it by form alone: the model learns to look right; lower that weight"
    )


@dataclass(frozen=True, slots=True)
class NoGradient(Above):
    """More than `limit` of the groups have equal rewards, and so no gradient."""

    limit: float = 0.8
    signal = "groups_without_signal"
    words = "{value:.1%} of the groups have equal rewards and teach nothing: choose problems with `rlvr filter` or a curriculum"

    def value(self, history: History) -> float | None:
        groups, without = history.last("groups", self.window), history.last("groups_without_signal", self.window)
        return None if groups is None or without is None or groups <= 0 else without / groups


@dataclass(frozen=True, slots=True)
class SecondOpinion(Above):
    """A second verifier refuses more than `limit` of the rollouts that the first one calls correct."""

    limit: float = 0.1
    window: int = 3
    signal = "second_refused_share"
    words = (
        "the second verifier refuses {value:.1%} of the rollouts that the training verifier calls correct: the reward is hacked"
    )


@dataclass(frozen=True, slots=True)
class Mismatch(Above):
    """Engine and trainer disagree by more than `limit` nats per token about what was sampled."""

    limit: float = 0.01
    signal = "sampling_kl"
    words = "engine and trainer disagree by {value:.3g} nats per token (limit {limit}): the gradient is off-policy; correct it"


def _mean(rows: Sequence[Row], name: str, window: int) -> float | None:
    found = [row[name] for row in rows if name in row]
    return fmean(found) if len(found) == window else None


def _around(rows: Sequence[Row], step: int, window: int) -> float | None:
    """Mean reward of the steps that surround a measurement; at the start, of the first ones."""
    near = [row["reward_mean"] for row in rows if "reward_mean" in row and step - window < row["step"] <= max(step, window)]
    return fmean(near) if len(near) >= min(window, 2) else None
