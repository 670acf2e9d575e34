"""A small random model with a character tokenizer, made on the spot: `model=new:tiny`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlvr.envs.tasks import TinyModel
from rlvr.seeding import seed as derive_seed

PAD, EOS = "<pad>", "<eos>"


def tiny_tokenizer(alphabet: str, tags: Sequence[str] = ()) -> Any:
    """A Hugging Face tokenizer with one token for each character and tag."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = sorted(set(alphabet))
    vocabulary = {text: index for index, text in enumerate([PAD, EOS, *tags, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False, padding_side="left"
    )
    fast.add_tokens(list(tags))  # not special tokens: they are text that verifiers read
    return fast


def tiny_model(spec: TinyModel, seed: int = 0) -> tuple[Any, Any]:
    """A randomly initialised Qwen3 causal LM and its tokenizer, the same for equal arguments."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_tokenizer(spec.alphabet, spec.tags)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("tiny model", seed))
        model = Qwen3ForCausalLM(config)
    model.generation_config.do_sample = True
    return model.float().eval(), tokenizer
