"""Whole runs of the tiny model: what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.engines.subject import Subject
from rlvr.envs.tasks import load_task
from rlvr.errors import TrainingError
from rlvr.evaluation.ledger import read_rollouts
from rlvr.filtering.filter import FilterRequest, filter_task
from rlvr.filtering.posterior import read_solve_rates
from rlvr.filtering.window import Window
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.train import Run, dry_run, resume, train

MakeRecipe = Callable[..., dict[str, Any]]

METRICS = {
    "step", "reward_mean", "correct_share", "unparsed_share", "truncated_share", "unscored_share", "tokens_mean",
    "verifier_sevens", "rollouts", "tokens", "groups", "groups_dropped", "groups_without_signal", "rounds",
    "groups_carried", "groups_held", "groups_expired", "repetition_share", "mixed_script_share", "health_holding",
    "clip_share", "policy_kl", "ratio_max", "entropy", "sampling_kl", "loss", "grad_norm", "lr", "epoch", "solve_rate_surprise",
    "time_step_s", "time_generate_s", "time_update_s", "time_tokens_per_s", "time_total_s",
}  # fmt: skip


def metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = load_task("chains").tiny
    assert spec is not None
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_model(spec):
        part.save_pretrained(folder)
    return folder


def test_a_run_writes_everything_that_it_promises(recipe: MakeRecipe) -> None:
    run = train(recipe(eval={"problems": 3, "n": 2, "k": [1, 2]}))
    held_out = {"held_out_step", "held_out_pass@1", "held_out_pass@1_low", "held_out_pass@1_high"}
    assert [set(row) for row in metrics(run)] == [METRICS | held_out, METRICS]
    stored = [list(read_rollouts(run.folder / "rollouts" / f"step-00000{step}.jsonl.gz")) for step in (1, 2)]
    assert [len(rows) for rows in stored] == [16, 16]
    for row in stored[1]:
        assert row.rollout.is_scored
        assert row.rollout.reward is not None
        assert row.provenance["step"] == 2
        assert isinstance(row.provenance["advantage"], float)
        assert row.rollout.turns[0].completion.policy_version == 1
        assert any(row.rollout.turns[0].completion.logprobs)
    advantages: dict[Any, float] = {}
    for row in stored[1]:
        group = row.provenance["group"]
        advantages[group] = advantages.get(group, 0.0) + row.provenance["advantage"]
    assert list(advantages.values()) == pytest.approx([0.0] * 4, abs=1e-5)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert {"mean", "low", "high"} <= set(summary["before"]["pass@1"]) & set(summary["after"]["pass@2"])
    assert summary["checkpoint"] == str(run.checkpoint)
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("reward_mean")] == [1, 2]
    assert (run.folder / "report.html").is_file()
    assert json.loads((run.folder / "environment.json").read_text())["cpu_threads"] == 1


def test_a_trained_checkpoint_loads_with_transformers_and_has_moved(recipe: MakeRecipe, base: Path) -> None:
    run = train(recipe(model=str(base)))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run.checkpoint), AutoTokenizer.from_pretrained(run.checkpoint)
    assert tokenizer.decode(tokenizer.encode("<think>7+7=14</think>")) == "<think>7+7=14</think>"
    before, after = weights(base), weights(run.checkpoint)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    out = model.generate(torch.tensor([tokenizer.encode("1+2?")]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape[1] <= 7


def test_a_run_of_its_own_checkpoint_goes_on_from_it(recipe: MakeRecipe, tmp_path: Path) -> None:
    first = train(recipe())
    second = train(recipe(model=str(first.folder), steps=1, out=str(tmp_path / "second")))
    assert metrics(second)[0]["step"] == 1


def test_equal_recipes_give_equal_weights(recipe: MakeRecipe, tmp_path: Path) -> None:
    one, two = (train(recipe(out=str(tmp_path / name))) for name in ("one", "two"))
    assert (one.checkpoint / "model.safetensors").read_bytes() == (two.checkpoint / "model.safetensors").read_bytes()
    other = train(recipe(out=str(tmp_path / "other"), seed=1))
    assert (one.checkpoint / "model.safetensors").read_bytes() != (other.checkpoint / "model.safetensors").read_bytes()


def test_a_step_without_signal_is_skipped_and_logged(recipe: MakeRecipe, base: Path) -> None:
    """Nobody answers in a tag, so every verdict of the task's own verifier is `unparsed`."""
    numbers = [{"name": "number", "args": {"extract": "answer_tag", "strict": True}}]
    settings = {"algorithm": {"name": "dapo"}, "rollout": {"max_refills": 1}}
    run = train(recipe(model=str(base), verifiers=numbers, **settings))
    assert len(metrics(run)) == 2
    for row in metrics(run):
        assert (row["groups"], row["groups_dropped"], row["groups_dropped_no_signal"], row["unparsed_share"]) == (8, 8, 8, 1.0)
        assert "loss" not in row
    before, after = weights(base), weights(run.checkpoint)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_is_trained_saved_and_resumed_and_the_base_stays(recipe: MakeRecipe, base: Path) -> None:
    original = (base / "model.safetensors").read_bytes()
    settings = {"load": {"lora_rank": 2}, "algorithm": {"name": "grpo", "kl_coef": 0.1}, "checkpoint": {"every": 2}}
    run = train(recipe(model=str(base), steps=4, **settings))
    assert (base / "model.safetensors").read_bytes() == original
    assert not (run.checkpoint / "model.safetensors").exists()
    adapter = load_file(run.checkpoint / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert any(value.any() for name, value in adapter.items() if "lora_B" in name)
    assert metrics(run)[0]["ref_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics(run)[-1]["ref_kl"] > 0
    expected = (run.checkpoint / "adapter_model.safetensors").read_bytes()
    for file in run.checkpoint.iterdir():
        file.unlink()
    run.checkpoint.rmdir()
    again = resume(run.folder)
    assert (again.checkpoint / "adapter_model.safetensors").read_bytes() == expected
    loaded = AutoModelForCausalLM.from_pretrained(again.checkpoint)
    assert any("lora_A" in name for name, _ in loaded.named_parameters())


def test_an_adapter_on_a_fresh_tiny_model(recipe: MakeRecipe) -> None:
    assert len(metrics(train(recipe(load={"lora_rank": 2})))) == 2


def test_too_many_unscored_rollouts_stop_the_run_and_stay_on_disk(recipe: MakeRecipe, tmp_path: Path) -> None:
    broken = tmp_path / "broken_verifier.py"
    broken.write_text(
        "from rlvr.verifiers.base import verifier\n\n\n"
        '@verifier("breaks", isolated=False)\n'
        "def breaks(problem, rollout):\n"
        '    raise OSError("the database is gone")\n'
    )
    with pytest.raises(TrainingError, match=r"(?s)step 1: 16 of 16 rollouts could not be scored.*the database is gone"):
        train(recipe(verifiers=[{"name": f"{broken}:breaks"}]))
    stored = list(read_rollouts(tmp_path / "run" / "rollouts" / "step-000001.jsonl.gz"))
    assert len(stored) == 16
    assert all(row.rollout.reward is None and row.rollout.turns for row in stored)


def test_the_same_where_others_were_scored_and_would_have_been_learned_from(recipe: MakeRecipe, tmp_path: Path) -> None:
    broken = tmp_path / "half_broken_verifier.py"
    broken.write_text(
        "from rlvr.types import Verdict\n"
        "from rlvr.verifiers.base import verifier\n\n\n"
        '@verifier("breaks_at_times", isolated=False)\n'
        "def breaks_at_times(problem, rollout):\n"
        "    if rollout.sample_index == 3:\n"
        '        raise OSError("the database is gone")\n'
        "    return Verdict.correct() if rollout.sample_index else Verdict.incorrect()\n"
    )
    with pytest.raises(TrainingError, match=r"(?s)step 1: 4 of 16 rollouts could not be scored.*the database is gone"):
        train(recipe(verifiers=[{"name": f"{broken}:breaks_at_times"}]))
    stored = list(read_rollouts(tmp_path / "run" / "rollouts" / "step-000001.jsonl.gz"))
    assert [row.rollout.reward for row in stored] == [0.0, 1.0, 1.0, None] * 4
    assert all(row.provenance["advantage"] is None for row in stored)  # nothing was learned from


def test_a_reward_that_breaks_the_loss_stops_the_run_with_its_rollouts_stored(recipe: MakeRecipe, tmp_path: Path) -> None:
    """An entropy coefficient of 1e38 overflows the loss; the optimizer must not have touched the weights."""
    with pytest.raises(TrainingError, match=r"step 1: loss .* is not finite; the weights were not touched"):
        train(recipe(algorithm={"name": "grpo", "aggregate": "sequence_sum", "entropy_coef": 3e38}))
    assert (tmp_path / "run" / "rollouts" / "step-000001.jsonl.gz").is_file()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_gradient_checkpointing_changes_memory_not_numbers(recipe: MakeRecipe, base: Path, tmp_path: Path) -> None:
    plain, saving = (
        train(recipe(model=str(base), out=str(tmp_path / str(is_on)), load={"gradient_checkpointing": is_on}))
        for is_on in (False, True)
    )
    for name, value in weights(plain.checkpoint).items():
        torch.testing.assert_close(weights(saving.checkpoint)[name], value, rtol=1e-5, atol=1e-6)


def test_a_dry_run_says_the_arithmetic_and_writes_nothing(recipe: MakeRecipe, tmp_path: Path) -> None:
    from rlvr.config import load_recipe

    resolved, counted = dry_run(load_recipe(recipe(optim={"lr": "auto"})))
    assert counted["rollouts_per_step"] == 16
    assert counted["max_tokens_per_step"] == 16 * 8
    assert counted["total_rollouts"] == 32
    assert counted["parameters"] > 100_000
    assert 1e-4 < counted["peak_learning_rate"] < 4e-4
    assert resolved.task == "chains"
    assert not (tmp_path / "run").exists()


def test_filter_groups_and_evaluations_of_training_problems_end_in_one_file_of_solve_rates(
    recipe: MakeRecipe, base: Path, tmp_path: Path
) -> None:
    filtered = filter_task(
        FilterRequest(Subject(str(base), "chains", max_tokens=8), n=4, limit=6, keep=Window(0, 1), out=tmp_path / "rates.jsonl")
    )
    evaluation = {"problems": 3, "n": 2, "k": [1], "split": "train"}
    data = {"pass_rates": str(filtered.path), "keep": [0, 1], "problems": 6, "half_life": 1.0}
    run = train(recipe(model=str(base), eval=evaluation, data=data, steps=3))
    rows = {row.id: row for row in read_solve_rates(run.folder / "solve_rates.parquet")}
    assert list(rows) == list(filtered.rates.by_id)
    assert {row.filter for row in rows.values()} == {4}
    assert sum(row.training for row in rows.values()) == 3 * 16
    assert [row.evaluation for row in rows.values()] == [4, 4, 4, 0, 0, 0]  # before and after
    evaluated, untouched = next(iter(rows.values())), list(rows.values())[-1]
    assert evaluated.step == 3
    assert untouched.correct + untouched.wrong < untouched.filter + untouched.training  # forgotten in part
    assert all(row["solve_rate_surprise"] is not None for row in metrics(run))


def test_an_evaluation_at_another_temperature_says_nothing_about_the_training_policy(recipe: MakeRecipe) -> None:
    evaluation = {"problems": 3, "n": 2, "k": [1], "split": "train", "temperature": 0.5}
    run = train(recipe(eval=evaluation, data={"problems": 6}))
    assert {row.evaluation for row in read_solve_rates(run.folder / "solve_rates.parquet")} == {0}
