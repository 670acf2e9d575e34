"""Which decoder runs a model: the fastest one whose logits agree with the model's own forward pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlvr import seeding
from rlvr.engines.decoder import Decoder, LlamaDecoder
from rlvr.engines.generic import GenericDecoder, evaluating
from rlvr.engines.shards import shape_of
from rlvr.engines.weights import Unsupported
from rlvr.errors import EngineError, boundary

_LOG = logging.getLogger(__name__)
_PROMPT_LENGTHS = (9, 4, 13)
_STEPS = 3
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.15}  # gap over the logits' standard deviation


def choose_decoder(model: Any, *, dtype: torch.dtype, max_context: int) -> Decoder:
    """The first of: our own forward pass, the model's with a key-value cache, the model's without one.

    Raises:
        EngineError: none of them reproduces the model's logits.
    """
    candidates: list[Callable[[], Decoder]] = [
        lambda: LlamaDecoder(model, dtype=dtype, max_context=max_context),
        lambda: GenericDecoder(model, dtype=dtype, cached=True),
        lambda: GenericDecoder(model, dtype=dtype, cached=False),
    ]
    reasons = []
    for build in candidates:
        try:
            # Some models fail inside their own code on a cache that is not theirs: a reason like any other.
            with boundary(EngineError, "tried a decoder"):
                decoder = build()
                _check(decoder, model, _TOLERANCE[dtype], max_context)
        except EngineError as reason:
            reasons.append(str(reason))
            _LOG.info("%s: %s", type(model).__name__, reason)
        else:
            return decoder
    raise EngineError(f"{type(model).__name__} cannot be decoded: {'; '.join(reasons)}; load it with another attention setting")


@torch.no_grad()
def _check(decoder: Decoder, model: Any, tolerance: float, max_context: int) -> None:
    """Run three prompts, one of them twice, a few steps and a compaction, beside plain forward passes."""
    rng = seeding.rng("decoder check")
    vocabulary = shape_of(model.get_input_embeddings().weight)[0]
    lengths = [max(1, min(length, max_context - _STEPS)) for length in _PROMPT_LENGTHS]
    prompts = [[rng.randrange(vocabulary) for _ in range(length)] for length in lengths]
    rows = [prompts[index][:] for index in (0, 1, 1, 2)]
    logits = decoder.prefill(0, prompts, [0, 1, 1, 2], [_STEPS] * 4)
    for step in range(_STEPS):
        _compare(logits, model, rows, tolerance)
        longest = max(map(len, rows))
        if step == 1:
            decoder.move([3], [0], 3, longest)
            rows = [rows[3], rows[1], rows[2]]
        drawn = [rng.randrange(vocabulary) for _ in rows]
        rows = [[*row, token] for row, token in zip(rows, drawn, strict=True)]
        logits = decoder.decode(torch.tensor(drawn, device=logits.device), max(map(len, rows)))
    _compare(logits, model, rows, tolerance)
    decoder.clear()


def _compare(logits: Tensor, model: Any, rows: list[list[int]], tolerance: float) -> None:
    with evaluating(model):
        theirs = [model(input_ids=torch.tensor([row], device=logits.device), use_cache=False).logits[0, -1] for row in rows]
    expected = torch.stack(theirs).float()
    gap = float((logits - expected).abs().mean() / expected.std().clamp(min=1e-6))
    if not gap <= tolerance:
        raise Unsupported(f"its logits are off by {gap:.2g} of their standard deviation")
