from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.trainers.model.packing import first_fit, join, microbatches, pack, row_width

sizes = st.lists(st.integers(1, 20), min_size=1, max_size=15)
quickly = settings(max_examples=30, deadline=None)


def filled(lengths: list[int]) -> torch.Tensor:
    """[B, T] with a different number at every position, 0 on padding."""
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, :length] = 1000 * (row + 1) + torch.arange(length)
    return tokens


@quickly
@given(sizes)
def test_every_token_is_in_exactly_one_place(lengths: list[int]) -> None:
    tokens = filled(lengths)
    rows = pack(tokens, torch.tensor(lengths))
    is_real = rows.source >= 0
    assert sorted(rows.input_ids[is_real].tolist()) == sorted(tokens[tokens > 0].tolist())
    torch.testing.assert_close(rows.input_ids[is_real], tokens.flatten()[rows.source[is_real]])
    assert (rows.input_ids[~is_real] == 0).all()
    assert (rows.sequence_ids[~is_real] == -1).all()


@quickly
@given(sizes)
def test_a_sequence_lies_in_one_run_with_positions_from_zero(lengths: list[int]) -> None:
    rows = pack(filled(lengths), torch.tensor(lengths))
    found = []
    for row in range(rows.input_ids.shape[0]):
        for sequence in range(int(rows.sequence_ids[row].max()) + 1):
            [columns] = (rows.sequence_ids[row] == sequence).nonzero(as_tuple=True)
            assert (columns.diff() == 1).all()
            assert rows.position_ids[row, columns].tolist() == list(range(len(columns)))
            assert (rows.source[row, columns].diff() == 1).all()
            found.append(len(columns))
    assert sorted(found) == sorted(lengths)


@quickly
@given(sizes)
def test_a_token_sees_itself_and_what_came_before_in_its_own_sequence(lengths: list[int]) -> None:
    rows = pack(filled(lengths), torch.tensor(lengths))
    mask = rows.attention_mask()[:, 0]
    count, width = rows.input_ids.shape
    for row in range(count):
        for query in range(width):
            seen = [k for k in range(query + 1) if rows.sequence_ids[row, k] == rows.sequence_ids[row, query]]
            assert mask[row, query].nonzero()[:, 0].tolist() == seen
            assert query in seen  # a row of the mask without anything would be NaN after softmax


@quickly
@given(sizes)
def test_without_sharing_every_sequence_has_a_row_of_its_own(lengths: list[int]) -> None:
    tokens = filled(lengths)
    rows = pack(tokens, torch.tensor(lengths), share_rows=False)
    torch.testing.assert_close(rows.input_ids, tokens)
    assert int(rows.sequence_ids.max()) == 0


@quickly
@given(sizes, st.integers(0, 60))
def test_bins_hold_every_sequence_once_and_are_never_too_full(lengths: list[int], extra: int) -> None:
    width = max(lengths) + extra
    bins = first_fit(lengths, width)
    assert sorted(index for bin_ in bins for index in bin_) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in bin_) <= width for bin_ in bins)


@quickly
@given(sizes)
def test_rows_are_at_least_as_wide_as_the_longest_sequence(lengths: list[int]) -> None:
    width = row_width(lengths)
    assert max(lengths) <= width <= 4 * max(lengths)
    assert pack(filled(lengths), torch.tensor(lengths)).input_ids.shape[1] <= width


def test_a_sequence_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens does not fit into rows of 8"):
        first_fit([3, 9], 8)


@quickly
@given(sizes, st.integers(1, 100))
def test_microbatches_hold_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    parts = microbatches(lengths, budget)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or sum(lengths[index] for index in part) <= budget


@quickly
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=15))
def test_joined_sequences_share_their_beginnings_and_nothing_else(rows: list[tuple[int, int]]) -> None:
    """Each row is one of four prompts, and how many tokens of its own follow it."""
    prompts = [[], [1], [2, 3, 4], [2, 3, 5, 6, 7]]
    texts = [[*prompts[prompt], *range(100 * (row + 1), 100 * (row + 1) + own)] for row, (prompt, own) in enumerate(rows)]
    texts = [text or [9] for text in texts]
    shareable = torch.tensor([min(len(prompts[prompt]), len(text)) for (prompt, _), text in zip(rows, texts, strict=True)])
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    lengths = torch.tensor([len(text) for text in texts])
    joined = join(tokens, lengths, shareable)
    places = joined.places(tokens.shape)
    for row, text in enumerate(texts):
        assert joined.input_ids[0, places[row, : len(text)]].tolist() == text
        assert joined.position_ids[0, places[row, : len(text)]].tolist() == list(range(len(text)))
        assert (places[row, len(text) :] == -1).all()
    own = sum(len(text) for text in texts) - int(shareable.sum())
    assert joined.input_ids.numel() == own + sum(len(prompts[prompt]) for prompt in {prompt for prompt, _ in rows})
    ends = torch.cat([batch.flatten() for batch in joined.sequences])
    assert ends[joined.back].tolist() == list(range(joined.input_ids.numel()))
    seen = sorted(batch[row, : places.shape[1]].tolist() for batch in joined.sequences for row in range(len(batch)))
    assert len(seen) == len(texts)


def test_joined_sequences_of_like_length_attend_together() -> None:
    lengths = [100, 99, 80, 70, 30, 29, 14, 2]
    joined = join(filled(lengths), torch.tensor(lengths), torch.zeros(8, dtype=torch.long))
    assert [tuple(batch.shape) for batch in joined.sequences] == [(3, 100), (1, 70), (3, 30), (1, 2)]


@quickly
@given(sizes, st.integers(1, 100))
def test_microbatches_in_order_keep_neighbours_together(lengths: list[int], budget: int) -> None:
    parts = microbatches(lengths, budget, in_order=True)
    assert [index for part in parts for index in part] == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or sum(lengths[index] for index in part) <= budget


def test_skewed_lengths_waste_little() -> None:
    lengths = [100, *[10] * 40]
    rows = pack(filled(lengths), torch.tensor(lengths))
    assert rows.input_ids.numel() <= 1.25 * sum(lengths)
    assert len(lengths) * max(lengths) >= 8 * sum(lengths)  # what plain padding would cost
