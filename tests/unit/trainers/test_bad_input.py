"""What is wrong is said in one line, before any long work, and nothing is left behind."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rlvr.cli.main import main
from rlvr.config import load_recipe, to_toml
from rlvr.envs.tasks import load_task
from rlvr.filtering.pass_rates import PassRate, PassRateFile
from rlvr.filtering.window import Window
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.train import train

MakeRecipe = Callable[..., dict[str, Any]]
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a recipe that must be refused with exit code 2 (or `code`); returns the line that says why."""
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe()).model_dump()))

    def run(*overrides: str, code: int = 2) -> str:
        assert main(["train", str(file), *overrides]) == code
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert "Traceback" not in said
        assert not (tmp_path / "run").exists(), "a run that was refused left a folder behind"
        return errors[0]

    return run


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = load_task("chains").tiny
    assert spec is not None
    model, tokenizer = tiny_model(spec)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_missing_model(refused: Refused, tmp_path: Path) -> None:
    assert f"no model at '{tmp_path}/nothing'" in refused(f"model={tmp_path}/nothing")


def test_a_dry_run_misses_a_model_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "chains/quickstart", f"model={tmp_path}/nothing", "--dry-run"]) == 2
    assert f"no model at '{tmp_path}/nothing'" in capsys.readouterr().err


def test_a_wrong_key(refused: Refused) -> None:
    assert "'rollout.group_sise'; did you mean 'rollout.group_size'?" in refused("rollout.group_sise=8")
    assert "did you mean 'optim.lr'?" in refused("lr=1e-5")


def test_a_wrong_algorithm_argument(refused: Refused) -> None:
    assert "has no argument 'clip_hihg'; did you mean 'clip_high'?" in refused("algorithm.clip_hihg=0.3")


def test_an_unknown_task(refused: Refused) -> None:
    assert "no task is named 'chians'; did you mean 'chains'" in refused("task=chians")


def test_an_unknown_verifier_engine_or_environment(refused: Refused) -> None:
    assert "'numbr'; did you mean 'number'" in refused("verifiers=[{name='numbr'}]")
    assert "no engines plugin is named 'vlm'" in refused("engine.name=vlm")
    assert "no envs plugin is named 'single'" in refused("env=single")


def test_a_row_without_an_answer(refused: Refused, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in [{"prompt": "1+1?", "answer": "2"}, {"prompt": "1+2?"}] * 10))
    said = refused(f"task={rows}", "model=missing")
    assert "answer" in said
    assert "rows" in said


def test_one_rollout_for_a_group_algorithm(refused: Refused) -> None:
    assert "rollout.group_size = 1, but 'grpo' compares rollouts in a group; set it to 2 or more." in refused(
        "rollout.group_size=1"
    )


def test_greedy_training_rollouts(refused: Refused) -> None:
    assert "rollout.temperature = 0" in refused("rollout.temperature=0")


def test_max_tokens_beyond_the_context(refused: Refused) -> None:
    said = refused("rollout.max_tokens=300")
    assert "rollout.max_tokens = 300 and a prompt of" in said
    assert "model's context of 256; set rollout.max_tokens to 2" in said


def test_held_out_prompts_beyond_the_context(refused: Refused) -> None:
    said = refused("rollout.max_tokens=244", "eval.problems=4", "eval.variants=true")
    assert "do not fit into the model's context of 256" in said


@pytest.mark.parametrize("probe", [1, 4])
def test_a_probe_that_cannot_differ_or_is_the_whole_group(refused: Refused, probe: int) -> None:
    assert f"rollout.probe = {probe}, but" in refused(f"rollout.probe={probe}", "rollout.group_size=4")


def test_more_minibatches_than_groups(refused: Refused) -> None:
    assert "optim.minibatches = 9, but a step has only 4 groups" in refused("optim.minibatches=9")


def test_more_k_than_n(refused: Refused) -> None:
    assert "eval.k = [1, 4, 8], but eval.n = 2: pass@k needs n >= k" in refused("eval.problems=4", "eval.n=2")


def test_several_held_out_samples_at_temperature_zero(refused: Refused) -> None:
    assert "at temperature 0" in refused("eval.problems=4", "eval.temperature=0")


def test_an_unknown_split(refused: Refused) -> None:
    assert "has no split 'dev'; it has train, test" in refused("eval.problems=4", "eval.split=dev")
    assert "has no split 'dev'; it has train, test" in refused("data.split=dev")


