"""Reading the weights of a Llama-like Hugging Face model: which models are, and what the fast decoder needs of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvr.engines.shards import shape_of, whole, whole_delta

_FUSE_BELOW = 2**28  # parameters; above, fp32 copies of fused weights cost more memory than they save time


class Unsupported(Exception):  # noqa: N818 - it selects a decoder, it is not a failure
    """This decoder cannot run this model; the text says why."""


class RmsNorm:
    """Root mean square norm over the last dimension, times `weight` ([d] or [heads, d]).

    With `is_folded` the weight is left to the matrices that read what it returns: see `folded`.
    """

    def __init__(self, weight: Tensor, eps: float, dtype: torch.dtype, *, is_folded: bool = False) -> None:
        self._is_plain = is_plain(weight, dtype)
        self._eps = eps
        width = weight.shape[-1]
        self.weight = None if is_folded else (weight * math.sqrt(width) if self._is_plain else weight).to(dtype)
        self._floor = torch.tensor(math.sqrt(width * eps), device=weight.device)

    def __call__(self, states: Tensor) -> Tensor:
        if not self._is_plain:
            normed = F.rms_norm(states, states.shape[-1:], eps=self._eps)
            return normed if self.weight is None else normed * self.weight
        # The same in half of rms_norm's time on the CPU: the root of |x|^2 + d * eps is a hypotenuse.
        normed = states / torch.hypot(torch.linalg.vector_norm(states, dim=-1, keepdim=True), self._floor)
        return normed if self.weight is None else normed.mul_(self.weight)

    def tensors(self) -> tuple[Tensor, ...]:
        return () if self.weight is None else (self.weight,)


def is_plain(weight: Tensor, dtype: torch.dtype) -> bool:
    return dtype is torch.float32 and weight.device.type == "cpu"


def folded(matrix: Tensor, weight: Tensor) -> Tensor:
    """`matrix` [d, out] for what an `RmsNorm` returns whose weight [d] is folded."""
    return matrix * (weight * math.sqrt(weight.shape[-1]))[:, None]


@dataclass(frozen=True, slots=True)
class Linear:
    """One or several matrices [d, out] with the same input, their outputs side by side."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    def __call__(self, states: Tensor) -> Tensor:
        """`states` [N, d] to [N, out]."""
        outputs = [
            torch.mm(states, weight) if bias is None else torch.addmm(bias, states, weight)
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one decoder layer."""

    attention_norm: RmsNorm
    qkv: Linear
    is_interleaved: bool  # queries and keys come as pairs that are rotated together, not as two halves of each head
    query_key_norm: RmsNorm | None  # over [heads + kv_heads, head_dim]
    output: Tensor  # [heads * head_dim, hidden]
    output_bias: Tensor | None
    mlp_norm: RmsNorm
    gate_up: Linear
    down: Tensor  # [intermediate, hidden]

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in one order for all layers of a model."""
        for norm in (self.attention_norm, self.mlp_norm, self.query_key_norm):
            yield from () if norm is None else norm.tensors()
        linears = [tensor for linear in (self.qkv, self.gate_up) for tensor in (*linear.weights, *linear.biases)]
        yield from (tensor for tensor in (*linears, self.output, self.output_bias, self.down) if tensor is not None)


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """All weights in `dtype`: the model's own tensors where that is possible, copies where they are fused, cast or merged."""

    embedding: Tensor  # [vocabulary, hidden]
    layers: tuple[Layer, ...]
    norm: RmsNorm
    head: Tensor  # [vocabulary, hidden]

    @classmethod
    def read(cls, causal: Any, dtype: torch.dtype) -> LlamaWeights:
        inner, head = causal.model, causal.lm_head.weight
        size = sum(shape_of(parameter).numel() for parameter in causal.parameters())
        is_fused = dtype is not torch.float32 or size < _FUSE_BELOW
        embedding = whole(inner.embed_tokens.weight, dtype)
        return cls(
            embedding=embedding,
            layers=tuple(_read_layer(layer, dtype, is_fused=is_fused) for layer in inner.layers),
            norm=_read_norm(inner.norm, dtype),
            head=embedding if head is inner.embed_tokens.weight else whole(head, dtype),
        )

    def renew(self, causal: Any, dtype: torch.dtype) -> None:
        """Copy the model's present weights into these tensors, which stay where they are: all of them must be copies.

        One layer at a time, so that there is never a second copy of the whole.
        """
        inner = causal.model
        self.embedding.copy_(whole(inner.embed_tokens.weight, dtype))
        if self.head is not self.embedding:
            self.head.copy_(whole(causal.lm_head.weight, dtype))
        _copy(_read_norm(inner.norm, dtype).tensors(), self.norm.tensors())
        for ours, theirs in zip(self.layers, inner.layers, strict=True):
            _copy(_read_layer(theirs, dtype, is_fused=len(ours.qkv.weights) == 1).tensors(), ours.tensors())


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _read_layer(layer: Any, dtype: torch.dtype, *, is_fused: bool) -> Layer:
    """Where matrices are fused, and so copied, their columns are put in the order that is best for rotating, and norms folded."""
    attention, mlp = layer.self_attn, layer.mlp
    heads = [module.out_features // attention.head_dim for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
    qkv = _read_linear((attention.q_proj, attention.k_proj, attention.v_proj), dtype, is_fused=is_fused)
    gate_up = _read_linear((mlp.gate_proj, mlp.up_proj), dtype, is_fused=is_fused)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    is_folded = is_fused and is_plain(qkv.weights[0], dtype)
    if is_fused:
        order = _pairs(heads, attention.head_dim).to(qkv.weights[0].device)
        biases = tuple(None if bias is None else bias[order] for bias in qkv.biases)
        qkv = Linear((qkv.weights[0][:, order],), biases)
    if is_folded:
        qkv, gate_up = (
            Linear((folded(linear.weights[0], whole(norm.weight)).contiguous(),), linear.biases)
            for linear, norm in zip((qkv, gate_up), norms, strict=True)
        )
    query_key_norm = None
    if hasattr(attention, "q_norm"):
        stacked = torch.stack([whole(attention.q_norm.weight)] * heads[0] + [whole(attention.k_norm.weight)] * heads[1])
        if is_fused:
            stacked = stacked[:, _pairs([1], attention.head_dim).to(stacked.device)]
        query_key_norm = RmsNorm(stacked, attention.q_norm.variance_epsilon, dtype)
    output_bias = attention.o_proj.bias
    return Layer(
        attention_norm=_read_norm(norms[0], dtype, is_folded=is_folded),
        qkv=qkv,
        is_interleaved=is_fused,
        query_key_norm=query_key_norm,
        output=_read_weight(attention.o_proj, dtype).t(),
        output_bias=None if output_bias is None else whole(output_bias, dtype),
        mlp_norm=_read_norm(norms[1], dtype, is_folded=is_folded),
        gate_up=gate_up,
        down=_read_weight(mlp.down_proj, dtype).t(),
    )


def _pairs(heads: Sequence[int], head_dim: int) -> Tensor:
    """The rows of queries, keys and values, of so many `heads` each: in the first two a row of a head's first half comes before
    its partner in the second. Values keep their order."""
    rotated, others = sum(heads[:2]), sum(heads[2:])
    rows = torch.arange((rotated + others) * head_dim).view(-1, head_dim)
    turned = rows[:rotated].view(rotated, 2, head_dim // 2).transpose(1, 2).reshape(rotated, head_dim)
    return torch.cat([turned, rows[rotated:]]).view(-1)


def _read_norm(module: Any, dtype: torch.dtype, *, is_folded: bool = False) -> RmsNorm:
    return RmsNorm(whole(module.weight), module.variance_epsilon, dtype, is_folded=is_folded)


def _read_linear(modules: Sequence[Any], dtype: torch.dtype, *, is_fused: bool) -> Linear:
    weights = tuple(_read_weight(module, dtype).t() for module in modules)
    biases = tuple(None if module.bias is None else whole(module.bias, dtype) for module in modules)
    if not is_fused:
        return Linear(weights, biases)
    fused = torch.cat([bias for bias in biases if bias is not None]) if biases[0] is not None else None
    return Linear((torch.cat(weights, dim=1),), (fused,))


def _read_weight(module: Any, dtype: torch.dtype) -> Tensor:
    """A projection's weight with its LoRA adapters merged."""
    if not hasattr(module, "get_delta_weight"):
        return whole(module.weight, dtype)
    weight = whole(module.base_layer.weight)
    for adapter in () if module.disable_adapters else module.active_adapters:
        weight = weight + whole_delta(module, adapter).to(weight.dtype)
    return weight.to(dtype)


def check_family(causal: Any, max_context: int) -> None:
    """Names, shapes and settings that the fast decoder relies on; the engine compares logits as well.

    Raises:
        Unsupported: the model is built otherwise.
    """
    inner: Any = getattr(causal, "model", None)
    config = causal.config
    if not all(hasattr(inner, name) for name in ("embed_tokens", "layers", "norm", "rotary_emb")):
        raise Unsupported(f"{type(causal).__name__} has no embed_tokens, layers, norm and rotary_emb")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < max_context:
        raise Unsupported(f"sliding-window attention over {window} of {max_context} positions")
    rotary = inner.rotary_emb
    if getattr(rotary, "rope_type", "default") in ("dynamic", "longrope"):
        raise Unsupported(f"rope type {rotary.rope_type!r} changes with the length")
    for layer in inner.layers:
        _check_layer(layer, rotary)
    if getattr(causal.lm_head, "bias", None) is not None:
        raise Unsupported("the head has a bias")


def _check_layer(layer: Any, rotary: Any) -> None:
    parts = {name for name, _ in layer.named_children()}
    if parts != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        raise Unsupported(f"a layer made of {sorted(parts)}")
    attention, mlp = layer.self_attn, layer.mlp
    for owner, names in ((attention, ("q_proj", "k_proj", "v_proj", "o_proj")), (mlp, ("gate_proj", "up_proj", "down_proj"))):
        for name in names:
            module = getattr(owner, name, None)
            if not isinstance(getattr(module, "base_layer", module), nn.Linear):
                raise Unsupported(f"{name} is {type(module).__name__}, not a linear layer")
    if any(getattr(module, "bias", None) is not None for module in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)):
        raise Unsupported("the MLP has biases")
    probe = torch.linspace(-3.0, 3.0, 7)
    if not torch.allclose(mlp.act_fn(probe), F.silu(probe)):
        raise Unsupported(f"activation {type(mlp.act_fn).__name__}")
    if rotary.inv_freq.numel() * 2 != attention.head_dim:
        raise Unsupported("rotary embedding of a part of each head")
    if len({module.bias is None for module in (attention.q_proj, attention.k_proj, attention.v_proj)}) > 1:
        raise Unsupported("some of the query, key and value projections have a bias")
    if hasattr(attention, "q_norm") and shape_of(attention.q_norm.weight).numel() != attention.head_dim:
        raise Unsupported("a query norm over all heads together")
