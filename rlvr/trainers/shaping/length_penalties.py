"""Length penalties: shapes that make the reward depend on how many tokens a rollout took.

A recipe names them under `[[shapes]]`; in Python they are parts of an algorithm: `replace(grpo(), shape=KimiLength())`. All
count sampled tokens, and those that compare rollouts compare within one group, never across problems that happen to share a
batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from rlvr.errors import ConfigError
from rlvr.trainers.shaping.base import Identity, OverlongPenalty
from rlvr.types import Group, Problem, Rollout


@dataclass(frozen=True, slots=True)
class KimiLength:
    """Shorter is better among correct answers, longer is worse among wrong ones: λ = 0.5 - (n - min) / (max - min).

    A correct answer gets weight * λ, a wrong one weight * min(0, λ); nothing where all lengths are equal, and nothing during
    the run's first `warmup_steps`: the paper trains without the penalty first, and then with a constant one.

    Source: Kimi k1.5, arXiv:2501.12599, section 2.3.3. It gives neither weight nor warm-up.
    """

    weight: float = 1.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_positive("kimi_length.weight", self.weight)
        if self.warmup_steps < 0:
            raise ConfigError(f"kimi_length.warmup_steps = {self.warmup_steps}; give the steps without a penalty, 0 or more")

    def at_step(self, step: int, /) -> KimiLength | Identity:
        return Identity() if step < self.warmup_steps else self

    def __call__(self, group: Group, /) -> list[float | None]:
        lengths = [rollout.completion_tokens for rollout in group.rollouts if rollout.reward is not None]
        shortest, longest = min(lengths, default=0), max(lengths, default=0)
        if shortest == longest:
            return [rollout.reward for rollout in group.rollouts]
        return [self._shaped(rollout, shortest, longest) for rollout in group.rollouts]

    def _shaped(self, rollout: Rollout, shortest: int, longest: int) -> float | None:
        if rollout.reward is None:
            return None
        bonus = 0.5 - (rollout.completion_tokens - shortest) / (longest - shortest)
        return rollout.reward + self.weight * (bonus if rollout.is_correct else min(0.0, bonus))

    @property
    def formula(self) -> str:
        return f"rᵢ = score + {self.weight:g} · (λᵢ if correct else min(0, λᵢ)),  λᵢ = 0.5 − (|oᵢ| − min_g) / (max_g − min_g)"

    @property
    def words(self) -> str:
        told = "within a group, shorter correct answers earn more and longer wrong ones lose more"
        return f"{told}; not in the first {self.warmup_steps} steps" if self.warmup_steps else told


@dataclass(frozen=True, slots=True)
class TargetLength:
    """LCPO-Exact: score - alpha * |target - n|; `metadata["target_tokens"]` of the problem is the target.

    Source: L1, arXiv:2503.04697, eq. 1, alpha = 3e-4.
    """

    alpha: float = 3e-4

    def __post_init__(self) -> None:
        _check_positive("lcpo_exact.alpha", self.alpha)

    def check(self, problem: Problem, /) -> None:
        _target_tokens(problem)

    def __call__(self, group: Group, /) -> list[float | None]:
        target = _target_tokens(group.problem)
        return [None if r.reward is None else r.reward - self.alpha * abs(target - r.completion_tokens) for r in group.rollouts]

    @property
    def formula(self) -> str:
        return f"rᵢ = score − {self.alpha:g} · |target − |oᵢ||"

    @property
    def words(self) -> str:
        return "the reward falls with the distance from the length that the prompt asks for"


@dataclass(frozen=True, slots=True)
class LengthBudget:
    """LCPO-Max: score * clip(alpha * (target - n) + delta, 0, 1): a soft budget; a wrong answer stays at 0.

    `form="paper"` is that; `"code"` is what the authors' published trainer computes, score * (clip(alpha * (target - n), -1, 1)
    + 1) / 2, whose slope is alpha / 2 and which has no delta.

    Source: L1, arXiv:2503.04697, eq. 2, alpha = 3e-4 and delta = 0.5; the code that was published with it.
    """

    alpha: float = 3e-4
    delta: float = 0.5
    form: Literal["paper", "code"] = "paper"

    def __post_init__(self) -> None:
        _check_positive("lcpo_max.alpha", self.alpha)
        if not 0 <= self.delta <= 1:
            raise ConfigError(f"lcpo_max.delta = {self.delta}; it is the share of the reward left at the target: give 0 to 1")
        if self.form not in ("paper", "code"):
            raise ConfigError(f"lcpo_max.form = {self.form!r}; allowed: paper, code")

    def check(self, problem: Problem, /) -> None:
        _target_tokens(problem)

    def __call__(self, group: Group, /) -> list[float | None]:
        target = _target_tokens(group.problem)
        return [None if r.reward is None else r.reward * self._share(target - r.completion_tokens) for r in group.rollouts]

    def _share(self, tokens_left: float) -> float:
        if self.form == "code":
            return (min(1.0, max(-1.0, self.alpha * tokens_left)) + 1) / 2
        return min(1.0, max(0.0, self.alpha * tokens_left + self.delta))

    @property
    def formula(self) -> str:
        if self.form == "code":
            return f"rᵢ = score · (clip({self.alpha:g} · (target − |oᵢ|), −1, 1) + 1) / 2"
        return f"rᵢ = score · clip({self.alpha:g} · (target − |oᵢ|) + {self.delta:g}, 0, 1)"

    @property
    def words(self) -> str:
        return "a correct answer earns less the more it exceeds the length that the prompt allows"


@dataclass(frozen=True, slots=True)
class TokenCost:
    """score - alpha * n: every sampled token costs the same, in every step and for every answer.

    Source: INTELLECT-2, arXiv:2505.07291, has the constant alpha = 3e-4 on the distance from an asked length;
    that is `lcpo_exact` on prompts with discrete targets. This is its special case of a target of no tokens.
    """

    alpha: float = 3e-4

    def __post_init__(self) -> None:
        _check_positive("token_cost.alpha", self.alpha)

    def __call__(self, group: Group, /) -> list[float | None]:
        return [None if r.reward is None else r.reward - self.alpha * r.completion_tokens for r in group.rollouts]

    @property
    def formula(self) -> str:
        return f"rᵢ = score − {self.alpha:g} · |oᵢ|"

    @property
    def words(self) -> str:
        return "every token costs the same small amount, whatever the answer"


@dataclass(frozen=True, slots=True)
class GrowingLimit:
    """The soft overlong punishment at a limit that grows: `limits[stage]` tokens, a stage lasting `stage_steps` steps.

    With `above` a stage lasts until accuracy was at least that on average over the last `stage_steps` of its steps, and the
    limits may also fall: less is allowed as soon as the present length is mastered.

    The last limit stays. Generation still stops at `rollout.max_tokens`, which should be the largest limit; `buffer=None` is 20 %
    of each limit. Without a step (outside of training) the last limit holds.

    Source: Kimi k1.5, arXiv:2501.12599, and the RLHF book's account of it: the allowed length is progressively expanded against
    overthinking. Neither gives a formula; the stages are ours, the punishment is DAPO's (arXiv:2503.14476, eq. 13). Limits that
    fall in stages: ThinkPrune, arXiv:2504.01296, which cuts at the limit instead.
    """

    limits: tuple[int, ...] = (1024, 2048, 4096, 8192)
    stage_steps: int = 100
    buffer: int | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        ordered = sorted(self.limits)
        is_ordered = list(self.limits) == ordered or (self.above is not None and list(self.limits) == ordered[::-1])
        if not self.limits or min(self.limits) < 1 or not is_ordered:
            raise ConfigError(
                f"growing_limit.limits = {list(self.limits)}; give tokens, 1 or more, that never fall, or with `above` never rise"
            )
        if self.above is not None and not 0.0 < self.above <= 1.0:
            raise ConfigError(f"growing_limit.above = {self.above}; give the share of correct responses, above 0 and up to 1")
        if self.stage_steps < 1:
            raise ConfigError(f"growing_limit.stage_steps = {self.stage_steps}; give the steps of a stage, 1 or more")
        for limit in self.limits:
            OverlongPenalty(limit, self.buffer)

    def limit(self, step: int) -> int:
        """Tokens allowed after `step` finished steps; never falls."""
        return self.limits[min(step // self.stage_steps, len(self.limits) - 1)]

    def at_step(self, step: int, /) -> OverlongPenalty | GrowingLimit:
        return self if self.above is not None else OverlongPenalty(self.limit(step), self.buffer)

    @property
    def last_stage(self) -> int:
        return len(self.limits) - 1

    def at_stage(self, stage: int, /) -> OverlongPenalty:
        return OverlongPenalty(self.limits[min(stage, self.last_stage)], self.buffer)

    def __call__(self, group: Group, /) -> list[float | None]:
        return OverlongPenalty(self.limits[-1], self.buffer)(group)

    @property
    def formula(self) -> str:
        buffer = "(limit / 5)" if self.buffer is None else f"{self.buffer}"
        stages = " → ".join(map(str, self.limits))
        return f"rᵢ = score − min(1, max(0, |oᵢ| − (limit − {buffer})) / {buffer}),  limit = {stages}"

    @property
    def words(self) -> str:
        told = "long responses lose up to 1; how long is too long"
        if self.above is None:
            return f"{told} grows every {self.stage_steps} steps"
        change = "grows" if self.limits[-1] >= self.limits[0] else "shrinks"
        return f"{told} {change} when {self.above:.0%} were correct over {self.stage_steps} steps"


@dataclass(frozen=True, slots=True)
class CosineLength:
    """The reward runs along a cosine from its value at 0 tokens to its value at `max_tokens`, for correct and wrong apart.

    It replaces the score. The defaults want correct answers short, and give wrong ones more the more they tried. With `exceed`, a
    response of `max_tokens` or more gets that, right or wrong.

    Source: "Demystifying Long Chain-of-Thought Reasoning", arXiv:2502.03373. The defaults are those of open-r1 and
    TRL, which know no `exceed`; the paper has it, and other values.
    """

    max_tokens: int | None = None
    correct: tuple[float, float] = (1.0, 0.5)
    wrong: tuple[float, float] = (-1.0, -0.5)
    exceed: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.correct, *self.wrong, self.exceed or 0.0)):
            raise ConfigError(f"cosine_length: correct, wrong and exceed must be finite, got {self}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens = {self.max_tokens}; give the longest response in tokens, 1 or more")

    def bind(self, *, max_tokens: int) -> CosineLength:
        return self if self.max_tokens is not None else replace(self, max_tokens=max_tokens)

    def __call__(self, group: Group, /) -> list[float | None]:
        return [None if rollout.reward is None else self._value(rollout) for rollout in group.rollouts]

    def _value(self, rollout: Rollout) -> float:
        if self.max_tokens is None:
            raise ConfigError("max_tokens is not set, but the cosine ends there; bind the algorithm to the run's max_tokens")
        if self.exceed is not None and rollout.completion_tokens >= self.max_tokens:
            return self.exceed
        start, end = self.correct if rollout.is_correct else self.wrong
        share = min(1.0, rollout.completion_tokens / self.max_tokens)
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    @property
    def formula(self) -> str:
        limit = self.max_tokens or "max_tokens"
        ends = [f"{end:g} + {(start - end) / 2:g} (1 + cos(π |oᵢ|/{limit}))" for start, end in (self.correct, self.wrong)]
        beyond = "" if self.exceed is None else f", but {self.exceed:g} if |oᵢ| ≥ {limit}"
        return f"rᵢ = {ends[0]} if correct else {ends[1]}{beyond}"

    @property
    def words(self) -> str:
        return "the reward depends on the answer and, along a cosine, on its length"


def _target_tokens(problem: Problem) -> float:
    target = problem.metadata.get("target_tokens")
    if isinstance(target, bool) or not isinstance(target, int | float) or not (math.isfinite(target) and target > 0):
        raise ConfigError(
            f"problem {problem.id!r} has metadata target_tokens = {target!r}, but this length penalty needs the number of tokens "
            "that its prompt asks for; train on task = 'length_target:NAME', which writes both"
        )
    return float(target)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} = {value}; give a positive number")
