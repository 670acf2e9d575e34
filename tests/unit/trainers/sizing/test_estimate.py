"""What `rlvr train --dry-run` says about a machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.cli.main import main
from rlvr.config import load_recipe, to_toml
from rlvr.errors import ConfigError
from rlvr.trainers.sizing.devices import KNOWN, Device, Machine, cpu_at_hand, machine_at_hand, machine_named
from rlvr.trainers.sizing.estimate import Estimate, Subject, estimate_run, usable
from rlvr.trainers.sizing.shape import ModelShape
from rlvr.trainers.sizing.speed import DECODE_SHARE, decode_seconds, forward_flops, update_share

MakeRecipe = Callable[..., dict[str, Any]]
SHAPE = ModelShape(3584, 18944, 28, 28, 4, 128, 152_064, has_query_key_norm=False, is_tied=False, has_bias=True)
SUBJECT = Subject(SHAPE, adapter=0, adapter_of_16=40_000_000, prompt=256, has_reference=False, scoring_passes=0)
SECTIONS = {"rollout": {"group_size": 16, "problems_per_step": 16, "max_tokens": 1792}, "engine": {"max_rows": 64}}


def estimate(recipe: MakeRecipe, machine: str, **sections: Any) -> Estimate:
    return estimate_run(load_recipe(recipe(**{**SECTIONS, **sections})), SUBJECT, machine_named(machine))  # type: ignore[arg-type]


def test_a_model_that_is_too_large_is_refused_with_what_would_fit(recipe: MakeRecipe) -> None:
    found = estimate(recipe, "h100-80gb")
    assert not found.fits
    assert found.memory.peak > 16 * SHAPE.parameters
    text = "\n".join(found.sentences())
    assert "IT DOES NOT FIT: it needs" in text
    assert "h100-80gb has 80.0 GB" in text
    fitting = [advice for advice in found.advice if advice.peak <= usable(found.machine.device)]
    assert any("load.lora_rank=16" in advice.change for advice in fitting)
    assert all(advice.peak < found.memory.peak for advice in found.advice)


def test_what_is_advised_brings_what_it_promises(recipe: MakeRecipe) -> None:
    for advice in estimate(recipe, "8xa100-40gb").advice:
        changes = dict(word.split("=") for word in advice.change.split())
        if "load.lora_rank" in changes:
            continue  # how large an adapter is, only the model knows
        changed = load_recipe(recipe(**SECTIONS), [f"{key}={value}" for key, value in changes.items()])
        found = estimate_run(changed, SUBJECT, machine_named("8xa100-40gb"))  # type: ignore[arg-type]
        assert found.memory.peak == pytest.approx(advice.peak, rel=0.02), advice.change


def test_zero_with_whole_weights_is_advised_to_split_them_too(recipe: MakeRecipe) -> None:
    load = {"parallel": {"name": "deepspeed", "stage": 2}}
    [advice] = [one for one in estimate(recipe, "8xa100-40gb", load=load).advice if "stage" in one.change]
    assert advice.change == "load.parallel.stage=3"
    changed = load_recipe(recipe(**{**SECTIONS, "load": {**SECTIONS.get("load", {}), **load}}), [advice.change])
    found = estimate_run(changed, SUBJECT, machine_named("8xa100-40gb"))  # type: ignore[arg-type]
    assert found.memory.peak == advice.peak


def test_a_recipe_that_fits_needs_no_advice(recipe: MakeRecipe) -> None:
    found = estimate(recipe, "8xh200", load={"parallel": "fsdp", "gradient_checkpointing": True})
    assert found.fits
    assert not found.advice
    assert "it fits:" in "\n".join(found.sentences())


def test_more_devices_share_the_rollouts_and_with_fsdp_the_weights(recipe: MakeRecipe) -> None:
    one, eight = estimate(recipe, "h200"), estimate(recipe, "8xh200")
    assert eight.work.rows == 32  # of 256 rollouts
    assert eight.memory.weights == one.memory.weights
    assert estimate(recipe, "8xh200", load={"parallel": "fsdp"}).memory.weights == one.memory.weights // 8
    offloaded = estimate(recipe, "8xh200", load={"parallel": {"name": "fsdp", "offload": True}})
    assert offloaded.memory.optimizer == 0
    zero = [estimate(recipe, "8xh200", load={"parallel": {"name": "deepspeed", "stage": stage}}) for stage in (1, 2, 3)]
    assert [one.memory.weights // found.memory.weights for found in zero] == [1, 1, 8]
    assert zero[0].memory.gradients > 4 * zero[1].memory.gradients
    assert [found.work.is_offloaded for found in zero] == [False] * 3
    assert estimate(recipe, "h200", load={"parallel": "deepspeed"}).memory == one.memory
    assert one.time is not None
    assert eight.time is not None
    assert eight.time.update == pytest.approx(one.time.update / 8)


def test_the_time_of_an_update_is_its_arithmetic_at_the_assumed_share(recipe: MakeRecipe) -> None:
    time = estimate(recipe, "h200").time
    assert time is not None
    tokens, rate = 256 * 1792 + 16 * 256, 989e12 * update_share(KNOWN["h200"])  # a prompt once for its 16 rollouts
    assert time.update == pytest.approx(3 * forward_flops(SHAPE, tokens, 2048) / rate)
    # six operations for each weight that a token meets, and some for attention
    assert time.update > 6 * (SHAPE.parameters - SHAPE.embedding) * tokens / rate
    assert 0 < update_share(KNOWN["h200"]) < update_share(cpu_at_hand()) < 1


def test_decoding_few_rows_takes_the_time_of_reading_weights_and_cache() -> None:
    device = KNOWN["h200"]
    seconds = decode_seconds(SHAPE, 4, 1000, 2, device)
    assert seconds == pytest.approx((2 * (SHAPE.linear + SHAPE.embedding) + 4 * 1000 * SHAPE.kv_bytes(2)) / device.bandwidth)
    slow = replace(device, flops=1e9)
    assert decode_seconds(SHAPE, 4, 1000, 2, slow) > seconds
    assert 0 < DECODE_SHARE < 1


def test_a_device_of_unknown_speed_gets_an_estimate_of_memory_alone(recipe: MakeRecipe) -> None:
    machine = Machine(Device("some card", 10**12, 0.0, 0.0))
    found = estimate_run(load_recipe(recipe(**SECTIONS)), SUBJECT, machine)  # type: ignore[arg-type]
    assert found.time is None
    assert "no estimate of the time" in "\n".join(found.sentences())
    assert found.as_json()["time"] is None


def test_devices_are_found_by_name_and_number() -> None:
    assert machine_named("8xA100-80GB") == Machine(KNOWN["a100-80gb"], 8)
    assert machine_named("h200").count == 1
    for wrong in ("8xh20", "0xh200", "xh200", "toaster", ""):
        with pytest.raises(ConfigError, match="not known here"):
            machine_named(wrong)


def test_the_cpu_is_measured() -> None:
    device = cpu_at_hand()
    assert device.flops > 1e8
    assert device.bandwidth > 1e8
    assert device.memory > 2**28
    if not torch.cuda.is_available():
        assert not machine_at_hand("auto").device.is_gpu


@pytest.fixture
def recipe_file(tmp_path: Path, recipe: MakeRecipe) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe()).model_dump()))
    return file


def test_the_dry_run_prints_the_estimate(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe_file), "--dry-run", "--on", "2xl4"]) == 0
    said = capsys.readouterr().out
    assert "# estimate for 2 processes, each with l4 with 24.0 GB" in said
    assert "# it fits:" in said
    assert main(["train", str(recipe_file), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimate"]["fits"] is True
    assert found["estimate"]["device"] in {"cpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    assert found["estimate"]["memory"]["peak_gb"] > 0
    assert found["arithmetic"]["parameters"] > 0


def test_a_device_without_a_dry_run_is_refused(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe_file), "--on", "l4"]) == 2
    assert "add --dry-run" in capsys.readouterr().err
