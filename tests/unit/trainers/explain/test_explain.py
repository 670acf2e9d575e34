from __future__ import annotations

import re
from typing import Any

import pytest

from rlvr.errors import ConfigError, PluginError
from rlvr.trainers.algorithms import build
from rlvr.trainers.explain.algorithm import explain, parse_settings, presets
from rlvr.trainers.explain.traps import on_policy_multiplier


def formula(name: str, **settings: Any) -> str:
    explanation = explain(name, settings)
    return "\n".join((explanation.objective, *explanation.where))


@pytest.mark.parametrize(
    ("name", "settings", "fragments"),
    [
        ("grpo", {}, ["1/R Σᵢ 1/|oᵢ| Σₜ", "clip(ρᵢₜ, 0.8, 1.2)", "std_g(r) + 0.0001"]),
        ("grpo", {"kl_coef": 0.04, "kl": "k2"}, ["− 0.04 KLᵢₜ", "k2 = d²/2", "log π_ref"]),
        ("grpo", {"entropy_coef": 0.01, "tis_cap": 3}, ["+ 0.01 H(π_θ)ᵢₜ", "wᵢₜ ·", "min(π_old / π_sampling, 3)"]),
        ("dr_grpo", {"max_tokens": 300}, ["1/(R·300)", "rᵢ − mean_g(r)"]),
        ("dr_grpo", {}, ["1/(R·max_tokens)"]),
        ("dapo", {"max_tokens": 20480}, ["1/Σ|oᵢ|", "clip(ρᵢₜ, 0.8, 1.28)", "|oᵢ| − 16384", "/ 4096"]),
        ("rloo", {"kl_coef": 0.05}, ["log π_θ", "the reward loses 0.05 · Σₜ KLᵢₜ", "mean of the other r"]),
        ("reinforce_pp", {"kl_coef": 0.05}, ["KLᵢₜ from each token on", "std(a)"]),
        ("gspo", {}, ["clip(sᵢ, 0.9997, 1.0004)", "^(1/|oᵢ|)"]),
        ("cispo", {"ratio_max": 5.0}, ["sg[clip(ρᵢₜ, 0, 5)]"]),
    ],
)
def test_every_constant_is_in_the_formula(name: str, settings: dict[str, Any], fragments: list[str]) -> None:
    text = formula(name, **settings)
    for fragment in fragments:
        assert fragment in text


@pytest.mark.parametrize(
    ("name", "settings", "warning"),
    [
        ("cispo", {"ratio_max": 0.2}, "every gradient is multiplied by 0.2"),
        ("cispo", {"ratio_max": 5.0, "ratio_min": 2.0}, "multiplied by 2"),
        ("grpo", {"tis_cap": 0.5}, "multiplied by 0.5"),
        ("gspo", {"aggregate": "token_mean"}, "use aggregate = sequence_mean"),
        ("gspo", {"clip_low": 0.2, "clip_high": 0.2}, "hardly ever act"),
        ("dr_grpo", {"normalize": "group"}, "half of Dr. GRPO"),
        ("dr_grpo", {"aggregate": "sequence_mean"}, "length bias is back"),
        ("dapo", {"dynamic_sampling": False}, "1 of them is off: dynamic sampling"),
        ("dapo", {"clip_high": 0.2, "overlong": False}, "2 of them are off: clip-higher"),
        ("grpo", {"kl_coef": 0.1, "kl": "k1"}, "expected gradient of zero"),
        ("rloo", {"kl_coef": 0.1, "kl": "k3"}, "only k1 has it there"),
        ("grpo", {"kl_coef": 0.1, "kl": "k1", "kl_in_reward": True}, "strength changes from group to group"),
        ("grpo", {"std_eps": 0.0}, r"become \+0.7071 and -0.7071"),
    ],
)
def test_known_traps_are_named(name: str, settings: dict[str, Any], warning: str) -> None:
    assert re.search(warning, "\n".join(explain(name, settings).warnings))


def test_presets_at_their_defaults_step_into_no_trap() -> None:
    found = presets()
    assert {preset.name for preset in found} >= {"grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo"}
    for preset in found:
        assert explain(preset.name).warnings == ()
        assert preset.summary
        assert preset.source


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "rloo", "reinforce", "reinforce_pp", "gspo", "cispo"])
def test_the_on_policy_gradient_is_reinforces(name: str) -> None:
    assert explain(name).gradient_multiplier == {"positive_advantage": 1.0, "negative_advantage": 1.0}


def test_the_gradient_multiplier_is_the_losses_own() -> None:
    assert on_policy_multiplier(build("cispo", {"ratio_max": 0.2}), 1.0) == pytest.approx(0.2)
    assert on_policy_multiplier(build("grpo", {"tis_cap": 0.5, "kl_coef": 1.0, "entropy_coef": 1.0}), -1.0) == pytest.approx(0.5)


def test_every_choice_has_plain_words() -> None:
    for preset in presets():
        choices = explain(preset.name, {"kl_coef": 0.1, "entropy_coef": 0.1, "tis_cap": 2.0}).choices
        parts = [choice.part for choice in choices]
        expected = [
            "advantage", "objective", "aggregate", "kl", "entropy", "correction", "stale", "keep_group", "shape", "group size",
        ]  # fmt: skip
        assert parts == expected
        assert all(len(choice.words) > 15 for choice in choices)


def test_settings_are_resolved_to_their_types() -> None:
    settings = explain("grpo", {"clip_high": "0.3"}).settings
    assert (settings["clip_high"], settings["clip_low"]) == (0.3, 0.2)


def test_settings_are_read_as_toml_with_bare_words() -> None:
    words = ["ratio_max=5.0", "kl=k2", "kl_in_reward=true", "max_tokens=64", "tis_cap=none", "name='a b'", "x=.5"]
    expected = {"ratio_max": 5.0, "kl": "k2", "kl_in_reward": True, "max_tokens": 64, "tis_cap": None, "name": "a b", "x": ".5"}
    assert parse_settings(words) == expected


@pytest.mark.parametrize("word", ["ratio_max", "=3", "ratio_max=", ""])
def test_words_that_are_no_settings_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="not of the form key=value"):
        parse_settings([word])


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip_low is given twice"):
        parse_settings(["clip_low=0.1", "clip_low=0.2"])


def test_an_unknown_algorithm_is_a_plugin_error() -> None:
    with pytest.raises(PluginError, match="did you mean 'grpo'"):
        explain("grppo")


def test_parts_of_your_own_are_shown_by_name(tmp_path: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from rlvr.trainers.algorithms import Algorithm, grpo\n"
        "def signs(step):\n    return step.spread(step.rewards.sign())\n"
        "def mine() -> Algorithm:\n    return replace(grpo(), name='mine', advantage=signs)\n"
    )
    explanation = explain(f"{file}:mine")
    assert explanation.choices[0].formula == "signs"
    assert explanation.where[0] == "signs"
