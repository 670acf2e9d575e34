"""What is done about tokens that another policy sampled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.errors import ConfigError
from rlvr.trainers.algorithms import Algorithm, build
from rlvr.trainers.correction import MaskedImportance, Stale, TruncatedImportance
from rlvr.trainers.loss import token_losses

PRESETS = ("grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo")
NOW = torch.tensor([-2.0, 0.5, 1.0, -0.3], dtype=torch.float64).log_softmax(-1)
THEN = torch.tensor([0.4, -0.2, 0.1, 0.3], dtype=torch.float64).log_softmax(-1)
ADVANTAGES = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def gradient(algorithm: Algorithm, sampled_by: Tensor) -> Tensor:
    """Of the expected loss over all answers of one token, with respect to the policy's logits."""
    logits = NOW.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)[:, None]
    parts = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=ADVANTAGES[:, None],
        weights=sampled_by.exp()[:, None],
        mask=torch.ones(4, 1, dtype=torch.bool),
        rollout_index=torch.arange(4),
        sampling_logprobs=sampled_by[:, None],
    )
    (found,) = torch.autograd.grad(parts.loss, logits)
    return found


@pytest.mark.parametrize("name", ["reinforce", "grpo", "cispo", "gspo"])
def test_in_expectation_the_corrected_gradient_of_old_tokens_is_the_gradient_of_new_ones(name: str) -> None:
    corrected = replace(build(name).for_staleness(1), correction=TruncatedImportance(1e9))
    expected = gradient(build(name), NOW)
    torch.testing.assert_close(gradient(corrected, THEN), expected)
    assert not torch.allclose(gradient(build(name), THEN), expected, rtol=0.05)  # which is what the correction is for


@pytest.mark.parametrize("name", PRESETS)
def test_staleness_0_changes_no_algorithm_and_more_gives_each_its_correction(name: str) -> None:
    algorithm = build(name)
    assert algorithm.for_staleness(0) is algorithm
    assert algorithm.for_staleness(2).correction == TruncatedImportance(2.0)
    assert build(name, {"tis_cap": 3.0}).for_staleness(2).correction == TruncatedImportance(3.0)
    assert build(name, {"stale": "drop"}).for_staleness(1).correction == MaskedImportance(2.0)
    assert build(name, {"stale": "drop", "tis_cap": 4.0}).for_staleness(1).correction == MaskedImportance(4.0)


def test_a_ratio_against_the_sampling_policy_needs_an_objective_with_a_ratio() -> None:
    assert build("grpo", {"stale": "ratio"}).for_staleness(1).correction is None
    assert build("grpo", {"stale": "ratio"}).stale is Stale.RATIO
    assert build("rloo", {"stale": "ratio"}).for_staleness(0).correction is None
    with pytest.raises(ConfigError, match=r"algorithm.stale = 'ratio', but 'rloo' has no ratio.*use 'tis'"):
        build("rloo", {"stale": "ratio"}).for_staleness(1)


def test_what_lies_beyond_the_bound_is_dropped_and_counted_on_both_sides() -> None:
    old = torch.tensor([0.0, 0.5, 0.8, -0.5, -0.8, 300.0])
    factor, is_dropped = MaskedImportance(2.0)(old, torch.zeros(6))
    assert is_dropped.tolist() == [False, False, True, False, True, True]
    assert factor.tolist() == pytest.approx([1.0, math.exp(0.5), 0.0, math.exp(-0.5), 0.0, 0.0])


@pytest.mark.parametrize("arguments", [{"stale": "drop", "tis_cap": 1.0}, {"stale": "nothing"}])
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tis_cap = 1.0|stale"):
        build("grpo", arguments).for_staleness(1)
