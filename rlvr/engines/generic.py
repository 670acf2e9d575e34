"""The fallback decoder: any causal LM through its own forward pass, as `generate` would run it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rlvr.engines.shards import device_of, is_sharded, take_over, unsharded
from rlvr.engines.weights import Unsupported


class GenericDecoder:
    """Rows are padded on the left to one width. With `cached`, keys and values are kept; else every step runs whole rows."""

    def __init__(self, model: Any, *, dtype: torch.dtype, cached: bool) -> None:
        self.name = "generic" if cached else "generic-uncached"
        self._source = model
        self._is_sharded = is_sharded(model)
        self._is_copy = self._is_sharded or (dtype is not torch.float32 and any(p.dtype is not dtype for p in model.parameters()))
        if self._is_sharded and hasattr(model, "get_base_model"):
            raise Unsupported("an adapter on weights in parts; only the Llama family is decoded with one (load.parallel = ddp)")
        self._model = unsharded(model, dtype) if self._is_sharded else _converted(model, dtype) if self._is_copy else model
        self._cached = cached
        self._device = device_of(model)
        self._accepts = set(inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters)
        self.clear()

    @torch.no_grad()
    def refresh(self) -> None:
        if self._is_sharded:
            take_over(self._model, self._source)
        elif self._is_copy:
            for ours, theirs in zip(self._model.parameters(), self._source.parameters(), strict=True):
                ours.copy_(theirs)

    def clear(self) -> None:
        self._tokens = torch.zeros(0, 0, dtype=torch.long, device=self._device)
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self._device)
        self._cache: DynamicCache | None = None

    def prefill(
        self, first: int, prompts: Sequence[Sequence[int]], prompt_of_row: Sequence[int], limits: Sequence[int]
    ) -> Tensor:
        width = max(map(len, prompts))
        tokens = torch.tensor([[*[0] * (width - len(p)), *p] for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        owners = torch.tensor(prompt_of_row, device=self._device)
        cache = DynamicCache() if self._cached else None
        logits = self._run(tokens, mask, cache)[owners]
        tokens, mask = tokens[owners], mask[owners]
        if cache is not None:
            self._check_layers(cache)
            cache.batch_select_indices(owners)
        if first:
            tokens, mask = _stacked(self._tokens, tokens, 1), _stacked(self._mask, mask, 1)
            if cache is not None and self._cache is not None:
                for old, new in zip(self._cache.layers, cache.layers, strict=True):
                    new.keys, new.values = _stacked(old.keys, new.keys, 2), _stacked(old.values, new.values, 2)
        self._tokens, self._mask, self._cache = tokens, mask, cache
        return logits

    def decode(self, tokens: Tensor, longest: int) -> Tensor:
        self._tokens = torch.cat([self._tokens, tokens[:, None]], dim=1)
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)[:, None]], dim=1)
        return self._run(self._tokens[:, -1:] if self._cached else self._tokens, self._mask, self._cache)

    def move(self, sources: Sequence[int], targets: Sequence[int], rows: int, longest: int) -> None:
        order = list(range(rows))
        for source, target in zip(sources, targets, strict=True):
            order[target] = source
        index = torch.tensor(order, device=self._device)
        start = max(self._tokens.shape[1] - longest, 0)
        self._tokens, self._mask = self._tokens[index, start:], self._mask[index, start:]
        if self._cache is not None:
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[index, :, start:], layer.values[index, :, start:]

    def held_bytes(self) -> int:
        layers = self._cache.layers if self._cache is not None else []
        return int(self._tokens.nbytes + sum(layer.keys.nbytes + layer.values.nbytes for layer in layers))

    @torch.inference_mode(False)  # what a model keeps of a forward pass, such as rotary frequencies, is needed in training, too
    @torch.no_grad()
    def _run(self, tokens: Tensor, mask: Tensor, cache: DynamicCache | None) -> Tensor:
        arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "use_cache": cache is not None}
        if "position_ids" in self._accepts:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if "logits_to_keep" in self._accepts:
            arguments["logits_to_keep"] = 1
        if cache is not None:
            arguments["past_key_values"] = cache
        with evaluating(self._model):
            logits: Tensor = self._model(**arguments).logits
        return logits[:, -1].float()

    def _check_layers(self, cache: DynamicCache) -> None:
        kinds = {type(layer).__name__ for layer in cache.layers}
        if kinds != {"DynamicLayer"}:
            raise Unsupported(f"a cache of {', '.join(sorted(kinds)) or 'no layers'}")


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout, as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _stacked(upper: Tensor, lower: Tensor, dim: int) -> Tensor:
    """Rows of both, the narrower padded with zeros on the left of dimension `dim`."""
    width = max(upper.shape[dim], lower.shape[dim])

    def padded(tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        shape[dim] = width - shape[dim]
        return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor

    return torch.cat([padded(upper), padded(lower)])


def _converted(model: Any, dtype: torch.dtype) -> Any:
    """A copy with parameters of `dtype`; buffers stay (rotary frequencies lose positions in bf16)."""
    duplicate = copy.deepcopy(model)
    for parameter in duplicate.parameters():
        parameter.data = parameter.data.to(dtype)
    return duplicate.requires_grad_(False)
