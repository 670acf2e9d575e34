"""TRL's and verl's own loss functions, called with a batch of ours. Neither package is needed for anything else here."""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rlvr.errors import ConfigError, PluginError, boundary
from rlvr.trainers.parity.comparison import LONGEST, Peer, Setting, TheirBatch


class Trl:
    """`GRPOTrainer._compute_loss`; its advantages are two lines inside a long method, so their arithmetic is repeated here.

    Source: TRL 1.16, trl/trainer/grpo_trainer.py, `_generate_and_score_completions`: sample std over the group, + 1e-4.
    """

    name = "trl"
    settings = (
        Setting("grpo", {}),
        Setting("grpo", {"kl_coef": 0.04}, {"beta": 0.04}),
        Setting("grpo", {"dual_clip": 1.5}, {"delta": 1.5}),
        Setting("dr_grpo", {}, {"loss_type": "dr_grpo", "scale": "none"}),
        Setting("dapo", {"overlong": False}, {"loss_type": "dapo", "high": 0.28}),
        Setting("gspo", {"clip_low": 0.1, "clip_high": 0.1}, {"level": "sequence", "low": 0.1, "high": 0.1}),
        Setting("cispo", {"ratio_max": 1.2}, {"loss_type": "cispo", "high": 1.2}),
    )

    def __init__(self) -> None:
        self.version = _version("trl")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._compute_loss = _import("trl", "trl.trainer.grpo_trainer").GRPOTrainer._compute_loss

    def loss(self, batch: TheirBatch, setting: Setting) -> Tensor:
        chosen: dict[str, Any] = {"loss_type": "grpo", "level": "token", "low": 0.2, "high": 0.2, "beta": 0.0, "scale": "group"}
        chosen |= {"delta": None, **setting.theirs}
        rows, width = batch.mask.shape
        trainer = SimpleNamespace(
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=chosen["level"],
            beta=chosen["beta"],
            loss_type=chosen["loss_type"],
            epsilon_low=chosen["low"],
            epsilon_high=chosen["high"],
            use_vllm=False,
            max_completion_length=LONGEST,
            current_gradient_accumulation_steps=1,
            _entropy_bonus_enabled=False,
            model=SimpleNamespace(training=True),
            args=SimpleNamespace(use_bias_correction_kl=False, delta=chosen["delta"], steps_per_generation=1),
            accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
            _metrics={"train": defaultdict(list)},
            _get_per_token_logps_and_entropies=lambda *_, **__: (batch.logprobs, torch.zeros_like(batch.logprobs), None),
        )
        inputs = {
            "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
            "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
            "completion_ids": torch.zeros(rows, width, dtype=torch.long),
            "completion_mask": batch.mask.long(),
            "advantages": _trl_advantages(batch, scale=chosen["scale"]),
            "old_per_token_logps": batch.old,
            "ref_per_token_logps": batch.ref,
            "num_items_in_batch": batch.mask.sum(),
        }
        loss: Tensor = self._compute_loss(trainer, None, inputs)
        return loss


def _trl_advantages(batch: TheirBatch, *, scale: str) -> Tensor:
    grouped = batch.rewards.view(-1, batch.group_size)
    centered = grouped - grouped.mean(1, keepdim=True)
    return (centered / (grouped.std(1, keepdim=True) + 1e-4) if scale == "group" else centered).flatten()


class Verl:
    """`verl.trainer.ppo.core_algos`: advantage estimators and policy losses, all of them verl's own.

    Its vanilla loss always clips twice (`clip_ratio_c`, 3), as ours does with `dual_clip=3.0`. Its advantages add
    1e-6 to the std.
    """

    name = "verl"
    settings = (
        Setting("grpo", {"dual_clip": 3.0, "std_eps": 1e-6}, {"aggregate": "seq-mean-token-mean"}),
        Setting("grpo", {"dual_clip": 3.0, "std_eps": 1e-6, "aggregate": "token_mean"}),
        Setting(
            "grpo",
            {"dual_clip": 3.0, "std_eps": 1e-6, "aggregate": "token_sum_over", "normalize": "none"},
            {"aggregate": "seq-mean-token-sum-norm", "by_std": False},
        ),
        Setting("dapo", {"dual_clip": 3.0, "std_eps": 1e-6, "overlong": False}, {"high": 0.28}),
        Setting(
            "gspo",
            {"clip_low": 0.1, "clip_high": 0.1, "std_eps": 1e-6},
            {"loss": "gspo", "low": 0.1, "high": 0.1, "aggregate": "seq-mean-token-mean"},
        ),
        Setting("cispo", {"ratio_max": 1.2, "ratio_min": 0.8, "std_eps": 1e-6}, {"loss": "cispo", "low": 0.2, "high": 0.2}),
        Setting("grpo", {"dual_clip": 3.0, "std_eps": 1e-6, "kl_coef": 0.04}, {"aggregate": "seq-mean-token-mean", "kl": 0.04}),
    )

    def __init__(self) -> None:
        self.version = _version("verl")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._core = _import("verl", "verl.trainer.ppo.core_algos")
            self._actor = _import("verl", "verl.workers.config.actor").ActorConfig

    def loss(self, batch: TheirBatch, setting: Setting) -> Tensor:
        chosen: dict[str, Any] = {
            "loss": "vanilla",
            "low": 0.2,
            "high": 0.2,
            "aggregate": "token-mean",
            "by_std": True,
            "kl": 0.0,
        }
        chosen |= setting.theirs
        mask = batch.mask.double()
        token_rewards = torch.zeros_like(mask)
        token_rewards[torch.arange(len(mask)), batch.mask.sum(1) - 1] = batch.rewards
        groups = [index // batch.group_size for index in range(len(mask))]
        advantages, _ = self._core.compute_grpo_outcome_advantage(
            token_rewards, mask, groups, norm_adv_by_std_in_grpo=chosen["by_std"]
        )
        config = self._actor(
            strategy="fsdp",
            rollout_n=batch.group_size,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio_low=chosen["low"],
            clip_ratio_high=chosen["high"],
            clip_ratio_c=3.0,
            loss_agg_mode=chosen["aggregate"],
        )
        policy_loss = self._core.get_policy_loss_fn(chosen["loss"])
        loss, _ = policy_loss(batch.old, batch.logprobs, advantages, mask, loss_agg_mode=chosen["aggregate"], config=config)
        if chosen["kl"]:
            penalty = self._core.kl_penalty(batch.logprobs, batch.ref, "low_var_kl")
            loss = loss + chosen["kl"] * self._core.agg_loss(penalty, mask, chosen["aggregate"])
        found: Tensor = loss
        return found


PEERS: Mapping[str, Callable[[], Peer]] = {"trl": Trl, "verl": Verl}


def load_peer(name: str) -> Peer:
    """
    Raises:
        ConfigError: no such peer, or its package is not installed.
        PluginError: it is installed and cannot be imported.
    """
    if name not in PEERS:
        raise ConfigError(f"--against {name}: choose from {', '.join(PEERS)}")
    return PEERS[name]()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise ConfigError(
            f"{package} is not installed here, and its own code is what is compared: pip install {package}"
        ) from None


def _import(package: str, module: str) -> Any:
    with boundary(PluginError, f"{package} is installed, but {module} cannot be imported"):
        return importlib.import_module(module)
