from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlvr.errors import ConfigError, PluginError
from rlvr.registry import names
from rlvr.trainers.advantages import BatchMean, Center, LeaveOneOut, Normalize, PerRollout, Unchanged, WhitenedReturns
from rlvr.trainers.aggregation import SequenceMean, SequenceSum, TokenMean, TokenSumOver
from rlvr.trainers.algorithms import (
    Algorithm,
    build,
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    reinforce,
    reinforce_pp,
    rloo,
)
from rlvr.trainers.arguments import settings_of
from rlvr.trainers.kl import K1, K2
from rlvr.trainers.objectives import Clipped, Reinforce, SequenceClipped, StopGradRatio
from rlvr.trainers.shaping.base import Identity, KeepAll, MixedOutcomes, OverlongPenalty

PRESETS: dict[str, Callable[..., Algorithm]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "rloo": rloo,
    "reinforce": reinforce,
    "reinforce_pp": reinforce_pp,
    "gspo": gspo,
    "cispo": cispo,
}


@pytest.mark.parametrize(
    ("preset", "advantage", "objective", "aggregate"),
    [
        (grpo, PerRollout(Normalize(1e-4, 1)), Clipped(0.2, 0.2), SequenceMean()),
        (dr_grpo, PerRollout(Center()), Clipped(0.2, 0.2), TokenSumOver()),
        (dapo, PerRollout(Normalize(1e-4, 1)), Clipped(0.2, 0.28), TokenMean()),
        (rloo, PerRollout(LeaveOneOut()), Reinforce(), SequenceSum()),
        (reinforce, PerRollout(BatchMean()), Reinforce(), SequenceSum()),
        (reinforce_pp, WhitenedReturns(Unchanged()), Clipped(0.2, 0.2), TokenMean()),
        (gspo, PerRollout(Normalize(1e-4, 1)), SequenceClipped(3e-4, 4e-4), SequenceMean()),
        (cispo, PerRollout(Normalize(1e-4, 1)), StopGradRatio(5.0, 0.0), TokenMean()),
    ],
)
def test_presets_are_what_the_papers_say(preset: Callable[[], Algorithm], advantage: Any, objective: Any, aggregate: Any) -> None:
    algorithm = preset()
    assert (algorithm.advantage, algorithm.objective, algorithm.aggregate) == (advantage, objective, aggregate)
    assert algorithm.name == preset.__name__


def test_only_dapo_shapes_rewards_and_drops_groups() -> None:
    for name, preset in PRESETS.items():
        algorithm = preset()
        expected = (MixedOutcomes(), OverlongPenalty()) if name == "dapo" else (KeepAll(), Identity())
        assert (algorithm.keep_group, algorithm.shape) == expected


def test_each_part_of_dapo_can_be_switched_off_alone() -> None:
    full = dapo()
    changed = {
        "objective": dapo(clip_high=0.2),
        "keep_group": dapo(dynamic_sampling=False),
        "aggregate": dapo(aggregate="sequence_mean"),
        "shape": dapo(overlong=False),
    }
    for part, algorithm in changed.items():
        parts = [f.name for f in dataclasses.fields(full) if f.name != "arguments"]
        different = [name for name in parts if getattr(full, name) != getattr(algorithm, name)]
        assert different == [part]


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_needs_a_reference_unless_asked(name: str) -> None:
    assert not build(name).needs_reference
    assert not build(name).needs_policy_logprobs
    assert build(name, {"kl_coef": 0.05}).needs_reference


def test_kl_settings_reach_the_algorithm() -> None:
    algorithm = build("rloo", {"kl_coef": 0.05, "kl": "k2", "kl_in_reward": False})
    assert (algorithm.kl, algorithm.kl_coef, algorithm.kl_in_reward) == (K2, 0.05, False)
    assert rloo(kl_coef=0.05).needs_policy_logprobs
    assert rloo(kl_coef=0.05).kl is K1


@pytest.mark.parametrize(("name", "smallest"), [(name, 1 if name in ("reinforce", "reinforce_pp") else 2) for name in PRESETS])
def test_a_group_of_one_is_refused_by_algorithms_that_compare(name: str, smallest: int) -> None:
    algorithm = build(name)
    assert algorithm.min_group_size == smallest
    algorithm.check_group_size(smallest)
    if smallest == 2:
        with pytest.raises(ConfigError, match=rf"rollout.group_size = 1, but '{name}' compares .* set it to 2 or more\."):
            algorithm.check_group_size(1)


