"""Running counts over rollouts; every rollout is counted somewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.types import JSON, CallStatus, Outcome, Rollout, Stop, ToolCall

_LIMITS = (Stop.MAX_CALLS, Stop.MAX_TURNS, Stop.WALL_TIME)


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
    calls: dict[CallStatus, int] = field(
        default_factory=lambda: dict.fromkeys(CallStatus, 0)
    )  # tool calls by what became of them
    calling: int = 0  # rollouts with a tool call
    helped: int = 0  # rollouts with a tool call that worked
    stops: dict[Stop, int] = field(default_factory=lambda: dict.fromkeys(Stop, 0))

    def add(self, rollouts: Iterable[Rollout]) -> None:
        for rollout in rollouts:
            self.rollouts += 1
            self.tokens += rollout.completion_tokens
            self.truncated += rollout.is_truncated
            self._add_calls(rollout.calls)
            if rollout.stop is not None:
                self.stops[rollout.stop] += 1
            if not rollout.is_scored:
                self._add_unscored(rollout)
            elif rollout.verdict is not None:
                self.outcomes[rollout.verdict.outcome] += 1
            for name, verdict in rollout.verdicts.items():
                if verdict.score is not None and rollout.error is None:
                    self.score_sums[name] = self.score_sums.get(name, 0.0) + verdict.score
                    self.score_counts[name] = self.score_counts.get(name, 0) + 1

    def absorb(self, other: Tally) -> None:
        """Count what `other` counted, too."""
        for name in ("rollouts", "unscored", "truncated", "tokens", "failed_rollouts", "calling", "helped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in (
            (self.outcomes, other.outcomes),
            (self.score_sums, other.score_sums),
            (self.score_counts, other.score_counts),
            (self.calls, other.calls),
            (self.stops, other.stops),
        ):
            _add_to(mine, theirs)
        self.causes = list(dict.fromkeys(self.causes + other.causes))[:3]

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
            "stops": {stop.value: count for stop, count in self.stops.items() if count},
            "calls": {status.value: count for status, count in self.calls.items() if count},
            "calling": self.calling,
            "helped": self.helped,
        }

    def call_fields(self) -> dict[str, float]:
        """How tools were used, under the names of `metrics.jsonl`."""
        rollouts, made = max(self.rollouts, 1), sum(self.calls.values())
        return {
            "calls_mean": made / rollouts,
            "calling_share": self.calling / rollouts,
            "useful_call_share": self.helped / rollouts,
            **{
                f"call_{status}_share": count / max(made, 1)
                for status, count in self.calls.items()
                if status is not CallStatus.OK
            },
            "call_limit_share": sum(self.stops[stop] for stop in _LIMITS) / rollouts,
        }

    def _add_calls(self, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            self.calls[call.status] += 1
        self.calling += bool(calls)
        self.helped += any(call.status is CallStatus.OK for call in calls)

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


def _add_to(mine: dict[Any, Any], theirs: Mapping[Any, Any]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count
