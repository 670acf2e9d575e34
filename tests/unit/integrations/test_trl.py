"""TRL reward functions: the call contract, and a real GRPOTrainer that trains with one."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError, VerifierError
from rlvr.integrations.trl import RewardFunction, reward_function

PLUGIN = '''
from rlvr.types import Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier


@verifier("digit_share")
def digit_share(problem: Problem, rollout: Rollout, *, times: float = 1.0) -> Verdict:
    """How much of the response is digits."""
    if problem.metadata["kind"] == "broken":
        raise RuntimeError("a fault of ours")
    text = rollout.response
    share = times * sum(character.isdigit() for character in text) / max(1, len(text))
    return Verdict.partial(share, reason=problem.answer)
'''

PROMPTS = ["1+1=?", "2+2=?", "3+3=?"]


@pytest.fixture(scope="module")
def number() -> Iterator[RewardFunction]:
    function = reward_function("number", max_unscored=1.0)
    yield function
    function.close()


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("plugin") / "digits.py"
    file.write_text(PLUGIN)
    return f"{file}:digit_share"


def test_scores_come_in_order_and_a_failure_of_ours_is_none(number: RewardFunction) -> None:
    completions = ["<answer>2</answer>", "<answer>5</answer>", "<answer>6</answer>"]
    assert number(PROMPTS, completions, answer=["2", "4", "six"]) == [1.0, 0.0, None]


def test_completions_may_be_messages_and_the_last_of_the_assistant_counts(number: RewardFunction) -> None:
    chat = [
        {"role": "assistant", "content": "let me see", "tool_calls": [{"name": "add"}]},
        {"role": "tool", "content": "<answer>3</answer>"},
        {"role": "assistant", "content": [{"type": "text", "text": "<answer>2</answer>"}]},
    ]
    assert number([[{"role": "user", "content": "1+1=?"}]], [chat], answer=["2"]) == [1.0]
    assert number([[{"role": "user", "content": "1+1=?"}]], [chat[:2]], answer=["3"]) == [0.0]


def test_a_row_without_an_answer_belongs_to_another_reward_function(number: RewardFunction) -> None:
    assert number(PROMPTS[:2], ["<answer>2</answer>"] * 2, answer=[None, "2"]) == [None, 1.0]


def test_a_verifier_without_gold_needs_no_column() -> None:
    layout = reward_function("format", answer_column=None)
    assert layout(PROMPTS[:2], ["<think>a</think><answer>2</answer>", "2"]) == [1.0, 0.0]


def test_a_missing_answer_column_is_an_error_that_names_those_there_are(number: RewardFunction) -> None:
    with pytest.raises(ConfigError, match=r"no column 'answer' \(it has solution\); set answer_column"):
        number(PROMPTS[:1], ["2"], solution=["2"], trainer_state=object())


def test_too_many_failures_of_ours_stop_the_run_with_their_causes() -> None:
    strict = reward_function("number", max_unscored=0.02)
    with pytest.raises(VerifierError, match=r"4 of 4 responses could not be graded \(max_unscored = 0.02\): gold answer"):
        strict(PROMPTS[:1] * 4, ["2"] * 4, answer=["six"] * 4)


def test_a_few_failures_do_not_stop_a_run_that_has_only_begun() -> None:
    young = reward_function("number", max_unscored=0.02)
    assert young(PROMPTS[:1] * 4, ["<answer>2</answer>"] * 4, answer=["six", "2", "2", "2"]) == [None, 1.0, 1.0, 1.0]


def test_what_happened_is_logged_through_trl_s_own_hooks(number: RewardFunction) -> None:
    metrics: dict[str, float] = {}
    extra: dict[str, list[str]] = {}
    number(
        PROMPTS,
        ["<answer>2</answer>", "no number", "6"],
        answer=["2", "4", "six"],
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert metrics == {"number/unscored": pytest.approx(1 / 3), "number/unparsed": pytest.approx(1 / 3)}
    assert [text.partition(":")[0] for text in extra["number_verdict"]] == ["correct", "unparsed", "verifier_error"]


def test_a_reward_function_survives_pickle(number: RewardFunction) -> None:
    copy = pickle.loads(pickle.dumps(number))  # noqa: S301
    assert copy.__name__ == "number"
    assert copy(PROMPTS[:1], ["<answer>2</answer>"], answer=["2"]) == [1.0]


@pytest.fixture(scope="module")
def trl() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl", reason="the package 'trl' is not installed")


@pytest.mark.learning
@pytest.mark.filterwarnings("ignore")
def test_a_real_trainer_trains_two_steps_with_it(trl: Any, plugin: str, tmp_path: Path) -> None:
    import torch
    from datasets import Dataset

    from rlvr.envs.tasks import load_task
    from rlvr.trainers.model.tiny import tiny_model

    tiny = load_task("chains").tiny
    assert tiny is not None
    model, tokenizer = tiny_model(tiny, seed=0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    digits = reward_function(plugin, answer_column="gold", workers=1, max_unscored=1.0, times=0.5)
    rows = [{"prompt": "1+1=?", "gold": "2", "kind": "fine"}, {"prompt": "2+2=?", "gold": "4", "kind": "broken"}]
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[digits],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=12,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    digits.close()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 2
    for step in steps:
        assert step["digit_share/unscored"] == 0.5  # the broken row: no reward, and no part in the mean
        assert 0.0 < step["rewards/digit_share/mean"] <= 0.5
        assert step["reward"] == pytest.approx(step["rewards/digit_share/mean"])
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