def test_reinforce_pp_with_a_group_baseline_compares_too() -> None:
    assert reinforce_pp(baseline="group").min_group_size == 2


def test_bind_gives_the_runs_length_to_the_parts_that_lack_one() -> None:
    assert dr_grpo().bind(max_tokens=64).aggregate == TokenSumOver(64)
    assert dr_grpo(max_tokens=32).bind(max_tokens=64).aggregate == TokenSumOver(32)
    assert dapo(overlong_buffer=8).bind(max_tokens=64).shape == OverlongPenalty(64, 8)
    assert grpo().bind(max_tokens=64) == grpo()


def test_only_gspo_needs_all_rows_of_a_rollout_together() -> None:
    assert [name for name, preset in PRESETS.items() if preset().needs_whole_rollouts] == ["gspo"]


def test_rloo_can_be_combined_with_ppos_clip() -> None:
    assert rloo(clip_low=0.2, clip_high=0.3).objective == Clipped(0.2, 0.3)
    with pytest.raises(ConfigError, match="set both"):
        rloo(clip_low=0.2)


def test_presets_are_plugins_like_any_other() -> None:
    assert set(PRESETS) <= set(names("algorithms"))
    for name, preset in PRESETS.items():
        assert build(name) == preset()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("grpo", {"clip_hgih": 0.3}, "has no argument 'clip_hgih'; did you mean 'clip_high'"),
        ("grpo", {"ratio_max": 0.3}, "has no argument 'ratio_max'; .*Allowed: clip_low, clip_high"),
        ("grpo", {"clip_high": "wide"}, "algorithm.clip_high = 'wide'"),
        ("grpo", {"aggregate": "mean"}, "algorithm.aggregate = 'mean'.*'sequence_mean'"),
        ("grpo", {"kl_coef": -1}, "algorithm.kl_coef = -1"),
        ("grpo", {"entropy_coef": float("nan")}, "algorithm.entropy_coef = nan"),
        ("cispo", {"ratio_max": 0}, "algorithm.ratio_max = 0"),
        ("dr_grpo", {"max_tokens": 0}, "algorithm.max_tokens = 0"),
        ("dapo", {"overlong_buffer": -5}, "algorithm.overlong_buffer = -5"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, arguments)


def test_wrong_choices_in_python_are_named_too() -> None:
    with pytest.raises(ConfigError, match="normalize = 'std'; allowed: group, batch, none"):
        grpo(normalize="std")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="kl = 'k4'; allowed: k1, k2, k3"):
        grpo(kl="k4")  # type: ignore[arg-type]


def test_unknown_algorithms_get_the_closest_name() -> None:
    with pytest.raises(PluginError, match="did you mean 'dapo'"):
        build("dappo")


def test_settings_are_the_keyword_arguments() -> None:
    assert settings_of(cispo)["ratio_max"] == 5.0


def test_an_algorithm_of_your_own_needs_no_change_here(tmp_path: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from rlvr.trainers.algorithms import Algorithm, grpo\n"
        "from dataclasses import replace\n"
        "def signs(step):\n"
        "    return step.spread((step.rewards - 0.5).sign())\n"
        "def mine(*, clip: float = 0.1) -> Algorithm:\n"
        "    return replace(grpo(clip_low=clip, clip_high=clip), name='mine', advantage=signs)\n"
        "def wrong() -> int:\n"
        "    return 3\n"
    )
    algorithm = build(f"{file}:mine", {"clip": 0.3})
    assert (algorithm.name, algorithm.objective, algorithm.min_group_size) == ("mine", Clipped(0.3, 0.3), 1)
    with pytest.raises(PluginError, match="returned int, not an Algorithm"):
        build(f"{file}:wrong")


def test_weights_and_advantages_keep_the_rewards_dtype() -> None:
    from rlvr.trainers.loss import prepare

    for name, preset in PRESETS.items():
        prepared = prepare(
            preset().bind(max_tokens=4),
            rewards=torch.tensor([1.0, 0.0]),
            group_index=torch.zeros(2, dtype=torch.long),
            rollout_index=torch.arange(2),
            mask=torch.ones(2, 3, dtype=torch.bool),
        )
        assert (prepared.advantages.dtype, prepared.weights.dtype) == (torch.float32, torch.float32), name
