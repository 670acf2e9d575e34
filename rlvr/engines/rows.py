"""What the scheduler keeps of each row on the device: its settings, its counters and what it has sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvr.engines.sampler import PLAIN, SamplingColumns, mixed, sample, uniforms
from rlvr.types import Sampling

NOT_A_TOKEN = -1  # drawn from NaN logits
_STREAM, _COUNT = range(2)
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P = range(4)
_AHEAD = 32  # tokens of each row whose uniforms are drawn together


class RowTable:
    """Rows 0..n-1 in slot order. One copy to the host for each step, whatever the number of rows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.clear()

    def clear(self) -> None:
        self._settings: list[Sampling] = []
        self._integers = torch.zeros(0, 2, dtype=torch.long, device=self._device)
        self._floats = torch.zeros(0, 4, dtype=torch.float64, device=self._device)
        self._tokens = torch.zeros(0, 0, dtype=torch.long, device=self._device)
        self._logprobs = torch.zeros(0, 0, device=self._device)
        self._columns: SamplingColumns | None = None
        self._is_plain = True
        self._uniforms: Tensor | None = None  # [n, _AHEAD] of the tokens that come next, of which `_used` are gone
        self._used = 0

    def __len__(self) -> int:
        return len(self._settings)

    def append(self, settings: Sequence[Sampling]) -> None:
        """New rows, one for each of `settings`."""
        added = torch.tensor([[_signed(s.seed), 0] for s in settings], dtype=torch.long, device=self._device)
        added[:, _STREAM] = mixed(added[:, _STREAM])
        floats = [[s.temperature, s.top_k, s.top_p, s.min_p] for s in settings]
        self._integers = torch.cat([self._integers[: len(self)], added])
        self._floats = torch.cat([self._floats[: len(self)], torch.tensor(floats, dtype=torch.float64, device=self._device)])
        self._settings += settings
        self._columns = self._uniforms = None
        self._is_plain = self._is_plain and all(map(_is_plain, settings))
        self._reserve(len(self), 16)

    def last_tokens(self) -> Tensor:
        """The token that each row sampled last, [n]."""
        rows = len(self)
        return self._tokens[:rows].gather(1, self._integers[:rows, _COUNT, None] - 1)[:, 0]

    def draw(self, first: int, logits: Tensor, most: int) -> list[int]:
        """Sample a token for the rows from `first` on, from logits [n - first, V]; no row holds more than `most` tokens then.

        Returns the tokens, NOT_A_TOKEN where the logits are NaN: the step's one transfer to the host.
        """
        rows = len(self)
        self._reserve(rows, most)
        integers = self._integers[first:rows]
        count = integers[:, _COUNT]
        tokens, logprobs = sample(logits, self._sampling_columns(first), self._next_uniforms(first))
        place = count[:, None]
        self._tokens[first:rows].scatter_(1, place, tokens[:, None])
        self._logprobs[first:rows].scatter_(1, place, logprobs[:, None])
        count += 1
        drawn: list[int] = tokens.masked_fill(logprobs.isnan(), NOT_A_TOKEN).tolist()
        return drawn

    def tokens(self, rows: Sequence[int], start: int, end: int) -> list[list[int]]:
        """The tokens that `rows` sampled as their start-th to end-th (what lies beyond a row's count is stale)."""
        drawn: list[list[int]] = self._tokens[torch.tensor(rows, device=self._device), start:end].tolist()
        return drawn

    def logprobs(self, rows: Sequence[int], start: int, end: int) -> list[list[float]]:
        """The log-probabilities that go with `tokens`."""
        drawn: list[list[float]] = self._logprobs[torch.tensor(rows, device=self._device), start:end].tolist()
        return drawn

    def move(self, sources: Sequence[int], targets: Sequence[int], rows: int) -> None:
        """Row sources[k] takes slot targets[k]; afterwards `rows` rows are left."""
        for source, target in zip(sources, targets, strict=True):
            self._settings[target] = self._settings[source]
        del self._settings[rows:]
        self._is_plain = self._is_plain or not rows
        if sources:
            source_index, target_index = torch.tensor([sources, targets], device=self._device)
            for table in (self._integers, self._floats, self._tokens, self._logprobs):
                table[target_index] = table[source_index]
            if self._uniforms is not None:
                self._uniforms[target_index] = self._uniforms[source_index]
        self._columns = None

    def _next_uniforms(self, first: int) -> Tensor:
        """The uniform of each row from `first` on, [n - first]."""
        integers = self._integers[first : len(self)]
        if first:
            self._uniforms = None
            return uniforms(integers[:, _STREAM], integers[:, _COUNT])
        if self._uniforms is None or self._used == _AHEAD:
            ahead = torch.arange(_AHEAD, device=self._device)
            self._uniforms = uniforms(integers[:, _STREAM, None], integers[:, _COUNT, None] + ahead)
            self._used = 0
        self._used += 1
        return self._uniforms[: len(self), self._used - 1]

    def _sampling_columns(self, first: int) -> SamplingColumns:
        if self._is_plain:
            return PLAIN
        if first:
            return self._read_columns(first)
        if self._columns is None:
            self._columns = self._read_columns(0)
        return self._columns

    def _read_columns(self, first: int) -> SamplingColumns:
        settings = self._settings[first:]
        floats = self._floats[first : len(self)]
        truncated = [i for i, s in enumerate(settings) if s.temperature > 0 and (s.top_k > 0 or s.top_p < 1 or s.min_p > 0)]
        return SamplingColumns(
            temperature=floats[:, _TEMPERATURE].float(),
            top_k=floats[:, _TOP_K],
            top_p=floats[:, _TOP_P],
            min_p=floats[:, _MIN_P].float(),
            truncated=torch.tensor(truncated, device=self._device) if truncated else None,
            has_greedy=any(s.temperature == 0 for s in settings),
            has_temperature=any(s.temperature not in (0.0, 1.0) for s in settings),
        )

    def _reserve(self, rows: int, width: int) -> None:
        old_rows, old_width = self._tokens.shape
        if rows <= old_rows and width <= old_width:
            return
        rows = max(rows, old_rows)
        width = old_width if width <= old_width else max(width, 2 * old_width, 64)
        tokens = torch.zeros(rows, width, dtype=torch.long, device=self._device)
        logprobs = torch.zeros(rows, width, device=self._device)
        tokens[:old_rows, :old_width], logprobs[:old_rows, :old_width] = self._tokens, self._logprobs
        self._tokens, self._logprobs = tokens, logprobs


def _is_plain(settings: Sampling) -> bool:
    return (settings.temperature, settings.top_k, settings.top_p, settings.min_p) == (1.0, 0, 1.0, 0.0)


def _signed(seed: int) -> int:
    """The low 64 bits of `seed` as an int64."""
    low = seed & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low
