"""The nouns. Frozen and slotted; `Rollout` alone is mutable, because it is built turn by turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

JSON: TypeAlias = Any  # str | int | float | bool | None | list[JSON] | dict[str, JSON]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One task instance. Only verifiers read `answer`; `id` is stable across runs."""

    id: str
    prompt: tuple[Message, ...]
    answer: JSON
    metadata: Mapping[str, JSON] = field(default_factory=dict)


class FinishReason(StrEnum):
    """Why one engine call ended."""

    STOP = "stop"  # an end-of-sequence token or a stop string
    LENGTH = "length"  # max_tokens or the context was full
    ABORT = "abort"  # the engine gave up; our fault


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn. `temperature=0` is greedy; `top_k=0` and `top_p=1` mean off."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What one engine call returned: `token_ids[n]` and their `logprobs[n]` under the sampling distribution.

    The end-of-sequence token, where the model sampled one, is the last of `token_ids`.
    `policy_version` counts the weight updates that the engine had received.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int = 0

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} token_ids, but {len(self.logprobs)} logprobs")


class Engine(Protocol):
    """Tokens in, tokens out. Implementations live in `rlvr.engines`."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion of `prompt_ids`.

        Raises:
            EngineError: the request cannot be served (longer than the context, engine died).
        """
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One engine call inside a rollout: `prompt_ids[m]` is the whole context that the engine saw."""

    prompt_ids: tuple[int, ...]
    completion: Completion
    message: Message
    replies: tuple[Message, ...] = ()


class Outcome(StrEnum):
    """What a verifier found."""

    CORRECT = "correct"
    PARTIAL = "partial"
    INCORRECT = "incorrect"
    UNPARSED = "unparsed"
    VERIFIER_ERROR = "verifier_error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's answer about one rollout.

    `score` is in [0, 1], and None exactly for `verifier_error`: the model's fault scores 0, our fault is not a score.
    """

    outcome: Outcome
    score: float | None
    extracted: str | None = None
    reason: str = ""
    elapsed_s: float = 0.0
    details: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.score is None) != (self.outcome is Outcome.VERIFIER_ERROR):
            raise ValueError(f"outcome {self.outcome} with score {self.score}: score is None exactly for verifier_error")
        if self.score is not None and not (math.isfinite(self.score) and 0.0 <= self.score <= 1.0):
            raise ValueError(f"score {self.score} is outside [0, 1]")

    @classmethod
    def correct(cls, extracted: str | None = None, reason: str = "", **details: JSON) -> Verdict:
        return cls(Outcome.CORRECT, 1.0, extracted, reason, details=details)

    @classmethod
    def partial(cls, score: float, extracted: str | None = None, reason: str = "", **details: JSON) -> Verdict:
        return cls(Outcome.PARTIAL, score, extracted, reason, details=details)

    @classmethod
    def incorrect(cls, extracted: str | None = None, reason: str = "", **details: JSON) -> Verdict:
        return cls(Outcome.INCORRECT, 0.0, extracted, reason, details=details)

    @classmethod
    def unparsed(cls, reason: str, **details: JSON) -> Verdict:
        return cls(Outcome.UNPARSED, 0.0, None, reason, details=details)

    @classmethod
    def error(cls, reason: str, **details: JSON) -> Verdict:
        return cls(Outcome.VERIFIER_ERROR, None, None, reason, details=details)


