"""How many threads a model is decoded with."""

from __future__ import annotations

import torch
from torch import nn

from rlvr.engines.threads import decoding_threads, threads


def test_a_model_of_small_matrices_is_decoded_by_one_thread() -> None:
    assert decoding_threads(nn.Linear(128, 384)) == 1


def test_large_matrices_are_worth_all_threads() -> None:
    assert decoding_threads(nn.Linear(1024, 1024)) is None


def test_the_number_of_threads_is_changed_and_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    other = before + 1
    try:
        with threads(other):
            assert torch.get_num_threads() == other
            raise KeyError
    except KeyError:
        pass
    assert torch.get_num_threads() == before


def test_none_leaves_the_number_alone() -> None:
    before = torch.get_num_threads()
    with threads(None):
        assert torch.get_num_threads() == before
