"""What is asked of vLLM and what it answers, colocated or behind a server: tokens in, tokens out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlvr.errors import EngineError
from rlvr.types import JSON, Completion, FinishReason, Sampling

LOGPROBS_MODE = "processed_logprobs"  # those of the distribution that was sampled from: after temperature, top_k, top_p, min_p
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_COLDEST = 1e-2  # vLLM raises temperatures below it


class ReplicaLostError(EngineError):
    """An instance of vLLM died, cannot be reached, or has other weights than it should; another one may do the work."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how it is answered with at most `limit` tokens; any of `end_ids` ends the answer.

    One that `is_urgent` need not wait for others, where an instance can tell them apart.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int
    end_ids: tuple[int, ...]
    is_urgent: bool = False

    def settings(self) -> dict[str, JSON]:
        """The fields of vLLM's `SamplingParams`. Text is made only where stop strings are looked for.

        Raises:
            EngineError: a temperature that vLLM would silently raise.
        """
        sampling = self.sampling
        if 0.0 < sampling.temperature < _COLDEST:
            raise EngineError(
                f"sampling.temperature = {sampling.temperature:g}, but vLLM samples at {_COLDEST:g} instead of anything "
                "between 0 and that; use 0 (greedy), or more"
            )
        return {
            "max_tokens": self.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "seed": sampling.seed,
            "logprobs": 0,  # of the sampled token, and no others
            "stop": list(sampling.stop),
            "stop_token_ids": list(self.end_ids),
            "ignore_eos": True,  # the ends are all named; vLLM knows only some of them
            "detokenize": bool(sampling.stop),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """From token `first` on, weights of this name sampled an answer."""

    first: int
    version: str


@dataclass(frozen=True, slots=True)
class Draw:
    """One answer of an instance. `version` is its own name for the weights that sampled the first token, None where it said none;
    `changes` are the weights that came while it sampled."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    version: str | None
    changes: tuple[Change, ...] = ()

    @property
    def sampled_by(self) -> tuple[str | None, ...]:
        """The names of all weights that had a part in it."""
        return (self.version, *(change.version for change in self.changes))

    def completion(self, numbers: Mapping[str, int], present: int) -> Completion:
        """`numbers` are the policy's versions by the instances' names for them; `present` is that of an answer without tokens.

        Raises:
            EngineError: logprobs that are missing or not numbers.
        """
        if len(self.logprobs) != len(self.token_ids):
            raise EngineError(f"vLLM sent {len(self.token_ids)} tokens, but {len(self.logprobs)} logprobs")
        if any(math.isnan(value) for value in self.logprobs):
            raise EngineError("the model's logits are NaN; its weights have diverged (lower optim.lr) or are damaged")
        finish = _FINISH.get(self.finish, FinishReason.ABORT)
        first = present if self.version is None else numbers[self.version]
        versions = [first] * len(self.token_ids)
        for change in self.changes:
            versions[change.first :] = [numbers[change.version]] * len(versions[change.first :])
        mixed = tuple(versions) if len(set(versions)) > 1 else None
        return Completion(self.token_ids, self.logprobs, finish, first, token_versions=mixed)


def draw_of(token_ids: tuple[int, ...], logprobs: tuple[float, ...], finish: str, spans: Iterable[tuple[str, int]]) -> Draw:
    """An answer with vLLM's own record of who sampled what: the name of the weights and their first token, of each span."""
    (version, _), *later = tuple(spans) or ((None, 0),)
    changes = (Change(first, name) for name, first in later if name is not None and first < len(token_ids))
    return Draw(token_ids, logprobs, finish, version, tuple(changes))


@dataclass(frozen=True, slots=True)
class Weights:
    """A safetensors file in checkpoint format with the weights of one version of the policy."""

    path: str
    version: str
