"""Does vLLM hold the trainer's weights? The same tokens are scored by both, and their logprobs compared."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from rlvr import seeding
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

    def requests(self) -> list[Request]:
        sampling = Sampling(max_tokens=self._new_tokens)
        # Not all at temperature 1, so that a server shows whose logprobs are not those of what was sampled from.
        prompts = dict.fromkeys((*self._recent, self._random))
        return [
            Request(prompt, replace(sampling, seed=index, temperature=_TEMPERATURES[index % 2]), self._new_tokens, self._end_ids)
            for index, prompt in enumerate(prompts)
        ]


def measure(requests: Sequence[Request], draws: Sequence[Draw], model: Any, *, precision: Literal["fp32", "bf16"]) -> Gap:
    """The gap on what one instance drew; the model scores its tokens as training does.

    Raises:
        EngineError: there are no tokens to compare, or the model cannot score them.
    """
    differences: list[float] = []
    for request, draw in zip(requests, draws, strict=True):
        if draw.token_ids:
            with boundary(EngineError, "scoring with the trainer's model, to compare it with vLLM"):
                scored = _score(model, request, draw.token_ids, precision)
            differences += [abs(ours - theirs) for ours, theirs in zip(scored, draw.logprobs, strict=True)]
    if not differences:
        raise EngineError("vLLM drew no tokens to compare its weights by")
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
def _score(model: Any, request: Request, answer: tuple[int, ...], precision: str) -> list[float]:
    device = next(model.parameters()).device
    ids = torch.tensor([[*request.prompt, *answer]], device=device)
    first = len(request.prompt)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(input_ids=ids, use_cache=False).logits[0, first - 1 : -1]
    logprobs = (logits.float() / request.sampling.temperature).log_softmax(-1).gather(-1, ids[0, first:, None])[:, 0]
    found: list[float] = logprobs.tolist()
    return found
