"""A model that several processes share trains like one that is whole, and its checkpoints are read by any number of processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
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
from rlvr.trainers.model.parallel import Parallel, Way, check_launcher, parallel_of
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.train import dry_run, resume, train

MakeRecipe = Callable[..., dict[str, Any]]
TrainOn = Callable[..., Any]
Start = Callable[..., Any]

FSDP = {"name": "fsdp"}
ZERO = {stage: {"name": "deepspeed", "stage": stage} for stage in (1, 2, 3)}
# eps keeps Adam from blowing rounding in near-zero gradients up to whole steps; gradients are clipped in every step.
OPTIM = {"eps": 1e-3, "grad_clip": 0.05, "tokens_per_microbatch": 40}
CASES: dict[str, dict[str, Any]] = {
    "with a reference": {
        "algorithm": {"name": "grpo", "kl_coef": 0.05, "entropy_coef": 0.01},
        "rollout": {"problems_per_step": 5},
        "optim": {**OPTIM, "epochs": 2},
        "eval": {"problems": 3, "n": 2, "k": [1]},
    },
    "an adapter over checkpointed layers": {
        "load": {"lora_rank": 4, "gradient_checkpointing": True},
        "algorithm": {"name": "grpo", "kl_coef": 0.05},
        "optim": OPTIM,
        "rollout": {"problems_per_step": 2, "group_size": 3},
    },
    "in bf16": {"load": {"precision": "bf16"}, "optim": OPTIM},
}
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "fsdp": FSDP,
    "fsdp, offloaded": {**FSDP, "offload": True},
    **{f"zero {stage}": way for stage, way in ZERO.items()},
    **{f"zero {stage}, offloaded": {**way, "offload": True} for stage, way in ZERO.items()},
}
TOGETHER = {
    "with a reference": ("ddp", "fsdp", "zero 1", "zero 2", "zero 3"),
    "an adapter over checkpointed layers": ("ddp", "fsdp, offloaded", "zero 2, offloaded", "zero 3, offloaded"),
    "in bf16": ("ddp", "fsdp", "zero 1", "zero 3"),
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> Callable[[str, MakeRecipe], Path]:
    """The run folder of a case in one process, which all ways to share it are compared with."""
    made: dict[str, Path] = {}

    def run(case: str, recipe: MakeRecipe) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("alone") / "one"
            settings = {**CASES[case], "model": tiny_folder}
            train(recipe(**{**settings, "load": {**settings.get("load", {}), "device": "cpu"}}, out=str(made[case])))
        return made[case]

    return run


@pytest.mark.processes
@pytest.mark.parametrize(("case", "way"), [(case, way) for case, ways in TOGETHER.items() for way in ways])
def test_training_in_several_processes_is_that_of_one(
    tmp_path: Path,
    recipe: MakeRecipe,
    train_on: TrainOn,
    tiny_folder: str,
    alone: Callable[[str, MakeRecipe], Path],
    case: str,
    way: str,
) -> None:
    settings = {**CASES[case], "model": tiny_folder}
    settings["load"] = {**settings.get("load", {}), "parallel": WAYS[way]}
    one, run = alone(case, recipe), tmp_path / "run"
    size = 3 if "adapter" in case and way != "ddp" else 2  # of three ranks one has nothing to learn from two problems
    started = train_on(size, recipe(**settings, out=str(run)))
    started.succeed()
    assert [started.said(rank) for rank in range(1, size)] == [""] * (size - 1)  # the first rank alone speaks
    assert len(list((run / "tensorboard").iterdir())) == 1
    is_bf16 = case == "in bf16"
    assert largest_gap(run, one) < (1e-3 if is_bf16 else 1e-7)
    for found, expected in zip(metrics(run), metrics(one), strict=True):
        assert found.keys() == expected.keys()
        assert [found[key] for key in ("loss", "grad_norm", "entropy", "tokens")] == pytest.approx(
            [expected[key] for key in ("loss", "grad_norm", "entropy", "tokens")], rel=1e-2 if is_bf16 else 1e-5, abs=1e-6
        )
        assert found["grad_norm"] > 0.05
    newest = sorted(run.glob("checkpoints/step-*"))[-1]
    if "adapter" not in case:
        assert load_model(newest, ModelConfig(device="cpu")).model.config.architectures == ["Qwen3ForCausalLM"]
        assert AutoModelForCausalLM.from_pretrained(newest).dtype is torch.float32
    assert len(list(newest.glob("moments/*.safetensors"))) == (0 if way == "ddp" else size)


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
    for name in ("fsdp", "zero 2"):
        train_on(2, {**settings, "load": {"parallel": WAYS[name]}, "out": str(tmp_path / name)}).succeed()
        assert largest_gap(tmp_path / name, tmp_path / "one") < 1e-7


# In one pair of processes, way after way: rank 1's second loss is finite, and its gradient is not.
NOT_FINITE = """
import torch
from rlvr.config import OptimConfig
from rlvr.engines.shards import whole
from rlvr.envs.tasks import load_task
from rlvr.errors import TrainingError
from rlvr.trainers.model.distributed import join_world
from rlvr.trainers.model.fsdp import shard
from rlvr.trainers.model.parallel import Parallel, Way
from rlvr.trainers.model.policy import Policy
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.model.update import Updater

