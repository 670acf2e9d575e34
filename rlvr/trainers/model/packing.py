"""Sequences of unequal length into dense rows and micro-batches, so that little of the compute goes into padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Several sequences to a row, padded to W tokens.

    `sequence_ids` counts the sequences of a row from 0 and is -1 on padding; `source` is the flat index into the
    unpacked [B, T] matrix, so that values travel back, and -1 on padding.
    """

    input_ids: Tensor  # [R, W] long
    position_ids: Tensor  # [R, W] long, starts at 0 in every sequence
    sequence_ids: Tensor  # [R, W] long
    source: Tensor  # [R, W] long

    def places(self, shape: torch.Size) -> Tensor:
        """[B, T]: where each token of the unpacked matrix went, as an index into R * W; -1 on padding."""
        is_real = self.source.flatten() >= 0
        places = torch.full((shape.numel(),), -1, dtype=torch.long, device=self.source.device)
        places[self.source.flatten()[is_real]] = is_real.nonzero()[:, 0]
        return places.view(shape)

    def attention_mask(self) -> Tensor:
        """[R, 1, W, W] bool: a token sees itself and what came before it in its own sequence."""
        width = self.input_ids.shape[1]
        same = self.sequence_ids[:, :, None] == self.sequence_ids[:, None, :]
        causal = torch.ones(width, width, dtype=torch.bool, device=same.device).tril()
        # Padding sees earlier padding: a row of the mask with nothing in it would make softmax return NaN.
        return (same & causal)[:, None]


@dataclass(frozen=True, slots=True)
class JoinedTokens:
    """N tokens of several sequences end to end, without padding; a beginning that sequences share is there once.

    `sequences` are the places [b, t] of whole sequences, similar ones together, 0 where one is shorter. A token's place in those
    batches laid end to end, or one of its places where sequences share it, is in `back`.
    """

    input_ids: Tensor  # [1, N] long
    position_ids: Tensor  # [1, N] long
    place: Tensor  # [B, T] long, in [0, N); -1 on padding
    sequences: tuple[Tensor, ...]
    back: Tensor  # [N] long

    def places(self, shape: torch.Size) -> Tensor:
        """[B, T], as `PackedRows.places`."""
        return self.place.view(shape)


# Attention over a packed row costs with its width; the linear layers cost with the tokens, padding included.
# Relative cost of one more column of attention against one token of linear layers, measured on small models.
_ATTENTION_COST_PER_COLUMN = 1 / 512
_CLOSE = 16  # tokens of padding that are cheaper than one more batch


def row_width(lengths: Sequence[int]) -> int:
    """The row width that costs least for these lengths: wide rows waste less padding, but more attention."""
    longest = max(lengths)
    candidates = sorted({longest, *(longest * parts // 2 for parts in range(3, 9))})

    def cost(width: int) -> float:
        return len(first_fit(lengths, width)) * width * (1.0 + width * _ATTENTION_COST_PER_COLUMN)

    return min(candidates, key=cost)


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `width`, longest first (first-fit decreasing).

    Raises:
        ValueError: a length exceeds `width`.
    """
    if max(lengths) > width:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit into rows of {width}")
    bins: list[list[int]] = []
    room: list[int] = []
    first_open = 0  # bins before this one are as good as full
    shortest = min(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        target = next((b for b in range(first_open, len(bins)) if room[b] >= length), None)
        if target is None:
            bins.append([])
            room.append(width)
            target = len(bins) - 1
        bins[target].append(index)
        room[target] -= length
        while first_open < len(bins) and room[first_open] < shortest:
            first_open += 1
    return bins


def microbatches(lengths: Sequence[int], tokens: int, *, in_order: bool = False) -> list[list[int]]:
    """Split sequences into micro-batches of at most `tokens` real tokens (one sequence may exceed it).

    They are sorted by length, so that those in one micro-batch are alike, or else stay `in_order`.
    """
    batches: list[list[int]] = []
    filled = 0
    for index in range(len(lengths)) if in_order else sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or filled + lengths[index] > tokens:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += lengths[index]
    return batches


def pack(input_ids: Tensor, lengths: Tensor, *, share_rows: bool = True) -> PackedRows:
    """Pack the rows of `input_ids` [B, T], of which the first `lengths[b]` tokens are real.

    Without `share_rows` every sequence has a row to itself, padded on the right.
    """
    sizes = lengths.tolist()
    bins = first_fit(sizes, row_width(sizes)) if share_rows else [[index] for index in range(len(sizes))]
    rows = len(bins)
    width = max(sum(sizes[i] for i in bin_) for bin_ in bins)
    columns = input_ids.shape[1]
    source = torch.full((rows, width), -1, dtype=torch.long)
    positions = torch.zeros((rows, width), dtype=torch.long)
    sequence_ids = torch.full((rows, width), -1, dtype=torch.long)
    ramp = torch.arange(int(max(sizes)))
    for row, bin_ in enumerate(bins):
        start = 0
        for order, index in enumerate(bin_):
            stop = start + sizes[index]
            source[row, start:stop] = ramp[: sizes[index]] + index * columns
            positions[row, start:stop] = ramp[: sizes[index]]
            sequence_ids[row, start:stop] = order
            start = stop
    device = input_ids.device
    source = source.to(device)
    packed_ids = input_ids.reshape(-1)[source.clamp_min(0)].masked_fill(source < 0, 0)
    return PackedRows(packed_ids, positions.to(device), sequence_ids.to(device), source)


def join(input_ids: Tensor, lengths: Tensor, shareable: Tensor) -> JoinedTokens:
    """Join the rows of `input_ids` [B, T], of which the first `lengths[b]` tokens are real.

    The first `shareable[b]` of them stand once for all rows in which they are the same.
    """
    rows, sizes, shared = input_ids.tolist(), lengths.tolist(), shareable.tolist()
    tokens: list[int] = []
    positions: list[int] = []
    place = torch.full(input_ids.shape, -1, dtype=torch.long)
    beginnings: dict[tuple[int, ...], int] = {}
    for index, (row, size, common) in enumerate(zip(rows, sizes, shared, strict=True)):
        start = beginnings.setdefault(tuple(row[:common]), len(tokens))
        if start == len(tokens):
            tokens += row[:common]
            positions += range(common)
        place[index, :common] = torch.arange(start, start + common)
        place[index, common:size] = torch.arange(len(tokens), len(tokens) + size - common)
        tokens += row[common:size]
        positions += range(common, size)
    sequences = tuple(place[batch, : sizes[batch[0]]] for batch in _alike(sizes))
    ends = torch.cat([places.flatten() for places in sequences])
    is_real = ends >= 0
    # Of several places the first: they agree, but for the last bits, and runs must be reproducible.
    back = torch.full((len(tokens),), len(ends)).scatter_reduce(0, ends[is_real], is_real.nonzero()[:, 0], "amin")
    device = input_ids.device
    return JoinedTokens(
        torch.tensor([tokens], device=device),
        torch.tensor([positions], device=device),
        place.to(device),
        tuple(places.clamp_min(0).to(device) for places in sequences),
        back.to(device),
    )


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of `lengths`, longest first, in batches whose shortest has three quarters of the longest, or is close to it."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or longest - lengths[index] > max(_CLOSE, longest // 4):
            batches.append([])
        batches[-1].append(index)
    return batches
