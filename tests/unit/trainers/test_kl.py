from __future__ import annotations

import pytest
import torch

from rlvr.errors import ConfigError
from rlvr.trainers.correction import TruncatedImportance
from rlvr.trainers.kl import ESTIMATORS, K1, K2, K3

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@pytest.mark.parametrize(("name", "expected"), [("k1", 0.2238046), ("k2", 0.2654788), ("k3", 0.2238046)])
def test_expectation_of_the_estimators(name: str, expected: float) -> None:
    assert (P * ESTIMATORS[name](P.log(), Q.log())).sum().item() == pytest.approx(expected, abs=1e-7)


def test_k1_and_k3_are_unbiased_and_the_direction_is_policy_against_reference() -> None:
    exact = (P * (P.log() - Q.log())).sum().item()
    assert exact == pytest.approx(0.2238046, abs=1e-7)
    assert (Q * (Q.log() - P.log())).sum().item() == pytest.approx(0.1937942, abs=1e-7)
    for estimator in (K1, K3):
        assert (P * estimator(P.log(), Q.log())).sum().item() == pytest.approx(exact, abs=1e-12)


def test_k2_and_k3_are_never_negative_and_zero_for_equal_policies() -> None:
    d = torch.linspace(-30, 30, 101)
    for estimator in (K2, K3):
        assert estimator(d, torch.zeros(101)).min() >= 0
        assert estimator(d, d).abs().max() == 0


def test_in_the_loss_k1_has_no_expected_gradient_and_k2_has_that_of_the_kl() -> None:
    logits = P.log().requires_grad_()

    def gradient(of: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(of, logits, retain_graph=True)[0]

    logprobs = logits.log_softmax(0)
    exact = gradient((logprobs.exp() * (logprobs - Q.log())).sum())
    sampled = {name: gradient((P * estimator(logprobs, Q.log())).sum()) for name, estimator in ESTIMATORS.items()}
    assert sampled["k1"].abs().max() < 1e-12
    assert torch.allclose(sampled["k2"], exact)
    assert not torch.allclose(sampled["k3"], exact)


def test_k3_does_not_overflow() -> None:
    logprobs = torch.tensor([-500.0], requires_grad=True)
    value = K3(logprobs, torch.zeros(1))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(logprobs.grad).all()


def test_truncated_importance_is_the_ratio_up_to_its_cap() -> None:
    old = torch.log(torch.tensor([[0.1, 0.3, 0.9]])).requires_grad_()
    sampling = torch.log(torch.tensor([[0.2, 0.3, 0.1]]))
    factor, is_cut = TruncatedImportance(2.0)(old, sampling)
    assert factor.tolist() == [pytest.approx([0.5, 1.0, 2.0])]
    assert is_cut.tolist() == [[False, False, True]]
    assert not factor.requires_grad
    with pytest.raises(ConfigError, match="tis_cap = 0"):
        TruncatedImportance(0)
