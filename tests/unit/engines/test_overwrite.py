"""Weights of the trainer over a copy of its model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlvr.engines.overwrite import overwrite
from rlvr.errors import EngineError


def tied() -> nn.Module:
    linear = nn.Linear
    model = nn.ModuleDict({"embed": linear(3, 2, False), "head": linear(3, 2, False), "norm": linear(2, 2, False)})
    model["head"].weight = model["embed"].weight
    return model


def test_one_of_two_tied_tensors_is_enough() -> None:
    model = tied()
    overwrite(model, {"embed.weight": torch.ones(2, 3), "norm.weight": torch.zeros(2, 2)})
    assert model["head"].weight.tolist() == [[1.0] * 3] * 2
    assert model["norm"].weight.tolist() == [[0.0] * 2] * 2


def test_weights_of_another_model_are_an_error_that_names_a_tensor() -> None:
    with pytest.raises(EngineError, match=r"lack 1 tensors of the model, e.g. norm.weight"):
        overwrite(tied(), {"embed.weight": torch.ones(2, 3)})
    with pytest.raises(EngineError, match=r"1 tensors that the model lacks, e.g. lm_head.weight"):
        overwrite(tied(), {"lm_head.weight": torch.ones(2, 3)})
