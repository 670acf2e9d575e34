"""The policy: a causal language model that scores token sequences, packed and without padding waste."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlvr.engines.shards import device_of, is_sharded
from rlvr.errors import TrainingError, boundary
from rlvr.trainers.model.attention import attention_over, can_join, checkpoint_contexts
from rlvr.trainers.model.head import chunked_logprobs
from rlvr.trainers.model.packing import JoinedTokens, PackedRows, join, pack

T = TypeVar("T")

# A method of sharded models that calls a function with their outermost weights whole: parts of a model that are called one by one
# do not see to that themselves.
INSIDE = "rlvr_inside"
# Logits of more elements than this are recomputed in the backward pass instead of being kept.
KEEP_LOGITS_UP_TO = 1 << 26
# Logits of this spread show what a head does beyond multiplying, such as soft-capping, which is invisible near zero.
_LARGE_LOGIT = 30.0
_PACKED_TOLERANCE = 1e-4  # largest gap between hidden states, over their standard deviation


class Layout(StrEnum):
    """How several sequences go through the model at once."""

    JOINED = "joined"  # end to end, with shared prompts once; attention takes them apart
    PACKED = "packed"  # several to a row, kept apart by a mask
    APART = "apart"  # one to a row, padded


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-token values of a batch, 0 outside its mask."""

    logprobs: Tensor  # [B, T], with gradient where the parameters have one
    entropy: Tensor | None  # [B, T], nats


