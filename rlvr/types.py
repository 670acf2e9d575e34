"""The nouns. Frozen and slotted; `Rollout` alone is mutable, because it is built turn by turn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

JSON: TypeAlias = Any  # str | int | float | bool | None | list[JSON] | dict[str, JSON]


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call that an assistant's message asks for. `id` ties a tool's message to it; `problem`: why it cannot be read."""

    name: str
    arguments: Mapping[str, JSON]
    id: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `role` is system, user, assistant or tool.

    `content` is the whole text, the calls in it included; `calls` is what was read from an assistant's message and `before_calls`
    its text before them, for templates and servers that want calls apart. A tool's message names the call that it answers
    (`call_id`) and the tool (`name`).
    """

    role: str
    content: str
    calls: tuple[FunctionCall, ...] = ()
    before_calls: str = ""
    call_id: str = ""
    name: str = ""


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
    `policy_version` counts the weight updates that the engine had received when it sampled the first token. Where new weights
    came while it was sampling, `token_versions[n]` counts them for each token. `reported_tokens` is set where a server only
    told the number of tokens.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int = 0
    reported_tokens: int | None = None
    token_versions: tuple[int, ...] | None = None  # None: `policy_version` sampled them all

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} token_ids, but {len(self.logprobs)} logprobs")
        if self.token_versions is not None and len(self.token_versions) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} token_ids, but {len(self.token_versions)} token_versions")

    @property
    def versions(self) -> tuple[int, ...]:
        """[n] the version of the policy that sampled each token."""
        return (self.policy_version,) * len(self.token_ids) if self.token_versions is None else self.token_versions

    @property
    def tokens_by_version(self) -> Mapping[int, int]:
        """How many tokens each version sampled; without those that sampled none."""
        if self.token_versions is not None:
            return Counter(self.token_versions)
        return {self.policy_version: len(self.token_ids)} if self.token_ids else {}

    @property
    def sampled_tokens(self) -> int:
        """How many tokens were sampled, the end-of-sequence token included."""
        return len(self.token_ids) if self.reported_tokens is None else self.reported_tokens


class Engine(Protocol):
    """Tokens in, tokens out. Implementations live in `rlvr.engines`."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion of `prompt_ids`.

        Raises:
            EngineError: the request cannot be served (longer than the context, engine died).
        """
        ...


class CallStatus(StrEnum):
    """What became of a tool call. None of these is our fault: a tool whose infrastructure fails ends the rollout unscored."""

    OK = "ok"
    FAILED = "failed"  # the tool ran and refused, or the code in it raised
    TIMED_OUT = "timed_out"
    MALFORMED = "malformed"  # not a call that can be read: bad JSON, a tag that is not closed
    UNKNOWN_TOOL = "unknown_tool"
    BAD_ARGUMENTS = "bad_arguments"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a rollout and what became of it; what the model was told stands in the turn's replies, in the same order.

    `name` and `arguments` are as far as they could be read. `is_truncated`: the model was shown only a part of the output.
    """

    name: str
    arguments: JSON
    status: CallStatus
    elapsed_s: float = 0.0
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One engine call inside a rollout: `prompt_ids[m]` is the whole context that the engine saw.

    What the environment answered is in `replies`, as messages, or in `inline`, as text inside the assistant's own message,
    which the next turn then continues (empty: it continues with nothing added).
    """

    prompt_ids: tuple[int, ...]
    completion: Completion
    message: Message
    replies: tuple[Message, ...] = ()
    inline: str | None = None
    calls: tuple[ToolCall, ...] = ()

    @property
    def answers(self) -> tuple[Message, ...]:
        """What the environment said after this turn, as messages, for whoever shows a rollout."""
        return self.replies if not self.inline else (Message("tool", self.inline.strip("\n")),)


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
        """Right: score 1."""
        return cls(Outcome.CORRECT, 1.0, extracted, reason, details=details)

    @classmethod
    def partial(cls, score: float, extracted: str | None = None, reason: str = "", **details: JSON) -> Verdict:
        """Partly right, with a score in [0, 1]."""
        return cls(Outcome.PARTIAL, score, extracted, reason, details=details)

    @classmethod
    def incorrect(cls, extracted: str | None = None, reason: str = "", **details: JSON) -> Verdict:
        """An answer that is wrong: score 0."""
        return cls(Outcome.INCORRECT, 0.0, extracted, reason, details=details)

    @classmethod
    def unparsed(cls, reason: str, **details: JSON) -> Verdict:
        """No answer could be read: score 0."""
        return cls(Outcome.UNPARSED, 0.0, None, reason, details=details)

    @classmethod
    def error(cls, reason: str, **details: JSON) -> Verdict:
        """We failed, and not the model: no score."""
        return cls(Outcome.VERIFIER_ERROR, None, None, reason, details=details)


class Stop(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # truncated by max_tokens or the context
    ENV = "env"  # the environment ended the conversation
    MAX_TURNS = "max_turns"
    MAX_CALLS = "max_calls"  # the model asked for more tool calls than it has
    WALL_TIME = "wall_time"  # tools and environment took longer than they may
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
        """What the model wrote as its last message; empty if there is none.

        A message that tools answered inside it has several turns: their texts are joined, without what the tools said.
        """
        if not self.turns or (self.turns[-1].inline is None and len(self.turns) == 1):
            return self.turns[-1].message.content if self.turns else ""
        parts: list[str] = []
        for turn in reversed(self.turns):
            if parts and turn.inline is None:
                break
            parts.append(turn.message.content)
        return "".join(reversed(parts))

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that evaluation counts: the first verifier's."""
        return next(iter(self.verdicts.values()), None)

    @property
    def is_scored(self) -> bool:
        """Whether the first verdict carries a score. False is our fault, never the model's: count it apart."""
        verdict = self.verdict
        return self.error is None and verdict is not None and verdict.score is not None

    @property
    def is_correct(self) -> bool:
        """Scored and fully right; a partial answer is not."""
        verdict = self.verdict
        return self.is_scored and verdict is not None and verdict.outcome is Outcome.CORRECT

    @property
    def completion_tokens(self) -> int:
        """Tokens that the policy sampled, over all turns; what tools and environments said does not count."""
        return sum(turn.completion.sampled_tokens for turn in self.turns)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Every tool call, in order."""
        return tuple(call for turn in self.turns for call in turn.calls)

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
