"""How likely a model finds continuations, for tasks that choose between given answers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.errors import ConfigError, EngineError, boundary

_TOKENS = 1 << 14  # of one forward pass, padding included
_LOGITS = 1 << 26  # elements of logits of one forward pass


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probability of a continuation in nats, and whether greedy decoding would give it."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Continuation:
    """Token ids of `text` after `context`; the context has one token at least, and so has the text."""

    context: tuple[int, ...]
    text: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """Input ids of which the logits from `first` on are wanted; several continuations that differ in the last token share one."""

    ids: tuple[int, ...]
    first: int


class LikelihoodScorer:
    """Scores continuations with a causal LM, in batches of about equal length.

    Rows are padded at their end and without a mask, which leaves every causal model exact, those with convolutions and state
    spaces, too. `autocast` is the type to compute in; None: the weights'.
    """

    def __init__(self, model: Any, *, max_context: int, autocast: torch.dtype | None = None) -> None:
        self._model, self._max_context, self._autocast = model, max_context, autocast
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters

    def score(
        self, continuations: Sequence[Continuation], on_scored: Callable[[int], None] = lambda count: None
    ) -> list[Likelihood]:
        """In order. A context that does not fit loses its beginning. `on_scored` hears how many more are done.

        Raises:
            ConfigError: a continuation is longer than the model's context.
            EngineError: the forward pass failed, or its logits are NaN.
        """
        rows: dict[_Row, list[int]] = {}
        for index, one in enumerate(continuations):
            rows.setdefault(self._row(one), []).append(index)
        found: dict[int, Likelihood] = {}
        for batch in self._batches(rows):
            with boundary(EngineError, f"scoring {len(batch)} continuations"):
                logprobs = self._logprobs(batch)
            done = 0
            for row, values in zip(batch, logprobs, strict=True):
                for index in rows[row]:
                    found[index] = _likelihood(values, continuations[index].text)
                    done += 1
            on_scored(done)
        return [found[index] for index in range(len(continuations))]

    def _row(self, one: Continuation) -> _Row:
        if len(one.text) > self._max_context:
            raise ConfigError(
                f"a continuation has {len(one.text)} tokens, but the context holds {self._max_context}; raise max_length, or "
                "leave this task out"
            )
        ids = (one.context + one.text)[:-1][-self._max_context :]
        return _Row(ids, len(ids) - len(one.text))

    def _batches(self, rows: Iterable[_Row]) -> Iterator[list[_Row]]:
        """Of about equal length, the longest first: where memory is short, the first batch shows it."""
        batch: list[_Row] = []
        start = 0
        for row in sorted(rows, key=lambda one: (-len(one.ids), one.first, one.ids)):
            longest = len(batch[0].ids) if batch else len(row.ids)
            first = min(start, row.first) if batch else row.first
            columns = longest - first if self._can_keep else longest
            size = len(batch) + 1
            if batch and (size * longest > _TOKENS or size * columns * self._vocabulary > _LOGITS):
                yield batch
                batch, first = [], row.first
            batch.append(row)
            start = first
        if batch:
            yield batch

    @torch.no_grad()
    def _logprobs(self, batch: Sequence[_Row]) -> list[Tensor]:
        """For every row [n, V], n tokens from its `first` on."""
        device = next(self._model.parameters()).device
        longest, start = len(batch[0].ids), min(row.first for row in batch) if self._can_keep else 0
        input_ids = torch.zeros((len(batch), longest), dtype=torch.long)
        for index, row in enumerate(batch):
            input_ids[index, : len(row.ids)] = torch.tensor(row.ids)
        settings: dict[str, Any] = {"input_ids": input_ids.to(device), "use_cache": False}
        if self._can_keep:
            settings["logits_to_keep"] = longest - start
        with contextlib.nullcontext() if self._autocast is None else torch.autocast(device.type, dtype=self._autocast):
            logits = self._model(**settings).logits
        picked = [logits[index, row.first - start : len(row.ids) - start].float() for index, row in enumerate(batch)]
        return [values.log_softmax(-1) for values in picked]


def _likelihood(logprobs: Tensor, text: Sequence[int]) -> Likelihood:
    targets = torch.tensor(text, device=logprobs.device)
    total = float(logprobs.gather(-1, targets[:, None]).sum())
    if total != total:
        raise EngineError("the model's logits are NaN; its weights have diverged or are damaged")
    return Likelihood(total, bool((logprobs.argmax(-1) == targets).all()))
