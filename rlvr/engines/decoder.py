"""The fast decoder: our own forward pass over a Hugging Face model of the Llama family, against a slot cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvr.engines.cache import SlotCache

_FUSE_BELOW = 2**28  # parameters; above, fp32 copies of fused weights cost more memory than they save time
_PREFILL_TOKENS = 16384  # padded tokens in one prefill forward


class Unsupported(Exception):  # noqa: N818 - it selects a decoder, it is not a failure
    """This decoder cannot run this model; the text says why."""


class Decoder(Protocol):
    """Rows in, logits out. Row i of every call is slot i; prefill appends rows, `move` closes gaps."""

    name: str

    def prefill(
        self, first: int, prompts: Sequence[Sequence[int]], prompt_of_row: Sequence[int], limits: Sequence[int]
    ) -> Tensor:
        """Open slots first..first+n-1: row j starts with prompts[prompt_of_row[j]] and may grow by limits[j] tokens.

        Returns next-token logits [n, V], float32.
        """
        ...

    def decode(self, tokens: Tensor, longest: int) -> Tensor:
        """Append tokens[i] to row i; no row is then longer than `longest`. Returns next-token logits [n, V], float32."""
        ...

    def move(self, sources: Sequence[int], targets: Sequence[int], rows: int, longest: int) -> None:
        """Row sources[k] takes slot targets[k]; afterwards `rows` rows are left."""
        ...

    def clear(self) -> None:
        """Forget all rows and free their memory."""
        ...

    def held_bytes(self) -> int:
        """Memory that rows hold, or held before they left."""
        ...

    def refresh(self) -> None:
        """Take over the model's present weights."""
        ...


@dataclass(slots=True)
class _Layer:
    """Weights of one layer. A projection is several matrices with the same input: one when they are fused."""

    attention_norm: Tensor
    qkv: list[Tensor]
    qkv_bias: list[Tensor | None]
    query_key_norm: Tensor | None  # [heads + kv_heads, head_dim]
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: list[Tensor]
    down: Tensor


