"""Tests that need a CUDA device: skipped where there is none, failed instead where RLVR_REQUIRE_GPU is set."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    if not torch.cuda.is_available():
        reason = "torch sees no CUDA device here"
        if os.environ.get("RLVR_REQUIRE_GPU"):
            pytest.fail(reason)
        pytest.skip(reason)
    return torch.device("cuda", torch.cuda.current_device())
