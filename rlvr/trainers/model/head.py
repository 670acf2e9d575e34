"""Log-probabilities of chosen tokens from hidden states, without all the logits at once.

[tokens, vocabulary] is the largest matrix of a training step: 4,096 tokens of a vocabulary of 152,000 are 2.5 GB in float32, and
a plain log-softmax needs several of them. Here one chunk of tokens exists at a time. Its logits are computed once in the forward
pass and once more in the backward pass, where they become the gradient in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, *, rows: int, entropy: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """[N] log-probabilities of `targets` [N] under softmax(hidden @ weight.T / temperature), and [N] entropies in nats.

    Args:
        hidden: [N, H].
        weight: [V, H], of a head without bias.
        rows: tokens in a chunk.
        entropy: compute the entropies, which carry no gradient; zeros otherwise.
        dtype: of the matrix products; sums over the vocabulary are at least float32.
    """
    found: tuple[Tensor, Tensor] = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, rows, entropy, dtype
    )
    return found


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        rows: int,
        entropy: bool,  # noqa: FBT001
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        # Inside an autocast region a product of float32 would be made in its type, whatever is asked for here.
        with torch.autocast(hidden.device.type, enabled=False):
            turned = weight.detach().to(dtype).t()
            count = hidden.shape[0]
            sums = torch.float64 if dtype is torch.float64 else torch.float32
            normalizers = torch.empty(count, dtype=sums, device=hidden.device)
            logprobs, entropies = torch.empty_like(normalizers), torch.zeros_like(normalizers)
            for start in range(0, count, rows):
                here = slice(start, start + rows)
                logits = _logits(hidden[here], turned, temperature, sums)
                chosen = logits.gather(1, targets[here, None])[:, 0]
                peak = logits.amax(1, keepdim=True)
                total = logits.sub_(peak).exp_().sum(1)  # of weights: the logits are not needed any more
                normalizers[here] = total.log() + peak[:, 0]
                logprobs[here] = chosen - normalizers[here]
                if entropy:  # log total - sum(w log w) / total, where p = w / total; entr(w) is -w log w
                    entropies[here] = total.log() + torch.special.entr(logits).sum(1) / total
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        ctx.temperature, ctx.rows, ctx.dtype = temperature, rows, dtype
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        dtype: torch.dtype = ctx.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.detach().to(dtype)
            hidden_grad = torch.empty_like(hidden) if needs_hidden else None
            # Sums over chunks, in float32 also where the weights are cast to something narrower.
            weight_grad = (
                torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) if needs_weight else None
            )
            for start in range(0, hidden.shape[0], ctx.rows):
                here = slice(start, start + ctx.rows)
                part = hidden[here]
                # d log p(target) / d logits = onehot(target) - p, times the incoming gradient over the temperature.
                scale = (grad[here] / ctx.temperature)[:, None].to(normalizers.dtype)
                gradient = _logits(part, head.t(), ctx.temperature, normalizers.dtype)
                gradient.sub_(normalizers[here, None]).exp_().mul_(-scale)
                gradient.scatter_add_(1, targets[here, None], scale)
                gradient = gradient.to(dtype)
                if hidden_grad is not None:
                    hidden_grad[here] = gradient @ head
                if weight_grad is not None:
                    if weight_grad.dtype is dtype:
                        weight_grad.addmm_(gradient.t(), part.to(dtype))
                    else:
                        weight_grad += gradient.t() @ part.to(dtype)
        if weight_grad is not None:
            weight_grad = weight_grad.to(weight.dtype)
        return hidden_grad, weight_grad, None, None, None, None, None


def _logits(hidden: Tensor, turned: Tensor, temperature: float, sums: torch.dtype) -> Tensor:
    """[n, V], which the caller may overwrite."""
    logits = (hidden.to(turned.dtype) @ turned).to(sums)
    return logits if temperature == 1.0 else logits.div_(temperature)
