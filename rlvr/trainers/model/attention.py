"""Attention over joined sequences: the layers see every token once, attention sees the sequences as they were.

The tokens of all sequences lie end to end in one row, so that nothing but attention costs anything for padding or for a prompt
that several sequences share. Attention takes the sequences apart again, in batches of similar length, where plain causal
attention needs no mask, and puts its results back in their places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlvr.trainers.model.packing import JoinedTokens

_NAME = "rlvr_joined"
_USUAL = "sdpa"
_joined: ContextVar[JoinedTokens] = ContextVar("joined tokens")


def can_join(causal_lm: Any) -> bool:
    """Whether the model's attention can be replaced; whether it is then exact, only the model itself can show."""
    configs = _configs(causal_lm)
    return bool(configs) and all(config._attn_implementation == _USUAL for config in configs)


@contextmanager
def attention_over(causal_lm: Any, tokens: JoinedTokens) -> Iterator[None]:
    """Inside, a forward pass over `tokens.input_ids` attends as `tokens` says. The backward pass may come later."""
    configs = _configs(causal_lm)
    token = _joined.set(tokens)
    for config in configs:
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation = _USUAL
        _joined.reset(token)


def checkpoint_contexts(causal_lm: Any) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` of `torch.utils.checkpoint`: a layer that runs again in the backward pass attends as it did before."""
    tokens = _joined.get(None)
    return nullcontext(), nullcontext() if tokens is None else attention_over(causal_lm, tokens)


def _configs(causal_lm: Any) -> list[Any]:
    found = {id(config): config for module in causal_lm.modules() if (config := getattr(module, "config", None)) is not None}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """transformers' interface: [1, heads, N, head_dim] each, returns [1, N, heads, head_dim]."""
    joined, head_dim = _joined.get(), value.shape[-1]
    settings.pop("is_causal", None)
    # One row of numbers for each token: gathering whole rows is several times as fast as gathering along a middle axis. As
    # embeddings, because the backward pass of those adds rows several times as fast as that of `index_select`.
    places = torch.cat([places.flatten() for places in joined.sequences])
    sizes = [places.numel() for places in joined.sequences]
    parts = [torch.split(F.embedding(places, part[0].transpose(0, 1).flatten(1)), sizes) for part in (query, key, value)]
    outputs = []
    for (count, length), *apart in zip((places.shape for places in joined.sequences), *parts, strict=True):
        views = (part.view(count, length, -1, head_dim).transpose(1, 2) for part in apart)
        attended, _ = ALL_ATTENTION_FUNCTIONS[_USUAL](module, *views, None, is_causal=True, **settings)
        outputs.append(attended.reshape(count * length, -1))
    return F.embedding(joined.back, torch.cat(outputs)).view(1, joined.back.shape[0], -1, head_dim), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
