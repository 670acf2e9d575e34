"""A model in parts trains like one that is whole, and its checkpoints are read by any number of processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlvr.config import ModelConfig, ParallelConfig, load_recipe
from rlvr.engines.load import load_model
from rlvr.envs.tasks import load_task
from rlvr.errors import ConfigError
from rlvr.trainers.model.parallel import Parallel, Way, parallel_of
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.train import dry_run, resume, train

MakeRecipe = Callable[..., dict[str, Any]]
TrainOn = Callable[..., Any]
Start = Callable[..., Any]

FSDP = {"parallel": "fsdp"}
# eps keeps Adam from blowing rounding in near-zero gradients up to whole steps; gradients are clipped in every step.
OPTIM = {"eps": 1e-3, "grad_clip": 0.05, "tokens_per_microbatch": 40}
CASES: dict[str, dict[str, Any]] = {
    "with a reference": {
        "algorithm": {"name": "grpo", "kl_coef": 0.05, "entropy_coef": 0.01},
        "rollout": {"problems_per_step": 5},
        "optim": {**OPTIM, "epochs": 2},
        "eval": {"problems": 3, "n": 2, "k": [1]},
    },
    "an adapter over checkpointed layers, offloaded": {
        "load": {"lora_rank": 4, "gradient_checkpointing": True, "parallel": {"name": "fsdp", "offload": True}},
        "algorithm": {"name": "grpo", "kl_coef": 0.05},
        "optim": OPTIM,
        "rollout": {"problems_per_step": 2, "group_size": 3},
    },
    "in bf16": {"load": {"precision": "bf16"}, "optim": OPTIM},
}


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted(run.glob("checkpoints/step-*"))[-1]
    [file] = newest.glob("*.safetensors")
    return load_file(file)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def largest_gap(found: Path, expected: Path) -> float:
    one, other = weights(found), weights(expected)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in other)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`new:tiny` is always float32; the same model in a folder is what the recipe says."""
    folder = tmp_path_factory.mktemp("tiny")
    spec = load_task("chains", {}).tiny
    assert spec is not None
    for part in tiny_model(spec, 0):
        part.save_pretrained(folder)
    return str(folder)


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES)
def test_training_in_parts_and_on_whole_copies_is_that_of_one_process(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, tiny_folder: str, case: str
) -> None:
    settings = {**CASES[case], "model": tiny_folder}
    load = {**settings.get("load", {})}
    one = train(recipe(**{**settings, "load": {**load, "parallel": "ddp", "device": "cpu"}}, out=str(tmp_path / "one")))
    size = 3 if "adapter" in case else 2  # of three ranks one has nothing to learn from two problems
    started = train_on(size, recipe(**{**settings, "load": {**FSDP, **load}}, out=str(tmp_path / "parts")))
    started.succeed()
    assert [started.said(rank) for rank in range(1, size)] == [""] * (size - 1)  # the first rank alone speaks
    train_on(2, recipe(**{**settings, "load": {**load, "parallel": "ddp"}}, out=str(tmp_path / "whole"))).succeed()
    is_bf16 = case == "in bf16"
    for way in ("parts", "whole"):
        assert largest_gap(tmp_path / way, tmp_path / "one") < (1e-3 if is_bf16 else 1e-7)
        for found, expected in zip(metrics(tmp_path / way), metrics(tmp_path / "one"), strict=True):
            assert found.keys() == expected.keys()
            assert [found[key] for key in ("loss", "grad_norm", "entropy", "tokens")] == pytest.approx(
                [expected[key] for key in ("loss", "grad_norm", "entropy", "tokens")], rel=1e-2 if is_bf16 else 1e-5, abs=1e-6
            )
            assert found["grad_norm"] > 0.05
    newest = tmp_path / "parts" / "checkpoints" / one.checkpoint.name
    if "adapter" not in case:
        assert load_model(newest, ModelConfig(device="cpu")).model.config.architectures == ["Qwen3ForCausalLM"]
        assert AutoModelForCausalLM.from_pretrained(newest).dtype is torch.float32
    assert len(list((newest / "moments").glob("*.safetensors"))) == size
    assert len(list((tmp_path / "parts" / "tensorboard").iterdir())) == 1


@pytest.mark.processes
def test_a_warm_start_in_parts_is_that_of_one_process(tmp_path: Path, train_on: TrainOn) -> None:
    settings = {
        "kind": "sft",
        "model": "new:tiny",
        "task": "chains",
        "steps": 3,
        "sequences_per_step": 3,  # one rank has one more than the other
        "threads": 1,
        "optim": {"lr": 1e-3, "eps": 1e-3, "tokens_per_microbatch": 30},
    }
    train({**settings, "out": str(tmp_path / "one")})
    train_on(2, {**settings, "load": FSDP, "out": str(tmp_path / "parts")}).succeed()
    assert largest_gap(tmp_path / "parts", tmp_path / "one") < 1e-7