def test_pass_rates_of_another_task(refused: Refused, tmp_path: Path) -> None:
    rates = tmp_path / "rates.jsonl"
    with PassRateFile(rates, {"model": "m", "task": "countdown", "n": 4}, Window()) as file:
        file.append(PassRate("countdown/train/0", 4, 2, 0, 12.5, {"correct": 2}))
        file.finish(["countdown/train/0"])
    assert "are of task 'countdown', but this run trains on 'chains'" in refused(f"data.pass_rates={rates}")
    assert "missing.jsonl" in refused("data.pass_rates=missing.jsonl")


def test_pass_rates_of_another_model_split_or_variant(refused: Refused, tmp_path: Path, model_folder: Path) -> None:
    rates = tmp_path / "rates.jsonl"

    def measured(**settings: Any) -> None:
        rates.unlink(missing_ok=True)
        with PassRateFile(rates, {"task": "chains", "n": 4, **settings}, Window()) as file:
            file.append(PassRate("chains/train/0", 4, 2, 0, 12.5, {"correct": 2}))

    measured(model="Qwen/Qwen3-0.6B")
    said = refused(f"data.pass_rates={rates}")
    assert "are of model 'Qwen/Qwen3-0.6B', but this run trains 'new:tiny'" in said
    measured(model=str(model_folder), weights="0123456789abcdef")
    said = refused(f"data.pass_rates={rates}", f"model={model_folder}")
    assert "(weights 0123456789abcdef there, " in said
    measured(model="new:tiny", split="test")
    assert "with split = 'test', but this run trains with split = 'train'" in refused(f"data.pass_rates={rates}")
    measured(model="new:tiny", task_args={"terms": [6, 8]})
    assert "with task_args = {'terms': [6, 8]}, but" in refused(f"data.pass_rates={rates}")


def test_pass_rates_that_keep_nothing(refused: Refused, tmp_path: Path) -> None:
    rates = tmp_path / "rates.jsonl"
    with PassRateFile(rates, {"task": "chains", "model": "new:tiny", "n": 4}, Window()) as file:
        file.append(PassRate("chains/train/0", 4, 0, 0, 12.5, {"incorrect": 4}))
    said = refused(f"data.pass_rates={rates}", "data.problems=20")
    assert "keeps none of 20 problems within 0.2:0.8" in said


def test_wandb_without_wandb(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    assert "wandb = 'mine', but wandb is not installed: pip install 'rlvr[wandb]'" in refused("wandb=mine")


def test_lora_without_peft(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "load.lora_rank = 4, but peft is not installed: pip install 'rlvr[lora]'" in refused("load.lora_rank=4")


def test_lora_on_modules_that_do_not_exist(refused: Refused) -> None:
    assert "a LoRA adapter on 'nothing' cannot be made" in refused("load.lora_rank=4", "load.lora_targets=nothing")


def test_a_refreshed_reference_under_an_adapter(refused: Refused) -> None:
    assert "optim.reference_every = 2, but with load.lora_rank = 4" in refused("load.lora_rank=4", "optim.reference_every=2")


def test_a_missing_template(refused: Refused) -> None:
    assert "template = 'chat', but the tokenizer has no chat template; use 'plain'" in refused("template=chat")
    assert "neither 'auto', 'chat', 'plain' nor a readable file" in refused("template=none.jinja")


def test_a_task_without_demonstrations(
    refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}+1?", "answer": str(i + 1)}) + "\n" for i in range(20)))
    file = tmp_path / "sft.toml"
    file.write_text(f'kind = "sft"\nmodel = "{model_folder}"\ntask = "{rows}"\nout = "{tmp_path / "run"}"\n')
    assert main(["train", str(file)]) == 2
    assert "has no demonstrations" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_demonstrations_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sft.toml"
    file.write_text(f'kind = "sft"\nmodel = "new:tiny"\ntask = "chains"\nmax_tokens = 5\nout = "{tmp_path / "run"}"\n')
    assert main(["train", str(file)]) == 2
    assert "hardly any demonstration fits into max_tokens = 5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tiny_model_for_a_task_that_describes_none(refused: Refused, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}+1?", "answer": str(i + 1)}) + "\n" for i in range(20)))
    assert "describes no tiny model; give a model folder or hub name" in refused(f"task={rows}")


def test_a_folder_that_holds_a_run(tmp_path: Path, recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(recipe())
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe()).model_dump()))
    assert main(["train", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"already holds a run; continue it with `rlvr train --resume {run.folder}` or choose another out=" in said
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_resuming_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_base_model_without_template_is_trained_and_that_is_said(
    tmp_path: Path, recipe: MakeRecipe, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not AutoTokenizer.from_pretrained(model_folder).chat_template
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(load_recipe(recipe(model=str(model_folder), steps=1)).model_dump()))
    assert main(["train", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "this model has no chat template (a base model): prompts are rendered as plain text" in err
    assert json.loads(out)["steps"] == 1
