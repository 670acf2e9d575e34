"""`reward_model`: a local sequence classifier's score of a response. Not verifiable: no rule decides it.

It runs in the worker process, on the CPU, one response at a time: good for small classifiers and for checking that a reward
model agrees with a rule. Every worker holds its own copy of the model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from rlvr.errors import ConfigError, VerifierError, boundary
from rlvr.types import JSON, Message, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import split_thinking

MAX_CHARS = 200_000


def _warm_up() -> None:
    _packages()


@verifier("reward_model", warm_up=_warm_up, grades="opinion")
def reward_model(
    problem: Problem,
    rollout: Rollout,
    *,
    model: str,
    label: int = -1,
    with_thinking: bool = False,
    max_tokens: int = 4096,
    threshold: float | None = None,
) -> Verdict:
    """Score: the classifier's probability that the response is good; `details` has its logits.

    `model` is a folder or hub name that `AutoModelForSequenceClassification` loads. With one logit r (a Bradley-Terry reward
    model) the score is sigmoid(r), the probability of being preferred to a response of reward 0; with several, the softmax
    probability of `label`. With `threshold` the verdict is correct or incorrect instead. The conversation goes through the
    tokenizer's chat template, else prompt and response are joined; a text of more than `max_tokens` loses its beginning.

    The first response of a worker waits for the model to load: give the grader a time limit that covers it.
    """
    parts = split_thinking(rollout.response)
    answer = rollout.response if with_thinking else parts.answer.strip()
    if not answer.strip() or len(answer) > MAX_CHARS:
        return Verdict.unparsed(f"the answer has {len(answer.strip())} characters; 1 to {MAX_CHARS} can be scored")
    with boundary(VerifierError, f"scoring with {model}"):
        logits = _logits(model, (*problem.prompt, Message("assistant", _printable(answer))), max_tokens)
    score = _probability(logits, label)
    details: dict[str, JSON] = {"is_verifiable": False, "model": model, "logits": logits, "probability": score}
    if threshold is not None:
        if score >= threshold:
            return Verdict.correct(**details)
        return Verdict.incorrect(reason=f"scores {score:.4f}, below {threshold:g}", **details)
    if score >= 1.0:
        return Verdict.correct(**details)
    if score <= 0.0:
        return Verdict.incorrect(reason="scores 0", **details)
    return Verdict.partial(score, reason=f"scores {score:.4f}", **details)


def _probability(logits: Sequence[float], label: int) -> float:
    if not all(math.isfinite(logit) for logit in logits):
        raise VerifierError(f"the reward model gave {list(logits)}")
    if len(logits) == 1:
        return 1.0 / (1.0 + math.exp(-logits[0])) if logits[0] > -700 else 0.0
    if not -len(logits) <= label < len(logits):
        raise ConfigError(f"reward_model: label = {label}, but the model has {len(logits)} labels")
    largest = max(logits)
    return math.exp(logits[label] - largest) / math.fsum(math.exp(logit - largest) for logit in logits)


def _logits(model: str, messages: Sequence[Message], max_tokens: int) -> list[float]:
    torch, _ = _packages()
    network, tokenizer = _loaded(model)
    ids = _token_ids(tokenizer, messages)[-max_tokens:]
    if not ids:
        raise VerifierError("the tokenizer made no tokens of the conversation")
    with torch.inference_mode():
        found: list[float] = network(input_ids=torch.tensor([ids])).logits[0].float().tolist()
    return [round(logit, 6) for logit in found]


def _token_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    if tokenizer.chat_template:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer("\n\n".join(message.content for message in messages))["input_ids"])


@functools.lru_cache(maxsize=1)
def _loaded(model: str) -> tuple[Any, Any]:
    _, transformers = _packages()
    with boundary(ConfigError, f"reward model {model!r} cannot be loaded"):
        network = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype="float32")
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    return network.eval(), tokenizer


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")  # tokenizers refuse lone surrogates


def _packages() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise ConfigError("the verifier 'reward_model' needs torch and transformers: pip install 'rlvr[train]'") from error
    return torch, transformers
