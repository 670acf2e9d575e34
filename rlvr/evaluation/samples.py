"""What an evaluation keeps of every sample, and what can be said of a problem from its samples."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rlvr.errors import ConfigError
from rlvr.evaluation.passk import all_pass_at_k, pass_at_k
from rlvr.evaluation.selection import Ballot, Ranked, best_at_k, maj_at_k
from rlvr.types import Problem, Rollout


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a problem. `scores` are those of all verifiers by name; None where the verifier failed."""

    seed: int
    index: int
    is_scored: bool
    is_correct: bool
    vote: str | None
    tokens: int
    is_truncated: bool = False
    is_unparsed: bool = False
    scores: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, rollout: Rollout, seed: int = 0) -> Sample:
        """The vote is the answer that the first verifier read, with its spaces put in order; nothing else is made equal."""
        verdict = rollout.verdict
        extracted = None if verdict is None or verdict.extracted is None else " ".join(str(verdict.extracted).split())
        return cls(
            seed=seed,
            index=rollout.sample_index,
            is_scored=rollout.is_scored,
            is_correct=rollout.is_correct,
            vote=extracted or None,
            tokens=rollout.completion_tokens,
            is_truncated=rollout.is_truncated,
            is_unparsed=verdict is not None and verdict.outcome == "unparsed",
            scores={name: one.score for name, one in rollout.verdicts.items()},
        )


Samples = Mapping[str, Sequence[Sample]]  # problem id -> its samples


class Kind(StrEnum):
    """How k samples become one number; see `Metric`."""

    PASS = "pass@"
    ALL = "pass^"
    MAJ = "maj@"
    BEST = "best@"


@dataclass(frozen=True, slots=True)
class Metric:
    """pass@k: one of k samples is right. pass^k: all are. maj@k: the answer that most give is. best@k: the one that `scorer`
    likes best is. Every one is an unbiased mean over subsets of k of a problem's scored samples."""

    kind: Kind
    k: int
    scorer: str = ""

    def __str__(self) -> str:
        return f"{self.kind}{self.k}"

    @classmethod
    def parse(cls, text: str, scorer: str = "") -> Metric:
        """
        Raises:
            ConfigError: not of the form pass@4, pass^4, maj@4 or best@4.
        """
        match = re.fullmatch(r"(pass@|pass\^|maj@|best@)([1-9]\d*)", text)
        if match is None:
            raise ConfigError(f"{text!r} is no metric; metrics look like pass@4, pass^4, maj@4, best@4")
        return cls(Kind(match[1]), int(match[2]), scorer)

    def value(self, samples: Sequence[Sample]) -> float | None:
        """Of one problem; None where fewer than k samples are scored (by the scorer, too)."""
        scored = [sample for sample in samples if sample.is_scored]
        if self.kind is Kind.BEST:
            ranked = [Ranked(score, one.is_correct) for one in scored if (score := one.scores.get(self.scorer)) is not None]
            return best_at_k(ranked, self.k) if len(ranked) >= self.k else None
        if len(scored) < self.k:
            return None
        if self.kind is Kind.MAJ:
            return maj_at_k([Ballot(one.vote, one.is_correct) for one in scored], self.k)
        estimator = pass_at_k if self.kind is Kind.PASS else all_pass_at_k
        return estimator(len(scored), sum(one.is_correct for one in scored), self.k)

    def values(self, samples: Samples) -> dict[str, float]:
        """By problem, without those that have too few scored samples."""
        found = {id: self.value(group) for id, group in samples.items()}
        return {id: value for id, value in found.items() if value is not None}


def metrics_for(samples: Samples, k: Iterable[int], scorer: str = "") -> list[Metric]:
    """What can be said beside pass@k: for k above 1 pass^k, maj@k (where answers are read) and best@k (with a scorer)."""
    sizes = sorted(set(k))
    has_votes = any(sample.vote is not None for group in samples.values() for sample in group)
    found = [Metric(Kind.MAJ, size) for size in sizes if size > 1 and has_votes]
    found += [Metric(Kind.BEST, size, scorer) for size in sizes if size > 1 and scorer]
    return found + [Metric(Kind.ALL, size) for size in sizes if size > 1]


def problems_hash(problems: Iterable[Problem]) -> str:
    """Of ids, prompts and answers, in order: equal where two evaluations asked the same."""
    digest = hashlib.sha256()
    for problem in problems:
        prompt = [[message.role, message.content] for message in problem.prompt]
        digest.update(
            json.dumps([problem.id, prompt, problem.answer], sort_keys=True, default=str).encode("utf-8", "surrogatepass")
        )
    return digest.hexdigest()


class PromptHash:
    """Of the token ids that the model saw first, in the order of `add`: equal where template and tokenizer are, too."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._has_tokens = False

    def add(self, rollout: Rollout) -> None:
        if rollout.turns and rollout.turns[0].prompt_ids:
            self._has_tokens = True
            self._digest.update(",".join(map(str, rollout.turns[0].prompt_ids)).encode() + b"\n")

    def value(self) -> str | None:
        """None where a server renders prompts."""
        return self._digest.hexdigest() if self._has_tokens else None