torch.set_num_threads(1)
world = join_world("cpu")
ways = [Parallel(), Parallel(Way.FSDP), *(Parallel(Way.DEEPSPEED, stage=stage) for stage in (1, 2, 3))]
for parallel in ways:
    model, _ = tiny_model(load_task("chains", {}).tiny, 0)
    policy = Policy(model)
    if parallel.way is Way.FSDP:
        shard(policy, parallel, "fp32", world)
    updater = Updater(policy, OptimConfig(lr=1e-3, eps=1e-3), 9, world, parallel)

    def fine():
        tokens, mask = torch.arange(6)[None], torch.tensor([[False] + [True] * 5])
        return -policy.score(tokens, torch.tensor([6]), mask).logprobs.sum()

    def broken():
        loss = fine()
        return loss + torch.sqrt(0 * loss)  # whose derivative is 0 * infinity

    weights = lambda: [whole(parameter).clone() for parameter in model.parameters()]
    fresh = weights()
    updater.step([fine], 0)
    before = weights()
    assert not torch.equal(fresh[0], before[0])
    try:
        updater.step([broken if world.rank else fine], 1)
    except TrainingError as error:
        assert "loss nan" not in str(error), error
        assert "is not finite; the weights were not touched" in str(error), error
    else:
        raise AssertionError(parallel)
    assert all(map(torch.equal, before, weights())), parallel
    assert updater.step([fine], 2).grad_norm > 0
    assert not torch.equal(before[0], weights()[0])
