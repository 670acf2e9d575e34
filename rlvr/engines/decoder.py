"""The fast decoder: our own forward pass over a Hugging Face model of the Llama family, against a slot cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvr.engines.cache import SlotCache
from rlvr.engines.graphs import CudaRecorder, RecordedSteps, Recorder
from rlvr.engines.shards import device_of
from rlvr.engines.weights import Layer, LlamaWeights, check_family

_PREFILL_TOKENS = 16384  # padded tokens in one prefill forward
# Matrix products choose their kernels by shape, and kernels differ in the last bit. On multiples of these no shape that the
# batch decides makes a difference: on the CPU a row's numbers are then the same, bit for bit, whatever its neighbours are.
_ROW_BLOCK = 8
_LENGTH_BLOCK = 16


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


class LlamaDecoder:
    """Qwen2, Qwen3, Llama, Mistral and their like: RMSNorm, rotary GQA attention, SwiGLU; a sliding window spans the context.

    Weights are shared with the model where they can be; fused, bf16 and LoRA-merged ones are copies that `refresh` renews.
    On a GPU decoding steps are recorded as CUDA graphs; `recorder` replaces what records them.

    Raises:
        Unsupported: the model is built otherwise.
    """

    name = "llama"

    def __init__(self, model: Any, *, dtype: torch.dtype, max_context: int, recorder: Recorder | None = None) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        check_family(causal, max_context)
        self._causal, self._dtype = causal, dtype
        inner = causal.model
        config, attention = causal.config, inner.layers[0].self_attn
        self._device = device_of(causal)
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = attention.head_dim
        self._scale = float(attention.scaling)
        self._frequencies = inner.rotary_emb.inv_freq.to(self._device, torch.float32)
        self._rope_scaling = float(inner.rotary_emb.attention_scaling)
        self._rope = torch.zeros(0, self._head_dim // 2, dtype=torch.complex64, device=self._device)
        self._cache = SlotCache(
            layers=len(inner.layers),
            kv_heads=self._kv_heads,
            head_dim=self._head_dim,
            dtype=dtype,
            device=self._device,
        )
        if recorder is None and self._device.type == "cuda":
            recorder = CudaRecorder(self._device)
        self._steps = RecordedSteps(recorder)
        with torch.no_grad():
            self._weights = LlamaWeights.read(causal, dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        are_copies = all(parameter.dtype is not self._dtype for parameter in self._causal.parameters())
        if self._steps.is_recording and are_copies:
            self._weights.renew(self._causal, self._dtype)  # in place: what was recorded reads from there
            return
        self._steps.forget()
        del self._weights  # before the new copies are made, or both would be in memory
        self._weights = LlamaWeights.read(self._causal, self._dtype)

    def prefill(
        self, first: int, prompts: Sequence[Sequence[int]], prompt_of_row: Sequence[int], limits: Sequence[int]
    ) -> Tensor:
        lengths = [len(prompts[index]) for index in prompt_of_row]
        final = max(length + limit for length, limit in zip(lengths, limits, strict=True))
        rows, longest = _rounded(first + len(lengths), _ROW_BLOCK), _rounded(max(lengths), _LENGTH_BLOCK)
        self._reserve(rows, longest, _rounded(final, _LENGTH_BLOCK))
        self._cache.start(first, torch.tensor(lengths, device=self._device))
        owners = torch.tensor(prompt_of_row, device=self._device)
        hidden = torch.zeros(
            _rounded(len(prompts), _ROW_BLOCK), self._weights.embedding.shape[1], dtype=self._dtype, device=self._device
        )
        for batch in _batches_by_length(prompts):
            self._prefill_batch(first, [prompts[index] for index in batch], batch, owners, hidden)
        return self._logits(hidden)[owners]

    def decode(self, tokens: Tensor, longest: int) -> Tensor:
        cache, active = self._cache, tokens.shape[0]
        rows, longest = _rounded(active, _ROW_BLOCK), _rounded(longest, _LENGTH_BLOCK)
        rows, longest = self._steps.sizes(rows, longest, room=(cache.rows, cache.capacity))
        self._reserve(rows, longest, longest)
        self._rope_table(longest)  # before it is read in a step: a recorded one keeps reading it where it was
        tokens = F.pad(tokens, (0, rows - active))
        positions, places = cache.advance(active, rows)

        def step(tokens: Tensor, positions: Tensor, places: Tensor) -> Tensor:
            return self._decode_step(tokens, positions, places, longest)

        return self._logits(self._steps.run((rows, longest), step, tokens, positions, places))[:active]

    def _decode_step(self, tokens: Tensor, positions: Tensor, places: Tensor, longest: int) -> Tensor:
        """Hidden states [R, hidden] of the newest token of R rows; reads and writes fixed places of the cache alone."""
        cache, rows = self._cache, tokens.shape[0]
        mask = cache.mask[:rows, ..., :longest].flatten(0, 1)
        past = cache.past(rows, longest)
        grouped = (rows * self._kv_heads, self._heads // self._kv_heads, self._head_dim)

        def attend(layer: int, mixed: Tensor) -> Tensor:
            cache.append(layer, places, mixed[:, self._heads :])
            keys, values = past[layer]
            # Plain batched products: three times as fast as scaled_dot_product_attention for one query on the CPU.
            scores = torch.baddbmm(mask, mixed[:, : self._heads].reshape(grouped), keys, alpha=self._scale)
            return torch.bmm(scores.softmax(-1, dtype=torch.float32).to(self._dtype), values)

        return self._forward(tokens, positions, longest, attend)

    def _reserve(self, rows: int, length: int, final: int) -> None:
        if self._cache.reserve(rows, length, final):
            self._steps.forget()

    def move(self, sources: Sequence[int], targets: Sequence[int], rows: int, longest: int) -> None:
        if sources:
            pair = torch.tensor([sources, targets], device=self._device)
            self._cache.move(pair[0], pair[1], longest)

    def clear(self) -> None:
        self._steps.forget()
        self._cache.clear()

    def held_bytes(self) -> int:
        return self._cache.nbytes()

    def _prefill_batch(self, first: int, prompts: list[Sequence[int]], batch: list[int], owners: Tensor, hidden: Tensor) -> None:
        """Run prompts of similar length, padded on the right; causal attention keeps the padding out of what is real."""
        count, width = len(prompts), _rounded(max(map(len, prompts)), _LENGTH_BLOCK)
        tokens = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self._device)
        positions = torch.arange(width, device=self._device).repeat(count)
        which = torch.tensor(batch, device=self._device)
        is_here = owners[:, None] == which
        slots = first + is_here.any(-1).nonzero()[:, 0]
        source = is_here.long().argmax(-1)[slots - first]
        group = self._heads // self._kv_heads

        def attend(layer: int, mixed: Tensor) -> Tensor:
            padded = mixed.view(count, width, -1, self._head_dim).transpose(1, 2)
            q, both = padded[:, : self._heads], padded[:, self._heads :]
            k, v = both.chunk(2, dim=1)
            self._cache.fill(layer, slots, k[source], v[source])
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self._scale)
            return attended.transpose(1, 2)

        states = self._forward(tokens.view(-1), positions, width, attend).view(count, width, -1)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._device)
        hidden[which] = states[torch.arange(count, device=self._device), last]

    def _forward(self, tokens: Tensor, positions: Tensor, longest: int, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Hidden states [N, hidden] of N tokens at `positions` [N] below `longest`, before the final norm.

        `attend(layer, queries, keys and values [N, heads + 2 * kv_heads, head_dim])` returns N * heads * head_dim values.
        """
        count = tokens.shape[0]
        rope = self._rope_table(longest).index_select(0, positions)[:, None]
        states = F.embedding(tokens, self._weights.embedding)
        for index, layer in enumerate(self._weights.layers):
            mixed = layer.qkv(layer.attention_norm(states)).view(count, -1, self._head_dim)
            self._rotate(mixed, layer, rope)
            attended = attend(index, mixed).reshape(count, -1)
            states = torch.addmm(states, attended, layer.output)
            if layer.output_bias is not None:
                states += layer.output_bias
            gate, up = layer.gate_up(layer.mlp_norm(states)).chunk(2, dim=-1)
            states = torch.addmm(states, F.silu(gate).mul_(up), layer.down)
        return states

    def _logits(self, states: Tensor) -> Tensor:
        return F.linear(self._weights.norm(states), self._weights.head).float()

    def _rotate(self, mixed: Tensor, layer: Layer, rope: Tensor) -> None:
        """Norm the queries and keys of `mixed` [N, heads + 2 * kv_heads, head_dim], rotate them by `rope` [N, 1, head_dim / 2].

        In place. The halves come out interleaved: queries and keys alike, so their products are the model's own.
        """
        half = self._head_dim // 2
        rotated = mixed[:, : self._heads + self._kv_heads]
        states = rotated if layer.query_key_norm is None else layer.query_key_norm(rotated)
        states = states.float()
        if layer.is_interleaved:
            turned = torch.view_as_complex(states.view(*states.shape[:2], half, 2))
        else:
            turned = torch.complex(states[..., :half], states[..., half:])
        rotated.copy_(torch.view_as_real(turned * rope).flatten(-2))

    def _rope_table(self, length: int) -> Tensor:
        """cos + i sin of every position below `length`, at least."""
        if length > self._rope.shape[0]:
            self._steps.forget()
            positions = torch.arange(2 * length, device=self._device, dtype=torch.float32)
            angles = positions[:, None] * self._frequencies
            self._rope = torch.polar(torch.full_like(angles, self._rope_scaling), angles)
        return self._rope


def _rounded(count: int, block: int) -> int:
    return -(-count // block) * block


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
