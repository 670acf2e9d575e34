"""Random models whose responses have given lengths, by their weights alone: whatever samples from them gets the same.

Four channels of the hidden state are kept free of the random weights: a constant; a mark at the "?" of the prompt; the number of
tokens so far, which one head of the first layer finds as the mean of that mark (it looks at all tokens alike); and a function of
that number, which the second layer's gated units add up. The last one is all that the logit of the end token reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALPHABET = "0123456789+-*=?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!()[]<> \n"
MARK = "?"  # once in every prompt, and never sampled
EXAMPLE = "123+456-789=?\n"  # prompts have this length
HIDDEN = 128
CONSTANT, MARKED, COUNT, ENDING = range(4)  # channels
UNITS = 24
NEVER = -50.0  # a logit
RIDGE = 0.3  # keeps the weights of the units small, so that training does not change lengths at once


def geometric(probability: float, max_tokens: int) -> list[float]:
    """The probability of ending at each token, given that it was reached."""
    return [probability] * max_tokens


def log_normal(mean: float, max_tokens: int, sigma: float = 1.0) -> list[float]:
    """The same for lengths whose logarithm is normal, cut at `max_tokens`, where `mean` is that of the cut lengths."""
    low, high = 1.0, 4 * mean  # of the median
    for _ in range(60):
        median = (low + high) / 2
        ending = _log_normal(median, sigma, max_tokens)
        low, high = (median, high) if mean_length(ending) < mean else (low, median)
    return ending


def _log_normal(median: float, sigma: float, max_tokens: int) -> list[float]:
    def beyond(tokens: float) -> float:
        return 0.5 * math.erfc(math.log(tokens / median) / (sigma * math.sqrt(2)))

    return [1 - beyond(n + 0.5) / (beyond(n - 0.5) if n > 1 else 1.0) for n in range(1, max_tokens + 1)]


def mean_length(ending: Sequence[float]) -> float:
    """Of responses that end with these probabilities, and at the latest with the last token."""
    reached, mean = 1.0, 0.0
    for probability in ending:
        mean += reached
        reached *= 1 - probability
    return mean


def write_model(folder: Path, ending: Sequence[float]) -> float:
    """Save a Qwen3 of 0.8M parameters, and return the mean length that its own probabilities give.

    `ending`: how likely it is to end at each token; all zeros: never.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    from rlvr.trainers.model.tiny import tiny_tokenizer

    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer(ALPHABET)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        _clear_channels(model, tokenizer)
        found = _fit_ending(model, tokenizer, ending)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return found


def _clear_channels(model: Any, tokenizer: Any) -> None:
    import torch

    first, second = model.model.layers[:2]
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    embedding[:, : ENDING + 1] = 0.0
    embedding[:, CONSTANT] = 1.0
    embedding[tokenizer.convert_tokens_to_ids(MARK), MARKED] = 1.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[: ENDING + 1] = 0.0
        layer.mlp.down_proj.weight[: ENDING + 1] = 0.0
    attention = first.self_attn
    attention.q_proj.weight[: model.config.head_dim] = 0.0  # no query: all tokens alike
    attention.v_proj.weight[0] = 0.0
    attention.v_proj.weight[0, MARKED] = 1.0
    attention.o_proj.weight[:, 0] = 0.0
    attention.o_proj.weight[COUNT, 0] = 1.0
    gate, up = second.mlp.gate_proj.weight, second.mlp.up_proj.weight
    gate[:UNITS] = up[:UNITS] = 0.0
    gate[1:UNITS, COUNT] = 6.0  # the first unit is a constant
    gate[:UNITS, CONSTANT] = -6.0 * torch.linspace(0.0, 0.8, UNITS)
    gate[0, CONSTANT] = 1.0
    up[:UNITS, CONSTANT] = 0.1
    head[:, : ENDING + 1] = 0.0
    for token in (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(MARK)):
        head[token] = 0.0


def _fit_ending(model: Any, tokenizer: Any, ending: Sequence[float]) -> float:
    """Solve for the weights that give these probabilities after responses of random characters."""
    import torch

    head, mlp = model.lm_head.weight, model.model.layers[1].mlp
    prompt = tokenizer.encode(EXAMPLE)
    letters = torch.tensor([tokenizer.convert_tokens_to_ids(letter) for letter in ALPHABET if letter != MARK])
    picked = letters[torch.randint(len(letters), (16, len(ending)))]
    ids = torch.cat([torch.tensor([prompt]).expand(16, -1), picked], dim=1)[:, :-1]
    units: list[Any] = []
    normed: list[Any] = []
    hooks = (
        mlp.down_proj.register_forward_pre_hook(lambda module, inputs: units.append(inputs[0][..., :UNITS])),
        model.model.norm.register_forward_hook(lambda module, inputs, output: normed.append(output[..., CONSTANT])),
    )
    logits = model(ids).logits
    for hook in hooks:
        hook.remove()
    start = len(prompt) - 1
    never = NEVER / float(normed[0].mean())
    for token in (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(MARK)):
        head[token, CONSTANT] = never
    if not any(ending):
        head[tokenizer.eos_token_id, CONSTANT] = never
        return float(len(ending))
    others = logits[:, start:, letters].logsumexp(-1)  # [16, tokens]
    wanted = torch.logit(torch.tensor(ending, dtype=torch.float64)) + others
    features = (units[0] * normed[0][..., None])[:, start:].double()
    rows = torch.cat([features.flatten(0, 1), RIDGE * torch.eye(UNITS, dtype=torch.float64)])
    targets = torch.cat([wanted.flatten(), torch.zeros(UNITS, dtype=torch.float64)])
    weights = torch.linalg.lstsq(rows, targets[:, None]).solution[:, 0]
    head[tokenizer.eos_token_id, ENDING] = 1.0
    mlp.down_proj.weight[ENDING, :UNITS] = weights.float()
    found = model(ids).logits[:, start:].softmax(-1)[..., tokenizer.eos_token_id].mean(0)
    return mean_length(found.tolist())