def set_up(run: Path, *, steps: int, parallel: str) -> None:
    """The run is to go on to `steps`, its model shared in another way."""
    file = run / "config.toml"
    text = re.sub(r"(?m)^steps = \d+", f"steps = {steps}", file.read_text())
    file.write_text(re.sub(r'(\[load\.parallel\]\nname = )"\w+"', rf'\1"{parallel}"', text))


@pytest.mark.processes
def test_a_run_goes_on_with_another_number_of_processes_and_another_way_of_sharing(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, ranks: Start
) -> None:
    settings = {"optim": OPTIM, "algorithm": {"name": "grpo", "kl_coef": 0.05}, "load": {"device": "cpu"}}
    train(recipe(**settings, steps=5, out=str(tmp_path / "one")))
    run = tmp_path / "run"
    train_on(2, recipe(**{**settings, "load": FSDP}, steps=1, out=str(run))).succeed()
    set_up(run, steps=2, parallel="fsdp")
    resume(run)  # alone
    assert not (run / "checkpoints/step-000002/moments").exists()
    set_up(run, steps=3, parallel="fsdp")
    ranks(3, ["train", "--resume", str(run)]).succeed()
    set_up(run, steps=4, parallel="ddp")
    ranks(2, ["train", "--resume", str(run)]).succeed()
    set_up(run, steps=5, parallel="fsdp")
    ranks(2, ["train", "--resume", str(run)]).succeed()
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5]
    assert largest_gap(run, tmp_path / "one") < 1e-6


@pytest.mark.processes
def test_a_crash_while_saving_in_parts_leaves_the_checkpoint_before(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, ranks: Start
) -> None:
    run = tmp_path / "run"
    settings = {"optim": OPTIM, "checkpoint": {"every": 1, "keep": 2}, "steps": 40}
    started = train_on(2, recipe(**settings, load=FSDP, out=str(run)))
    until = time.monotonic() + 60
    while not (any(run.glob("checkpoints/.step-*.tmp/moments/*")) and any(run.glob("checkpoints/step-*"))):
        assert time.monotonic() < until
        time.sleep(0.001)
    for process in started.processes:
        os.kill(process.pid, signal.SIGKILL)
    assert started.codes() == [-signal.SIGKILL] * 2
    reached = max(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))
    set_up(run, steps=reached + 2, parallel="fsdp")
    ranks(2, ["train", "--resume", str(run)]).succeed()
    train(recipe(**{**settings, "steps": reached + 2}, load={"device": "cpu"}, out=str(tmp_path / "one")))
    assert largest_gap(run, tmp_path / "one") < 1e-6
    assert not list(run.glob("checkpoints/.*"))


def test_arguments_of_the_ways_are_checked() -> None:
    assert parallel_of(ParallelConfig()) == Parallel()
    chosen = parallel_of(ParallelConfig.model_validate({"name": "fsdp", "offload": True, "timeout_s": 60}))
    assert chosen == Parallel(Way.FSDP, offload=True, timeout_s=60.0)
    wrong = {
        "load.parallel = 'zero', but the ways are: ddp, fsdp": {"name": "zero"},
        "load.parallel = 'deepspeed', but the ways are: ddp, fsdp; 'fsdp' shares what ZeRO stage 3": {"name": "deepspeed"},
        "load.parallel.ofload: fsdp has no such argument; did you mean 'offload'?": {"name": "fsdp", "ofload": True},
        "load.parallel.offload: ddp has no such argument; it has timeout_s, join_s": {"offload": True},
        "load.parallel.offload = 'yes', but it should be a bool": {"name": "fsdp", "offload": "yes"},
        "load.parallel.timeout_s = 0, but it should be more than 0 seconds": {"timeout_s": 0},
    }
    for message, settings in wrong.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            parallel_of(ParallelConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": {"reference_every": 2}}, "optim.reference_every = 2, but with load.parallel = 'fsdp'"),
        ({"load": {**FSDP, "attention": "flash_attention_2"}}, "load.attention = 'flash_attention_2', but with load.parallel"),
    ],
)
def test_what_needs_whole_weights_is_refused_before_anything_is_started(
    recipe: MakeRecipe, settings: dict[str, Any], message: str
) -> None:
    asked = recipe(**{"load": FSDP, "algorithm": {"name": "grpo", "kl_coef": 0.1}, **settings})
    with pytest.raises(ConfigError, match=re.escape(message)):
        dry_run(load_recipe(asked))
