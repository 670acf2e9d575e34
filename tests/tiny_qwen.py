"""A random Qwen3 that is small enough for every test, and sure enough of its tokens that rounding does not change them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


def tiny_qwen(*, vocabulary: int = 40, context: int = 128, seed: int = 0, **changes: Any) -> Any:
    """The same weights for the same arguments; it knows no end of a sequence. `changes` are of its config."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = Qwen3Config(vocab_size=vocabulary, max_position_embeddings=context, **{**shape, **changes})
    return Qwen3ForCausalLM(config).eval()
