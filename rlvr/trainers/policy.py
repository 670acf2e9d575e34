"""The policy: a causal language model that scores token sequences, packed and without padding waste."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlvr.trainers.packing import pack

# Logits of more elements than this are recomputed in the backward pass instead of being kept.
_KEEP_LOGITS_UP_TO = 1 << 26
_CHUNK_ELEMENTS = 1 << 25


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-token values of a batch, 0 outside its mask."""

    logprobs: Tensor  # [B, T], with gradient where the parameters have one
    entropy: Tensor | None  # [B, T], nats


class Policy:
    """Wraps a Hugging Face causal LM (or a peft model around one); the model object stays the caller's."""

    def __init__(self, model: nn.Module, *, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self._autocast = autocast
        self._head_is_plain = _head_is_plain(model)

    def with_model(self, model: nn.Module) -> Policy:
        """A policy of the same kind around another model."""
        return Policy(model, autocast=self._autocast)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def score(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> Scores:
        """Log-probabilities of the masked tokens given what precedes them.

        Args:
            input_ids: [B, T] long; the first `lengths[b]` tokens of row b are real.
            lengths: [B] long.
            mask: [B, T] bool; column 0 must be False (nothing precedes it).
            temperature: of the distribution, as in sampling; 0 (greedy) is scored as 1.
            entropy: also return the entropy of the distribution at each masked token.
            entropy_gradient: let the entropy carry a gradient (costs memory).
        """
        device = self.device
        input_ids, lengths, mask = input_ids.to(device), lengths.to(device), mask.to(device)
        rows = pack(input_ids, lengths)
        flat_mask = mask.reshape(-1)
        # The hidden state of a token predicts the next one, which in a packed row is the token to its right.
        is_target = (rows.source >= 0) & flat_mask[rows.source.clamp_min(0)]
        row, column = is_target.nonzero(as_tuple=True)
        targets = rows.input_ids[row, column]
        with self._precision(device):
            hidden_or_logits = self._forward(rows.input_ids, rows.position_ids, rows.attention_mask())
        picked = hidden_or_logits[row, column - 1]
        head = self._head() if self._head_is_plain else None
        logprobs, entropies = _token_logprobs(
            head, picked, targets, temperature or 1.0, entropy=entropy, entropy_gradient=entropy_gradient
        )
        place = rows.source[row, column]
        return Scores(_scatter(logprobs, place, mask), None if entropies is None else _scatter(entropies, place, mask))

    def _forward(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states [R, W, H], or logits [R, W, V] for models whose head does more than multiply."""
        causal_lm = unwrap(self.model)
        settings: dict[str, Any] = {"position_ids": position_ids, "use_cache": False}
        if getattr(causal_lm.config, "_attn_implementation", "sdpa") == "sdpa":
            settings["attention_mask"] = attention_mask
        else:
            lowest = torch.finfo(torch.float32).min
            settings["attention_mask"] = torch.zeros(attention_mask.shape, device=input_ids.device).masked_fill(
                ~attention_mask, lowest
            )
        if self._head_is_plain:
            body = getattr(causal_lm, causal_lm.base_model_prefix)
            return body(input_ids=input_ids, **settings).last_hidden_state  # type: ignore[no-any-return]
        return causal_lm(input_ids=input_ids, **settings).logits  # type: ignore[no-any-return]

    def _head(self) -> nn.Module:
        return unwrap(self.model).get_output_embeddings()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _precision(self, device: torch.device) -> Iterator[None]:
        if self._autocast is None:
            yield
        else:
            with torch.autocast(device.type, dtype=self._autocast):
                yield


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _head_is_plain(model: nn.Module) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more (no scaling, no soft-capping).

    Asked of the model itself, on a few tokens, because configs have many names for such extras.
    """
    causal_lm = unwrap(model)
    head = causal_lm.get_output_embeddings()
    body = getattr(causal_lm, getattr(causal_lm, "base_model_prefix", ""), None)
    if head is None or body is None or body is causal_lm:
        return False
    device = next(causal_lm.parameters()).device
    tokens = torch.arange(4, device=device)[None] % head.weight.shape[0]
    was_training = causal_lm.training
    causal_lm.eval()
    try:
        with torch.no_grad():
            ours = head(body(input_ids=tokens, use_cache=False).last_hidden_state)
            theirs = causal_lm(input_ids=tokens, use_cache=False).logits
    finally:
        causal_lm.train(was_training)
    return bool(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4))


def _token_logprobs(
    head: nn.Module | None, picked: Tensor, targets: Tensor, temperature: float, *, entropy: bool, entropy_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """[N] log-probabilities of `targets` (and entropies) in chunks, so that [N, V] is not kept for large vocabularies."""
    vocabulary = picked.shape[-1] if head is None else head.weight.shape[0]  # type: ignore[index]
    count = picked.shape[0]

    def chunk(inputs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logits = (inputs if head is None else head(inputs)).float() / temperature
        normalizer = logits.logsumexp(-1)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - normalizer
        if not entropy:
            return logprobs, logprobs.new_zeros(len(chosen))
        with contextlib.nullcontext() if entropy_gradient else torch.no_grad():
            probabilities = torch.softmax(logits, -1)
            return logprobs, normalizer - (probabilities * logits).sum(-1)

    if count * vocabulary <= _KEEP_LOGITS_UP_TO:
        logprobs, entropies = chunk(picked, targets)
    else:
        size = max(1, _CHUNK_ELEMENTS // vocabulary)
        parts = [
            checkpoint(chunk, picked[start : start + size], targets[start : start + size], use_reentrant=False)
            for start in range(0, count, size)
        ]
        logprobs, entropies = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return logprobs, entropies if entropy else None


def _scatter(values: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """Flat per-token values back to [B, T], 0 elsewhere."""
    flat = values.new_zeros(mask.numel())
    return flat.index_put((place,), values).view(mask.shape)
