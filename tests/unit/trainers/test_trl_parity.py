"""The same batch through TRL's GRPOTrainer._compute_loss and through ours: loss and gradient must agree."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.trainers.algorithms import Algorithm, cispo, dapo, dr_grpo, grpo, gspo
from rlvr.trainers.loss import prepare, token_losses

G, ROWS, WIDTH = 4, 8, 6


@pytest.fixture(scope="module")
def trainer_class() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    return grpo_trainer.GRPOTrainer


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


def trl_advantages(rewards: Tensor, *, scale: str) -> Tensor:
    """TRL's arithmetic in `_generate_and_score_completions`: view(-1, G), unbiased std, + 1e-4."""
    grouped = rewards.view(-1, G)
    centered = grouped - grouped.mean(1, keepdim=True)
    return (centered / (grouped.std(1, keepdim=True) + 1e-4) if scale == "group" else centered).flatten()


def trl_loss(trainer_class: Any, toy: dict[str, Tensor], **settings: Any) -> tuple[float, Tensor]:
    logprobs = toy["logprobs"].clone().requires_grad_()
    options = {"loss_type": "grpo", "level": "token", "low": 0.2, "high": 0.2, "beta": 0.0, "scale": "group", "delta": None}
    options |= settings
    trainer = SimpleNamespace(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=options["level"],
        beta=options["beta"],
        loss_type=options["loss_type"],
        epsilon_low=options["low"],
        epsilon_high=options["high"],
        use_vllm=False,
        max_completion_length=WIDTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=options["delta"], steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(toy["logprobs"]), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
        "completion_ids": torch.zeros(ROWS, WIDTH, dtype=torch.long),
        "completion_mask": toy["mask"].long(),
        "advantages": trl_advantages(toy["rewards"], scale=options["scale"]),
        "old_per_token_logps": toy["old"],
        "ref_per_token_logps": toy["ref"],
        "num_items_in_batch": toy["mask"].sum(),
    }
    loss = trainer_class._compute_loss(trainer, None, inputs)
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
def test_loss_and_gradient_agree_with_trl(trainer_class: Any, algorithm: Algorithm, settings: dict[str, Any]) -> None:
    for seed in range(5):
        toy = batch(seed)
        their_loss, their_gradient = trl_loss(trainer_class, toy, **settings)
        loss, gradient = our_loss(algorithm, toy)
        assert loss == pytest.approx(their_loss, abs=1e-10)
        assert torch.allclose(gradient, their_gradient, rtol=0, atol=1e-10)
