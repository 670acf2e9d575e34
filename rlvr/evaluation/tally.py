"""Running counts over rollouts; every rollout is counted somewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rlvr.types import JSON, Outcome, Rollout


@dataclass(slots=True)
class Tally:
    """What happened so far. Unscored rollouts are our fault: they are in no share but their own."""

    rollouts: int = 0
    unscored: int = 0
    truncated: int = 0
    tokens: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    failed_rollouts: int = 0  # ended by an infrastructure error; also in `unscored`
    score_sums: dict[str, float] = field(default_factory=dict)  # by verifier, over its own scored verdicts
    score_counts: dict[str, int] = field(default_factory=dict)
    causes: list[str] = field(default_factory=list)  # the first three distinct reasons for unscored rollouts

    def add(self, rollouts: Iterable[Rollout]) -> None:
        for rollout in rollouts:
            self.rollouts += 1
            self.tokens += rollout.completion_tokens
            self.truncated += rollout.is_truncated
            if not rollout.is_scored:
                self._add_unscored(rollout)
            elif rollout.verdict is not None:
                self.outcomes[rollout.verdict.outcome] += 1
            for name, verdict in rollout.verdicts.items():
                if verdict.score is not None and rollout.error is None:
                    self.score_sums[name] = self.score_sums.get(name, 0.0) + verdict.score
                    self.score_counts[name] = self.score_counts.get(name, 0) + 1

    @property
    def scored(self) -> int:
        return self.rollouts - self.unscored

    @property
    def correct_share(self) -> float:
        """Of the scored rollouts; 0 when there are none."""
        return self.outcomes[Outcome.CORRECT] / max(self.scored, 1)

    def fields(self, seconds: float) -> dict[str, float]:
        """The numbers that a progress line shows, under the names of `metrics.jsonl`."""
        rollouts = max(self.rollouts, 1)
        return {
            "correct_share": self.correct_share,
            "tokens_mean": self.tokens / rollouts,
            "truncated_share": self.truncated / rollouts,
            "unscored_share": self.unscored / rollouts,
            "tokens_per_s": self.tokens / seconds if seconds > 0 else 0.0,
        }

    def to_json(self) -> dict[str, JSON]:
        return {
            "rollouts": self.rollouts,
            "scored": self.scored,
            "unscored": self.unscored,
            "failed_rollouts": self.failed_rollouts,
            "truncated": self.truncated,
            "tokens": self.tokens,
            **{outcome.value: count for outcome, count in self.outcomes.items()},
        }

    def _add_unscored(self, rollout: Rollout) -> None:
        self.unscored += 1
        if rollout.error is not None:
            self.failed_rollouts += 1
            cause = rollout.error
        elif rollout.verdict is not None:
            self.outcomes[Outcome.VERIFIER_ERROR] += 1
            cause = f"problem {rollout.problem.id}: {rollout.verdict.reason}"
        else:
            cause = f"problem {rollout.problem.id}: no verifier graded it"
        if cause not in self.causes and len(self.causes) < 3:
            self.causes.append(cause)