class Policy:
    """Wraps a Hugging Face causal LM (or a peft model around one); the model object stays the caller's.

    Sequences are joined, and share the prompts that they have in common, or they share rows, as far as the model allows it:
    what it gives for a few tokens must be what each sequence gives alone. Those that carry state from token to token
    (convolutions, state-space layers), and sequences longer than a sliding attention window, get rows of their own.

    `keep_logits` is how many elements of logits are kept for the backward pass; beyond that they are computed in chunks,
    twice. `checkpoint_layers` keeps only each layer's input for the backward pass and computes the rest a second time.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        autocast: torch.dtype | None = None,
        keep_logits: int = KEEP_LOGITS_UP_TO,
        checkpoint_layers: bool = False,
    ) -> None:
        self.model = model
        self._autocast = autocast
        self._keep_logits = keep_logits
        self._checkpoint_layers = checkpoint_layers
        if checkpoint_layers:
            _enable_checkpointing(unwrap(model))
        self._window = _attention_window(model)
        with _evaluating(unwrap(model)):
            self._head_is_plain = _head_is_plain(model)
            self._layout = self._best_layout()

    def with_model(self, model: nn.Module) -> Policy:
        """A policy of the same kind around another model."""
        return Policy(model, autocast=self._autocast, keep_logits=self._keep_logits)

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights lie in parts on all processes, which then have to score equally often."""
        return is_sharded(self.model)

    def idle(self) -> Tensor:
        """A loss of 0, with gradients of 0, for a process that has nothing to score while the others have."""
        input_ids = torch.zeros(1, 2, dtype=torch.long)
        return 0.0 * self.score(input_ids, torch.tensor([2]), torch.tensor([[False, True]])).logprobs.sum()

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
        tokens = self._arranged(input_ids, lengths, mask)
        row, column = mask.nonzero(as_tuple=True)
        before = tokens.places(input_ids.shape)[row, column - 1]  # the hidden state of a token predicts the next one

        def compute() -> tuple[Tensor, Tensor | None]:
            with self._precision(device):
                with self._checkpointing():
                    hidden_or_logits = self._forward(tokens).flatten(0, 1)
                return _token_logprobs(
                    self._head() if self._head_is_plain else None,
                    F.embedding(before, hidden_or_logits),
                    input_ids[row, column],
                    temperature or 1.0,
                    entropy=entropy,
                    entropy_gradient=entropy_gradient,
                    keep_logits=self._keep_logits,
                )

        logprobs, entropies = self._inside(compute)
        place = row * mask.shape[1] + column
        return Scores(_scatter(logprobs, place, mask), None if entropies is None else _scatter(entropies, place, mask))

    def layout(self, longest: int) -> Layout:
        """How sequences of which none has more than `longest` tokens are scored."""
        return self._layout if longest <= self._window else Layout.APART

    def _arranged(self, input_ids: Tensor, lengths: Tensor, mask: Tensor) -> PackedRows | JoinedTokens:
        layout = self.layout(int(lengths.max()))
        if layout is Layout.JOINED:
            prompts = torch.minimum((mask.cumsum(1) == 0).sum(1), lengths)
            return join(input_ids, lengths, prompts)
        return pack(input_ids, lengths, share_rows=layout is Layout.PACKED)

    def _forward(self, tokens: PackedRows | JoinedTokens) -> Tensor:
        """Last hidden states [R, W, H], or logits [R, W, V] for models whose head does more than multiply."""
        causal_lm = unwrap(self.model)
        settings: dict[str, Any] = {"input_ids": tokens.input_ids, "use_cache": False}
        if isinstance(tokens, JoinedTokens):
            with attention_over(causal_lm, tokens):
                return self._hidden_or_logits(causal_lm, position_ids=tokens.position_ids, **settings)
        # One sequence to a row needs no mask: the padding comes after it, and attention is causal.
        if bool((tokens.sequence_ids > 0).any()):
            settings |= {"position_ids": tokens.position_ids, "attention_mask": self._mask(tokens)}
        return self._hidden_or_logits(causal_lm, **settings)

    def _hidden_or_logits(self, causal_lm: Any, **settings: Any) -> Tensor:
        if self._head_is_plain:
            return _body(causal_lm)(**settings).last_hidden_state  # type: ignore[no-any-return]
        return causal_lm.forward(**settings).logits  # type: ignore[no-any-return]

    def _inside(self, compute: Callable[[], T]) -> T:
        """`compute()`, with whole weights for what it calls of the model."""
        around: Callable[[Callable[[], T]], T] | None = getattr(unwrap(self.model), INSIDE, None)
        return compute() if around is None else around(compute)

    def _mask(self, rows: PackedRows) -> Tensor:
        allowed = rows.attention_mask()
        if getattr(unwrap(self.model).config, "_attn_implementation", "sdpa") == "sdpa":
            return allowed
        lowest = torch.finfo(torch.float32).min
        return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, lowest)

    def _best_layout(self) -> Layout:
        """Asked of the model, because many kinds do not give the same for sequences that are together."""
        if can_join(unwrap(self.model)) and self._is_exact(Layout.JOINED):
            return Layout.JOINED
        return Layout.PACKED if self._is_exact(Layout.PACKED) else Layout.APART

    def _is_exact(self, layout: Layout) -> bool:
        """Whether sequences, two of which begin alike, give together what each gives alone."""
        size = min(4, self._window)
        input_ids = torch.arange(3 * size, device=self.device).view(3, size) % _vocabulary(self.model)
        input_ids[1, : size // 2] = input_ids[0, : size // 2]
        lengths = torch.full((3,), size, device=self.device)
        apart = pack(input_ids, lengths, share_rows=False)
        if layout is Layout.JOINED:
            together: PackedRows | JoinedTokens = join(input_ids, lengths, lengths // 2)
        else:
            flat = torch.arange(3 * size, device=self.device)
            together = PackedRows(input_ids.view(1, -1), (flat % size)[None], (flat // size)[None], flat[None])
        alone = self._forward(apart).flatten(0, 1)
        try:
            with boundary(TrainingError, "scoring sequences together"):
                found = self._forward(together).flatten(0, 1)[together.places(input_ids.shape).flatten()]
                gap = (found - alone).abs().max() / alone.std()
        except TrainingError:
            return False  # the model does not know such masks, or such attention
        return bool(gap < _PACKED_TOLERANCE)

    def _head(self) -> nn.Module:
        return unwrap(self.model).get_output_embeddings()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """transformers checkpoints layers in training mode alone; there is no dropout that this would switch on."""
        causal_lm = unwrap(self.model)
        if not (self._checkpoint_layers and torch.is_grad_enabled()):
            yield
            return
        causal_lm.train()
        try:
            yield
        finally:
            causal_lm.eval()

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


def _enable_checkpointing(causal_lm: Any) -> None:
    settings = {"use_reentrant": False, "context_fn": functools.partial(checkpoint_contexts, causal_lm)}
    # transformers renamed this within version 5 and warns about the old name.
    if hasattr(causal_lm, "activation_checkpointing_enable"):
        causal_lm.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _body(causal_lm: Any) -> Any:
    """The model without its head; None if it cannot be told apart."""
    body = getattr(causal_lm, getattr(causal_lm, "base_model_prefix", ""), None)
    return None if body is causal_lm else body


def _vocabulary(model: nn.Module) -> int:
    return int(unwrap(model).get_input_embeddings().weight.shape[0])


def _attention_window(model: nn.Module) -> int:
    """How many tokens back every layer can look: masks of packed rows know no window."""
    config = unwrap(model).config
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min([window for window in windows if window], default=sys.maxsize)


@contextlib.contextmanager
def _evaluating(causal_lm: nn.Module) -> Iterator[None]:
    was_training = causal_lm.training
    causal_lm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        causal_lm.train(was_training)


def _head_is_plain(model: nn.Module) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing more (no scaling, no soft-capping).

    Asked of the model itself, on a few tokens, because configs have many names for such extras. The head's output is made
    large on its way, since a soft cap does not show on the small logits of a fresh model.
    """
    causal_lm = unwrap(model)
    head, body = causal_lm.get_output_embeddings(), _body(causal_lm)
    if head is None or body is None:
        return False
    seen: list[tuple[Tensor, Tensor]] = []

    def enlarge(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append((inputs[0], output * (_LARGE_LOGIT / output.std())))
        return seen[-1][1]

    tokens = torch.arange(4, device=next(causal_lm.parameters()).device)[None] % _vocabulary(model)
    hook = head.register_forward_hook(enlarge)
    try:
        logits = causal_lm(input_ids=tokens, use_cache=False).logits
    finally:
        hook.remove()
    hidden = body(input_ids=tokens, use_cache=False).last_hidden_state
    return len(seen) == 1 and _agree(seen[0][0], hidden) and _agree(seen[0][1], logits)


def _agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def _token_logprobs(
    head: nn.Module | None,
    picked: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    entropy: bool,
    entropy_gradient: bool,
    keep_logits: int,
) -> tuple[Tensor, Tensor | None]:
    """[N] log-probabilities of `targets` (and entropies) in chunks, so that [N, V] is not kept for large vocabularies."""
    vocabulary: int = picked.shape[-1] if head is None else head.weight.shape[0]  # type: ignore[index, assignment]
    count = picked.shape[0]

    def chunk(inputs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logits = _precise(inputs if head is None else head(inputs)) / temperature
        normalizer = logits.logsumexp(-1)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - normalizer
        if not entropy:
            return logprobs, logprobs.new_zeros(len(chosen))
        with contextlib.nullcontext() if entropy_gradient else torch.no_grad():
            probabilities = torch.softmax(logits, -1)
            return logprobs, normalizer - (probabilities * logits).sum(-1)

    if count * vocabulary <= keep_logits:
        logprobs, entropies = chunk(picked, targets)
        return logprobs, entropies if entropy else None
    size = max(1, keep_logits // 2 // vocabulary)
    if type(head) is nn.Linear and getattr(head, "bias", None) is None and not (entropy and entropy_gradient):
        dtype = _product_dtype(picked)
        logprobs, entropies = chunked_logprobs(picked, head.weight, targets, temperature, rows=size, entropy=entropy, dtype=dtype)
    else:
        parts = [
            checkpoint(chunk, picked[start : start + size], targets[start : start + size], use_reentrant=False)
            for start in range(0, count, size)
        ]
        logprobs, entropies = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return logprobs, entropies if entropy else None


def _product_dtype(values: Tensor) -> torch.dtype:
    """In which type a matrix product of `values` is made here."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def _precise(values: Tensor) -> Tensor:
    """At least float32: a log-softmax over a vocabulary in bf16 is off by tenths of a nat."""
    return values if values.dtype is torch.float64 else values.float()


def _scatter(values: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """Flat per-token values back to [B, T], 0 elsewhere."""
    flat = values.new_zeros(mask.numel())
    return flat.index_put((place,), values).view(mask.shape)
