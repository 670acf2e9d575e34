"""The numbers of a model that memory and time depend on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from rlvr.config import ModelConfig

_NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder with gated MLPs: Llama, Qwen, Mistral and their like."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    has_query_key_norm: bool
    is_tied: bool  # the head is the embedding
    has_bias: bool = False  # on queries, keys and values

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the head."""
        return self.vocabulary * self.hidden

    @property
    def linear(self) -> int:
        """Parameters of the layers' matrices."""
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden + 2 * self.layers * self.head_dim * self.has_query_key_norm
        biases = self.layers * (self.query_width + 2 * self.kv_width) * self.has_bias
        return self.linear + norms + biases + self.embedding * (1 if self.is_tied else 2)

    def kv_bytes(self, element: int) -> int:
        """Keys and values of one token, in bytes, with elements of `element` bytes."""
        return 2 * self.layers * self.kv_width * element


def shape_of(model: Any) -> ModelShape | None:
    """The shape of a transformers causal LM (weights may be on `meta`); None for one that is built otherwise."""
    config = model.config
    if not all(isinstance(getattr(config, name, None), int) for name in _NAMES):
        return None
    heads = config.num_attention_heads
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    shape = ModelShape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        has_query_key_norm="q_norm" in names,
        is_tied=bool(getattr(config, "tie_word_embeddings", False)),
        has_bias=any(name.endswith("q_proj.bias") for name, _ in model.named_parameters()),
    )
    actual = sum(parameter.numel() for parameter in model.parameters())
    # Experts, MLPs without gates, convolutions: what is counted otherwise is also held and computed otherwise.
    return shape if abs(shape.parameters - actual) <= 0.01 * actual else None


def adapter_parameters(model: Any, settings: ModelConfig) -> int:
    """Parameters that a LoRA adapter adds to `model`; 0 without one."""
    if not settings.lora_rank:
        return 0
    head = model.get_output_embeddings()
    wanted = settings.lora_targets

    def is_target(name: str, module: nn.Module) -> bool:
        if not isinstance(module, nn.Linear) or module is head:
            return False
        return wanted == "all-linear" or re.fullmatch(wanted, name) is not None  # as peft reads it

    sizes = (m.in_features + m.out_features for name, m in model.named_modules() if is_target(name, m))
    return settings.lora_rank * int(sum(sizes))