class LlamaDecoder:
    """Qwen2, Qwen3, Llama, Mistral and their like: RMSNorm, rotary GQA attention, SwiGLU, no sliding window
    within the context.

    Weights are shared with the model where they can be; fused, bf16 and LoRA-merged ones are copies that `refresh` renews.

    Raises:
        Unsupported: the model is built otherwise.
    """

    name = "llama"

    def __init__(self, model: Any, *, dtype: torch.dtype, max_context: int) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        _check_family(causal, max_context)
        self._causal, self._inner = causal, causal.model
        self._dtype = dtype
        config, attention = causal.config, self._inner.layers[0].self_attn
        self._device = self._inner.embed_tokens.weight.device
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = attention.head_dim
        self._scale = float(attention.scaling)
        self._eps = float(self._inner.norm.variance_epsilon)
        self._root_eps = torch.tensor(math.sqrt(self._eps), device=self._device)
        self._is_plain = dtype is torch.float32 and self._device.type == "cpu"
        self._fuses = dtype is not torch.float32 or sum(p.numel() for p in causal.parameters()) < _FUSE_BELOW
        self._frequencies = self._inner.rotary_emb.inv_freq.to(self._device, torch.float32)
        self._rope_scaling = float(self._inner.rotary_emb.attention_scaling)
        self._rope = torch.zeros(0, self._head_dim // 2, dtype=torch.complex64, device=self._device)
        self._cache = SlotCache(
            layers=len(self._inner.layers),
            kv_heads=self._kv_heads,
            head_dim=self._head_dim,
            dtype=dtype,
            device=self._device,
        )
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        self._embedding = self._inner.embed_tokens.weight.to(self._dtype)
        head = self._causal.lm_head.weight
        self._head = self._embedding if head is self._inner.embed_tokens.weight else head.to(self._dtype)
        self._norm = self._inner.norm.weight.to(self._dtype)
        self._layers = [self._read_layer(layer) for layer in self._inner.layers]

    def prefill(
        self, first: int, prompts: Sequence[Sequence[int]], prompt_of_row: Sequence[int], limits: Sequence[int]
    ) -> Tensor:
        lengths = [len(prompts[index]) for index in prompt_of_row]
        final = max(length + limit for length, limit in zip(lengths, limits, strict=True))
        self._cache.reserve(first + len(lengths), max(lengths) + 1, final)
        self._cache.start(first, torch.tensor(lengths, device=self._device))
        owners = torch.tensor(prompt_of_row, device=self._device)
        hidden = torch.empty(len(prompts), self._embedding.shape[1], dtype=self._dtype, device=self._device)
        for batch in _batches_by_length(prompts):
            self._prefill_batch(first, [prompts[index] for index in batch], batch, owners, hidden)
        return self._logits(hidden)[owners]

    def decode(self, tokens: Tensor, longest: int) -> Tensor:
        cache, rows = self._cache, tokens.shape[0]
        cache.reserve(rows, longest, longest)
        positions = cache.lengths[:rows].clone()
        index = cache.advance(rows)
        mask = cache.mask[:rows, ..., :longest].flatten(0, 1)
        grouped = (rows * self._kv_heads, self._heads // self._kv_heads, self._head_dim)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cache.append(layer, index, keys.reshape(-1, self._head_dim), values.reshape(-1, self._head_dim))
            past_keys = cache.keys[layer][:rows, :, :longest].flatten(0, 1)
            past_values = cache.values[layer][:rows, :, :longest].flatten(0, 1)
            # Plain batched products: three times as fast as scaled_dot_product_attention for one query on the CPU.
            scores = torch.baddbmm(mask, queries.reshape(grouped), past_keys.transpose(1, 2), alpha=self._scale)
            weights = scores.softmax(-1, dtype=torch.float32).to(self._dtype)
            return torch.bmm(weights, past_values)

        return self._logits(self._forward(tokens, positions, longest, attend))

    def move(self, sources: Sequence[int], targets: Sequence[int], rows: int, longest: int) -> None:
        if sources:
            pair = torch.tensor([sources, targets], device=self._device)
            self._cache.move(pair[0], pair[1], longest)

    def clear(self) -> None:
        self._cache.clear()

    def held_bytes(self) -> int:
        return self._cache.nbytes()

    def _prefill_batch(self, first: int, prompts: list[Sequence[int]], batch: list[int], owners: Tensor, hidden: Tensor) -> None:
        """Run prompts of similar length, padded on the right; causal attention keeps the padding out of what is real."""
        count, width = len(prompts), max(map(len, prompts))
        tokens = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self._device)
        positions = torch.arange(width, device=self._device).repeat(count)
        which = torch.tensor(batch, device=self._device)
        is_here = owners[:, None] == which
        slots = first + is_here.any(-1).nonzero()[:, 0]
        source = is_here.long().argmax(-1)[slots - first]
        group = self._heads // self._kv_heads

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = (part.reshape(count, width, -1, self._head_dim).transpose(1, 2) for part in (queries, keys, values))
            self._cache.fill(layer, slots, k[source], v[source])
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self._scale)
            return attended.transpose(1, 2)

        states = self._forward(tokens.view(-1), positions, width, attend).view(count, width, -1)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._device)
        hidden[which] = states[torch.arange(count, device=self._device), last]

    def _forward(self, tokens: Tensor, positions: Tensor, longest: int, attend: Callable[..., Tensor]) -> Tensor:
        """Hidden states [N, hidden] of N tokens at `positions` [N] below `longest`, before the final norm.

        `attend(layer, queries [N, heads, head_dim], keys, values [N, kv_heads, head_dim])` returns N * heads * head_dim values.
        """
        count, rotated_heads = tokens.shape[0], self._heads + self._kv_heads
        rope = self._rope_table(longest)[positions][:, None]
        states = F.embedding(tokens, self._embedding)
        for index, layer in enumerate(self._layers):
            normed = self._normed(states, layer.attention_norm)
            mixed = _project(normed, layer.qkv, layer.qkv_bias).view(count, -1, self._head_dim)
            rotated, values = mixed[:, :rotated_heads], mixed[:, rotated_heads:]
            if layer.query_key_norm is not None:
                rotated = self._normed(rotated, layer.query_key_norm)
            rotated = self._rotated(rotated, rope)
            attended = attend(index, rotated[:, : self._heads], rotated[:, self._heads :], values)
            attended = attended.reshape(count, -1)
            states = torch.addmm(states, attended, layer.output.t())
            if layer.output_bias is not None:
                states += layer.output_bias
            normed = self._normed(states, layer.mlp_norm)
            gate, up = _project(normed, layer.gate_up).chunk(2, dim=-1)
            states = torch.addmm(states, F.silu(gate).mul_(up), layer.down.t())
        return states

    def _logits(self, states: Tensor) -> Tensor:
        return F.linear(self._normed(states, self._norm), self._head).float()

    def _normed(self, states: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last dimension, times `weight` ([d] or [heads, d])."""
        if not self._is_plain:
            return F.rms_norm(states, states.shape[-1:], eps=self._eps) * weight
        # The same in half of rms_norm's time on the CPU: the root of d * (mean square + eps) is a hypotenuse.
        root = math.sqrt(states.shape[-1])
        size = torch.hypot(torch.linalg.vector_norm(states, dim=-1, keepdim=True), self._root_eps * root)
        return (states / size).mul_(weight * root)

    def _rotated(self, states: Tensor, rope: Tensor) -> Tensor:
        """Rotate [N, heads, head_dim] by `rope` [N, 1, head_dim / 2].

        The halves come out interleaved: queries and keys alike, so their products are the model's own.
        """
        half = self._head_dim // 2
        states = states.float()
        turned = torch.complex(states[..., :half], states[..., half:]) * rope
        return torch.view_as_real(turned).flatten(-2).to(self._dtype)

    def _rope_table(self, length: int) -> Tensor:
        """cos + i sin of every position below `length`, at least."""
        if length > self._rope.shape[0]:
            positions = torch.arange(2 * length, device=self._device, dtype=torch.float32)
            angles = positions[:, None] * self._frequencies
            self._rope = torch.polar(torch.full_like(angles, self._rope_scaling), angles)
        return self._rope

    def _read_layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = [self._weight(module) for module in projections]
        biases = [module.bias for module in projections]
        gate_up = [self._weight(mlp.gate_proj), self._weight(mlp.up_proj)]
        if self._fuses:
            weights, gate_up = [torch.cat(weights)], [torch.cat(gate_up)]
            biases = [None if biases[0] is None else torch.cat(biases).to(self._dtype)]
        query_key_norm = None
        if hasattr(attention, "q_norm"):
            copies = [attention.q_norm.weight] * self._heads + [attention.k_norm.weight] * self._kv_heads
            query_key_norm = torch.stack(copies).to(self._dtype)
        output_bias = attention.o_proj.bias
        return _Layer(
            attention_norm=layer.input_layernorm.weight.to(self._dtype),
            qkv=weights,
            qkv_bias=biases,
            query_key_norm=query_key_norm,
            output=self._weight(attention.o_proj),
            output_bias=None if output_bias is None else output_bias.to(self._dtype),
            mlp_norm=layer.post_attention_layernorm.weight.to(self._dtype),
            gate_up=gate_up,
            down=self._weight(mlp.down_proj),
        )

    def _weight(self, module: Any) -> Tensor:
        """A projection's weight with its LoRA adapters merged."""
        if not hasattr(module, "get_delta_weight"):
            weight: Tensor = module.weight
            return weight.to(self._dtype)
        weight = module.base_layer.weight
        for adapter in () if module.disable_adapters else module.active_adapters:
            weight = weight + module.get_delta_weight(adapter).to(weight.dtype)
        return weight.to(self._dtype)


def _project(states: Tensor, weights: list[Tensor], biases: Sequence[Tensor | None] = (None, None)) -> Tensor:
    outputs = [F.linear(states, weight, bias) for weight, bias in zip(weights, biases, strict=False)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def _batches_by_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of `prompts`, longest first, cut so that no padded batch passes the token budget and little of it is padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        widest = len(prompts[batches[-1][0]]) if batches else 0
        is_close = widest - len(prompts[index]) <= max(16, widest // 4)
        if batches and is_close and widest * (len(batches[-1]) + 1) <= _PREFILL_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _check_family(causal: Any, max_context: int) -> None:
    """Names, shapes and settings that this forward pass relies on; the engine compares logits as well."""
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
    if hasattr(attention, "q_norm") and attention.q_norm.weight.numel() != attention.head_dim:
        raise Unsupported("a query norm over all heads together")
