"""The same batch through TRL's GRPOTrainer._compute_loss and through ours: loss and gradient must agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.trainers.algorithms import Algorithm, cispo, dapo, dr_grpo, grpo, gspo
from rlvr.trainers.loss import prepare, token_losses
from rlvr.trainers.parity.comparison import LONGEST, Setting, TheirBatch
from rlvr.trainers.parity.peers import Trl

G, ROWS, WIDTH = 4, 8, LONGEST


@pytest.fixture(scope="module")
def trl() -> Trl:
    pytest.importorskip("trl")
    return Trl()


def batch(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)

    logprobs = -normal().abs() - 0.1
    lengths = torch.randint(1, WIDTH + 1, (ROWS,), generator=generator)
    return {
        "logprobs": logprobs,
        "old": logprobs + 0.3 * normal(),
        "ref": logprobs + 0.3 * normal(),
        "mask": torch.arange(WIDTH)[None, :] < lengths[:, None],
        "rewards": torch.rand(ROWS, generator=generator, dtype=torch.float64).round(decimals=1),
    }


def trl_loss(trl: Trl, toy: dict[str, Tensor], **settings: Any) -> tuple[float, Tensor]:
    logprobs = toy["logprobs"].clone().requires_grad_()
    batch = TheirBatch(logprobs, toy["old"], toy["ref"], toy["mask"], toy["rewards"], G)
    loss = trl.loss(batch, Setting("", {}, settings))
    return loss.item(), torch.autograd.grad(loss, logprobs)[0]


def our_loss(algorithm: Algorithm, toy: dict[str, Tensor]) -> tuple[float, Tensor]:
    index = torch.arange(ROWS)
    prepared = prepare(algorithm, rewards=toy["rewards"], group_index=index // G, rollout_index=index, mask=toy["mask"])
    logprobs = toy["logprobs"].clone().requires_grad_()
    loss = token_losses(
        algorithm,
        logprobs=logprobs,
        advantages=prepared.advantages,
        weights=prepared.weights,
        mask=toy["mask"],
        rollout_index=index,
        old_logprobs=toy["old"],
        ref_logprobs=toy["ref"],
    ).loss
    return loss.item(), torch.autograd.grad(loss, logprobs)[0]


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (grpo(), {}),
        (grpo(kl_coef=0.04), {"beta": 0.04}),
        (grpo(dual_clip=1.5), {"delta": 1.5}),
        (dr_grpo(max_tokens=WIDTH), {"loss_type": "dr_grpo", "scale": "none"}),
        (dapo(overlong=False), {"loss_type": "dapo", "high": 0.28}),
        (gspo(), {"level": "sequence", "low": 3e-4, "high": 4e-4}),
        (gspo(clip_low=0.1, clip_high=0.1), {"level": "sequence", "low": 0.1, "high": 0.1}),
        (cispo(ratio_max=1.2), {"loss_type": "cispo", "high": 1.2}),
        (cispo(ratio_max=0.2), {"loss_type": "cispo", "high": 0.2}),
    ],
    ids=lambda value: value.name if isinstance(value, Algorithm) else " ".join(map(str, value.values())),
)
def test_loss_and_gradient_agree_with_trl(trl: Trl, algorithm: Algorithm, settings: dict[str, Any]) -> None:
    for seed in range(5):
        toy = batch(seed)
        their_loss, their_gradient = trl_loss(trl, toy, **settings)
        loss, gradient = our_loss(algorithm, toy)
        assert loss == pytest.approx(their_loss, abs=1e-10)
        assert torch.allclose(gradient, their_gradient, rtol=0, atol=1e-10)