"""


@pytest.mark.processes
def test_a_gradient_that_is_not_finite_on_one_rank_leaves_all_weights_as_they_are(tmp_path: Path, ranks: Start) -> None:
    script = tmp_path / "not_finite.py"
    script.write_text(NOT_FINITE)
    ranks(2, [str(script)]).succeed()


def set_up(run: Path, *, steps: int, way: str) -> None:
    """The run is to go on to `steps`, its model shared in another way."""
    file = run / "config.toml"
    text = re.sub(r"(?m)^steps = \d+", f"steps = {steps}", file.read_text())
    own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in WAYS[way].items())
    file.write_text(re.sub(r"(?s)(\[load\.parallel\]\n).*?(?=\n\[|\Z)", rf"\1{own}", text))


@pytest.mark.processes
def test_a_run_goes_on_with_another_number_of_processes_and_another_way_of_sharing(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, ranks: Start
) -> None:
    settings = {"optim": OPTIM, "algorithm": {"name": "grpo", "kl_coef": 0.05}, "load": {"device": "cpu"}}
    # From every way to store the moments into every way to hold them, and to more processes and fewer.
    then = [(1, "zero 2"), (3, "zero 3"), (2, "fsdp"), (2, "zero 1"), (2, "ddp"), (3, "fsdp")]
    train(recipe(**settings, steps=len(then) + 1, out=str(tmp_path / "one")))
    run = tmp_path / "run"
    train_on(2, recipe(**{**settings, "load": {"parallel": ZERO[2]}}, steps=1, out=str(run))).succeed()
    for step, (size, way) in enumerate(then, 2):
        set_up(run, steps=step, way=way)
        if size == 1:
            resume(run)
        else:
            ranks(size, ["train", "--resume", str(run)]).succeed()
        assert (run / f"checkpoints/step-{step:06d}/moments").exists() == (size > 1 and way != "ddp")
    assert [line["step"] for line in metrics(run)] == list(range(1, len(then) + 2))
    assert largest_gap(run, tmp_path / "one") < 1e-6


@pytest.mark.processes
@pytest.mark.parametrize("way", ["fsdp", "zero 2"])
def test_a_crash_while_saving_in_parts_leaves_the_checkpoint_before(
    tmp_path: Path, recipe: MakeRecipe, train_on: TrainOn, ranks: Start, way: str
) -> None:
    run = tmp_path / "run"
    settings = {"optim": OPTIM, "checkpoint": {"every": 1, "keep": 2}, "steps": 400}
    started = train_on(2, recipe(**settings, load={"parallel": WAYS[way]}, out=str(run)))
    until = time.monotonic() + 120
    while not (any(run.glob("checkpoints/.step-*.tmp/moments/*")) and any(run.glob("checkpoints/step-*"))):
        assert time.monotonic() < until
        time.sleep(0.001)
    for process in started.processes:
        os.kill(process.pid, signal.SIGKILL)
    assert started.codes() == [-signal.SIGKILL] * 2
    reached = max(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))
    set_up(run, steps=reached + 2, way=way)
    ranks(2, ["train", "--resume", str(run)]).succeed()
    train(recipe(**{**settings, "steps": reached + 2}, load={"device": "cpu"}, out=str(tmp_path / "one")))
    assert largest_gap(run, tmp_path / "one") < 1e-6
    assert not list(run.glob("checkpoints/.*"))


def test_arguments_of_the_ways_are_checked() -> None:
    assert parallel_of(ParallelConfig()) == Parallel()
    chosen = parallel_of(ParallelConfig.model_validate({"name": "fsdp", "offload": True, "timeout_s": 60}))
    assert chosen == Parallel(Way.FSDP, offload=True, timeout_s=60.0)
    chosen = parallel_of(ParallelConfig.model_validate({"name": "deepspeed", "stage": 3}))
    assert chosen == Parallel(Way.DEEPSPEED, stage=3)
    assert (chosen.shares_weights, replace(chosen, stage=2).shares_weights) == (True, False)
    wrong = {
        "load.parallel = 'zero', but the ways are: ddp, fsdp, deepspeed": {"name": "zero"},
        "load.parallel.stage = 4, but ZeRO has the stages 1, 2 and 3": {"name": "deepspeed", "stage": 4},
        "load.parallel.stage = '3', but it should be a int": {"name": "deepspeed", "stage": "3"},
        "load.parallel.stage: fsdp has no such argument; it has offload, timeout_s, join_s": {"name": "fsdp", "stage": 3},
        "load.parallel.ofload: fsdp has no such argument; did you mean 'offload'?": {"name": "fsdp", "ofload": True},
        "load.parallel.offload: ddp has no such argument; it has timeout_s, join_s": {"offload": True},
        "load.parallel.offload = 'yes', but it should be a bool": {"name": "fsdp", "offload": "yes"},
        "load.parallel.timeout_s = 0, but it should be more than 0 seconds": {"timeout_s": 0},
    }
    for message, settings in wrong.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            parallel_of(ParallelConfig.model_validate(settings))


def test_accelerate_may_be_told_of_deepspeed_what_the_recipe_says_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    check_launcher(Parallel(Way.DEEPSPEED, stage=3, offload=True))
    asked = "add load.parallel.name=deepspeed load.parallel.stage=3 load.parallel.offload=true, or set distributed_type"
    for own, said in {
        Parallel(): "but the recipe's load.parallel is ddp; ",
        Parallel(Way.DEEPSPEED, stage=3): "but the recipe's load.parallel is deepspeed, stage 3; ",
        Parallel(Way.DEEPSPEED, stage=2, offload=True): "but the recipe's load.parallel is deepspeed, stage 2, offloaded; ",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(f"told to use DeepSpeed with ZeRO stage 3, offloaded, {said}{asked}")):
            check_launcher(own)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "zero3.json")
    with pytest.raises(ConfigError, match=re.escape("deepspeed_config_file = zero3.json, which rlvr does not read")):
        check_launcher(Parallel(Way.DEEPSPEED, stage=3, offload=True))


@pytest.mark.parametrize("way", ["fsdp", "deepspeed"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": {"reference_every": 2}}, "optim.reference_every = 2, but with load.parallel = '{way}'"),
        ({"load": {"attention": "flash_attention_2"}}, "load.attention = 'flash_attention_2', but with load.parallel = '{way}'"),
    ],
)
def test_what_needs_whole_weights_is_refused_before_anything_is_started(
    recipe: MakeRecipe, way: str, settings: dict[str, Any], message: str
) -> None:
    parallel = {"name": way, **({"stage": 3} if way == "deepspeed" else {})}
    load = {**settings.get("load", {}), "parallel": parallel}
    asked = recipe(**{"algorithm": {"name": "grpo", "kl_coef": 0.1}, **settings, "load": load})
    with pytest.raises(ConfigError, match=re.escape(message.format(way=way))):
        dry_run(load_recipe(asked))
