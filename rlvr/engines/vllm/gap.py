"""Does vLLM hold the trainer's weights? The same tokens are scored by both, and their logprobs compared."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from rlvr import seeding
from rlvr.engines.shards import device_of
from rlvr.engines.vllm.request import Draw, Request
from rlvr.errors import EngineError, boundary
from rlvr.types import Sampling

# Measured in fp32 on the CPU: 1e-6 with the right weights, 0.18 with an old copy of a tied head, 2.5 with an old prefix cache.
# In bf16 two correct implementations differ by some hundredths.
LIMITS: dict[str, float] = {"fp32": 1e-3, "bf16": 0.15}
_PROBES = 4
_NEW_TOKENS = 8
_TEMPERATURES = (0.7, 1.0)
_LONGEST_PROMPT = 384  # tokens; a cached block has 16 to 128


@dataclass(frozen=True, slots=True)
class Gap:
    """|logprob by vLLM - logprob by the trainer| over `tokens` sampled tokens."""

    mean: float
    largest: float
    tokens: int


class Probes:
    """Sequences to compare on: answers that vLLM gave lately, which its prefix cache knows best, and one of random tokens."""

    def __init__(self, *, vocabulary: int, max_context: int, end_ids: tuple[int, ...]) -> None:
        self._longest = max(1, min(_LONGEST_PROMPT, max_context - _NEW_TOKENS))
        self._new_tokens = min(_NEW_TOKENS, max_context - 1)
        self._end_ids = end_ids
        self._recent: deque[tuple[int, ...]] = deque(maxlen=_PROBES)
        rng = seeding.rng("vllm probe", vocabulary)
        self._random = (vocabulary - 1, *(rng.randrange(vocabulary) for _ in range(self._longest - 1)))

    def remember(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> None:
        """An answer that was just given."""
        whole = (*prompt, *answer)
        self._recent.append(whole[: self._longest])

    def requests(self, most: int = _NEW_TOKENS) -> list[Request]:
        """Each is to be continued by `most` tokens, where the context has room for them."""
        tokens = min(most, self._new_tokens)
        sampling = Sampling(max_tokens=tokens)
        # Not all at temperature 1, so that a server shows whose logprobs are not those of what was sampled from.
        prompts = dict.fromkeys((*self._recent, self._random))
        return [
            Request(
                prompt, replace(sampling, seed=index, temperature=_TEMPERATURES[index % 2]), tokens, self._end_ids, is_urgent=True
            )
            for index, prompt in enumerate(prompts)
        ]


def measure(requests: Sequence[Request], draws: Sequence[Draw], model: Any, *, precision: Literal["fp32", "bf16"]) -> Gap:
    """The gap on what one instance drew; the model scores its tokens as training does, each answer by itself.

    Raises:
        EngineError: there are no tokens to compare, or the model cannot score them.
    """
    differences: list[float] = []
    for request, draw in zip(requests, draws, strict=True):
        if draw.token_ids:
            rows = _logprobs(model, request, draw.token_ids[:-1], precision)
            scored = rows.gather(-1, torch.tensor(draw.token_ids)[:, None])[:, 0].tolist()
            differences += [abs(ours - theirs) for ours, theirs in zip(scored, draw.logprobs, strict=True)]
    if not differences:
        raise EngineError("vLLM drew no tokens to compare its weights by")
    return _gap(differences)


def expect(request: Request, model: Any, *, precision: Literal["fp32", "bf16"]) -> torch.Tensor:
    """[V] the model's log-probabilities of the first token of an answer, on the CPU.

    Raises:
        EngineError: the model cannot score it.
    """
    return _logprobs(model, request, (), precision)[0]


def compare(expected: Sequence[torch.Tensor], draws: Sequence[Draw], version: str) -> Gap | None:
    """The gap on first tokens that were drawn after they had been expected; None where none has the weights `version`."""
    differences = [
        abs(draw.logprobs[0] - float(row[draw.token_ids[0]]))
        for row, draw in zip(expected, draws, strict=True)
        if draw.token_ids and draw.version == version
    ]
    return _gap(differences) if differences else None


def idle(model: Any, precision: Literal["fp32", "bf16"]) -> None:
    """Score nothing that matters: the other ranks score one more, and need this one's part of the weights."""
    _logprobs(model, Request((0,), Sampling(1), 1, ()), (), precision)


def _gap(differences: Sequence[float]) -> Gap:
    finite = all(math.isfinite(value) for value in differences)
    return Gap(
        sum(differences) / len(differences) if finite else math.inf, max(differences) if finite else math.inf, len(differences)
    )


def check(gap: Gap, limit: float, name: str) -> None:
    """
    Raises:
        EngineError: the gap is larger than the limit.
    """
    if gap.mean <= limit:
        return
    raise EngineError(
        f"{name} does not compute what the trainer's model computes: over {gap.tokens} tokens their logprobs differ by "
        f"{gap.mean:.4g} on average and {gap.largest:.4g} at most (engine.args.gap_limit = {limit:g}). It has other weights, "
        "another model or another precision, or answers from an old prefix cache; training on its rollouts would be off-policy "
        "without a sign of it. Start it again from the model that is trained, with the versions that rlvr was tested with; "
        "where both are right and this is rounding (bf16, quantized vLLM), raise engine.args.gap_limit"
    )


@torch.no_grad()
def _logprobs(model: Any, request: Request, begun: tuple[int, ...], precision: str) -> torch.Tensor:
    """[n, V] of each next token after the prompt, and after each token of the answer that was begun."""
    device = device_of(model)
    ids = torch.tensor([[*request.prompt, *begun]], device=device)
    with (
        boundary(EngineError, "scoring with the trainer's model, to compare it with the instances that generate"),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(request.prompt) - 1 :]
    found: torch.Tensor = (logits.float() / request.sampling.temperature).log_softmax(-1).cpu()
    return found
