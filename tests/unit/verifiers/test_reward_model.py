from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rlvr.types import Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.call import call_verifier
from rlvr.verifiers.reward_model import reward_model
from rlvr.verifiers.runner import Grader, WeightedVerifier

PROBLEM = Problem("p", (Message("user", "What is 2 + 2?"),), None)


def build(folder: Path, labels: int) -> str:
    """A random sequence classifier of a few thousand parameters over single characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification

    alphabet = ["<pad>", "<unk>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({char: i for i, char in enumerate(alphabet)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(alphabet),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=labels,
        pad_token_id=0,
    )
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("reward"), 1)


def grade(response: str, **settings: object) -> Verdict:
    return call_verifier(reward_model, Rollout.from_response(PROBLEM, response), settings)  # type: ignore[arg-type]


def test_one_logit_is_scored_by_its_sigmoid(reward: str) -> None:
    import math

    verdict = grade("It is 4.", model=reward)
    assert verdict.outcome is Outcome.PARTIAL
    (logit,) = verdict.details["logits"]
    assert verdict.score == pytest.approx(1 / (1 + math.exp(-logit)))
    assert verdict.details["is_verifiable"] is False


def test_the_thinking_and_the_rest_of_the_answer_make_the_difference_that_was_asked_for(reward: str) -> None:
    assert grade("<think>one</think>4", model=reward).score == grade("<think>two</think>4", model=reward).score
    assert (
        grade("<think>one</think>4", model=reward, with_thinking=True).score
        != grade("<think>two</think>4", model=reward, with_thinking=True).score
    )


def test_several_labels_share_one_probability(tmp_path: Path) -> None:
    model = build(tmp_path, 3)
    scores = [grade("It is 4.", model=model, label=label).score for label in range(3)]
    assert sum(scores) == pytest.approx(1.0)  # type: ignore[arg-type]
    assert grade("It is 4.", model=model, label=3).outcome is Outcome.VERIFIER_ERROR


def test_a_threshold_decides(reward: str) -> None:
    assert grade("It is 4.", model=reward, threshold=0.0001).outcome is Outcome.CORRECT
    assert grade("It is 4.", model=reward, threshold=0.9999).outcome is Outcome.INCORRECT


def test_no_answer_and_no_model() -> None:
    assert grade("<think>hm</think>", model="none").outcome is Outcome.UNPARSED
    verdict = grade("4", model="/no/such/folder")
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "/no/such/folder" in verdict.reason


@pytest.mark.processes
def test_it_runs_in_a_worker_on_any_text(reward: str) -> None:
    async def run() -> list[Rollout]:
        rollouts = [Rollout.from_response(PROBLEM, text) for text in ("It is 4.", "\ud800", "4" * 20_000)]
        async with Grader([WeightedVerifier("reward_model", 1.0, {"model": reward})], workers=1, timeout_s=120.0) as grader:
            for rollout in rollouts:
                await grader.grade(rollout)
        return rollouts

    rollouts = asyncio.run(run())
    assert all(rollout.reward is not None for rollout in rollouts), [rollout.verdict for rollout in rollouts]
    assert rollouts[0].reward == grade("It is 4.", model=reward).score