class Stop(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # truncated by max_tokens or the context
    ENV = "env"  # the environment ended the conversation
    MAX_TURNS = "max_turns"
    ERROR = "error"  # our fault; `Rollout.error` says what


@dataclass(frozen=True, slots=True)
class Segment:
    """A token run that only ever grew: `token_ids[T]`, `loss_mask[T]` (sampled tokens), `sampling_logprobs[T]` (0 on others)."""

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    sampling_logprobs: tuple[float, ...]


@dataclass(slots=True)
class Rollout:
    """One attempt at one problem.

    `verdicts` (by verifier name; the first is the one that evaluation counts) is the truth; `reward` is the incentive,
    after weighting and shaping. Both are empty until the rollout was graded.
    """

    problem: Problem
    sample_index: int
    turns: list[Turn] = field(default_factory=list)
    stop: Stop | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    reward: float | None = None
    error: str | None = None

    @classmethod
    def from_response(cls, problem: Problem, response: str, *, truncated: bool = False) -> Rollout:
        """A rollout of one turn without tokens, for grading text that came from elsewhere."""
        finish = FinishReason.LENGTH if truncated else FinishReason.STOP
        turn = Turn((), Completion((), (), finish), Message("assistant", response))
        return cls(problem, 0, [turn], Stop.LENGTH if truncated else Stop.STOP)

    @property
    def response(self) -> str:
        """The text of the last assistant message; empty if there is none."""
        return self.turns[-1].message.content if self.turns else ""

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that evaluation counts: the first verifier's."""
        return next(iter(self.verdicts.values()), None)

    @property
    def is_scored(self) -> bool:
        """Whether the first verdict carries a score. False is our fault, never the model's: count it apart."""
        return self.error is None and self.verdict is not None and self.verdict.score is not None

    @property
    def is_correct(self) -> bool:
        """Scored and fully right; a partial answer is not."""
        return self.is_scored and self.verdict is not None and self.verdict.outcome is Outcome.CORRECT

    @property
    def completion_tokens(self) -> int:
        """Tokens that the policy sampled, over all turns."""
        return sum(len(turn.completion.token_ids) for turn in self.turns)

    @property
    def is_truncated(self) -> bool:
        return self.stop is Stop.LENGTH

    def segments(self) -> tuple[Segment, ...]:
        """The rollout as training sequences: one, unless a chat template rewrote its history between turns."""
        segments: list[Segment] = []
        tokens: list[int] = []
        mask: list[bool] = []
        logprobs: list[float] = []
        for turn in self.turns:
            if tokens and list(turn.prompt_ids[: len(tokens)]) != tokens:
                segments.append(Segment(tuple(tokens), tuple(mask), tuple(logprobs)))
                tokens, mask, logprobs = [], [], []
            appended = turn.prompt_ids[len(tokens) :]
            tokens += [*appended, *turn.completion.token_ids]
            mask += [False] * len(appended) + [True] * len(turn.completion.token_ids)
            logprobs += [0.0] * len(appended) + list(turn.completion.logprobs)
        if tokens:
            segments.append(Segment(tuple(tokens), tuple(mask), tuple(logprobs)))
        return tuple(segments)


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one problem, compared with each other by group algorithms."""

    problem: Problem
    rollouts: tuple[Rollout, ...]


@dataclass(slots=True)
class StepBatch:
    """Everything that one optimizer step trains on; a row is one segment, padded on the right to T tokens.

    Columns line up with `input_ids`: position t of every [B, T] tensor speaks of the token `input_ids[:, t]`,
    so `loss_mask[:, 0]` is False. `old_logprobs` is None on the first update of a step, where it equals the
    policy's own logprobs; `ref_logprobs` is None without a KL term; `values` is None without a critic.
    """

    input_ids: Tensor  # [B, T] long
    lengths: Tensor  # [B] long: real tokens of each row
    loss_mask: Tensor  # [B, T] bool
    sampling_logprobs: Tensor  # [B, T]
    old_logprobs: Tensor | None  # [B, T]
    ref_logprobs: Tensor | None  # [B, T]
    values: Tensor | None  # [B, T]
    advantages: Tensor  # [B, T], 0 outside the mask
    weights: Tensor  # [B, T], 0 outside the mask; the loss is (weights * per_token_loss).sum()
    rewards: Tensor  # [R], one for each rollout
    rollout_index: Tensor  # [B] long: row -> rollout
    group_index: Tensor  # [R] long: rollout -> group
