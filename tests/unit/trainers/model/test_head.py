"""Log-probabilities in chunks are those of the whole matrix, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlvr.trainers.model.head import chunked_logprobs

N, H, V = 7, 5, 11


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator, dtype=dtype).requires_grad_()
    weight = (3 * torch.randn(V, H, generator=generator, dtype=dtype)).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    every = (hidden @ weight.t() / temperature).log_softmax(-1)
    return every.gather(1, targets[:, None])[:, 0], -(every.exp() * every).sum(-1)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_the_whole_matrix(rows: int, temperature: float) -> None:
    hidden, weight, targets = inputs()
    upstream = torch.linspace(-1, 2, N, dtype=torch.float64)
    expected, entropies = whole(hidden, weight, targets, temperature)
    gradients = torch.autograd.grad((expected * upstream).sum(), (hidden, weight))
    found, their_entropies = chunked_logprobs(hidden, weight, targets, temperature, rows=rows, entropy=True, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(their_entropies, entropies, rtol=0, atol=1e-12)
    for one, other in zip(torch.autograd.grad((found * upstream).sum(), (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_gradient_agrees_with_finite_differences() -> None:
    hidden, weight, targets = inputs()

    def logprobs(hidden: Tensor, weight: Tensor) -> Tensor:
        return chunked_logprobs(hidden, weight, targets, 0.7, rows=2, entropy=False, dtype=torch.float64)[0]

    assert torch.autograd.gradcheck(logprobs, (hidden, weight))


def test_a_frozen_head_gets_no_gradient_and_needs_no_memory_for_one() -> None:
    hidden, weight, targets = inputs()
    frozen = weight.detach()
    found, entropies = chunked_logprobs(hidden, frozen, targets, 1.0, rows=2, entropy=True, dtype=torch.float64)
    assert not entropies.requires_grad
    assert torch.autograd.grad(found.sum(), hidden)[0].abs().sum() > 0


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_float32_with_extreme_logits_stays_finite(scale: float) -> None:
    hidden, weight, targets = inputs(torch.float32)
    found, entropies = chunked_logprobs(scale * hidden, weight, targets, 1.0, rows=3, entropy=True, dtype=torch.float32)
    assert torch.isfinite(found).all()
    assert (entropies > -1e-5).all()
    gradients = torch.autograd.grad(found.sum(), (hidden, weight))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_products_in_bf16_are_summed_in_float32_and_gradients_have_the_types_of_their_inputs() -> None:
    hidden, weight, targets = inputs(torch.float32)
    found, _ = chunked_logprobs(hidden, weight, targets, 1.0, rows=3, entropy=False, dtype=torch.bfloat16)
    assert found.dtype is torch.float32
    expected, _ = whole(hidden, weight, targets, 1.0)
    assert (found - expected).abs().max() < 0.2
    assert [gradient.dtype for gradient in torch.autograd.grad(found.sum(), (hidden, weight))] == [torch.float32] * 2
