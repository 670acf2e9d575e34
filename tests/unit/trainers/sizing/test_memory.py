"""The estimate against what autograd really keeps, and against itself where one thing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rlvr.config import ModelConfig
from rlvr.trainers.model.policy import Layout, Policy
from rlvr.trainers.sizing.memory import Workload, estimate_memory, layer_bytes
from rlvr.trainers.sizing.shape import ModelShape, adapter_parameters, shape_of

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
ROWS, LENGTH = 4, 32
QWEN3_0_6B = ModelShape(1024, 3072, 28, 16, 8, 128, 151_936, has_query_key_norm=True, is_tied=True)
QWEN25_7B = ModelShape(3584, 18944, 28, 28, 4, 128, 152_064, has_query_key_norm=False, is_tied=False, has_bias=True)
WORK = Workload(tokens=8192, trained=QWEN3_0_6B.parameters, rows=128, length=2048, prefilled=4096, element=2)


def build(family: str, layers: int, *, is_tied: bool = True) -> torch.nn.Module:
    config_type, model_type = FAMILIES[family]
    config = config_type(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=is_tied,
    )
    return model_type(config).eval()


def kept_bytes(model: torch.nn.Module, autocast: torch.dtype | None) -> int:
    """What autograd keeps of scoring a batch, casts of weights left out."""
    policy = Policy(model, autocast=autocast)
    assert policy.layout(LENGTH) is Layout.JOINED
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    weights |= {shape[::-1] for shape in weights}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = (torch.arange(ROWS)[:, None] * 7 + torch.arange(LENGTH)) % 64  # no two begin alike, or they would share tokens
    mask = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    mask[:, 0] = False
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.score(ids, torch.full((ROWS,), LENGTH), mask)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_layer_keeps_what_the_estimate_says_to_the_byte(family: str, autocast: torch.dtype | None) -> None:
    one, two = (build(family, layers) for layers in (1, 2))
    shape = shape_of(two)
    assert shape is not None
    of_a_layer = kept_bytes(two, autocast) - kept_bytes(one, autocast)
    assert of_a_layer == ROWS * LENGTH * layer_bytes(shape, 4 if autocast is None else 2)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_layer_with_an_adapter_keeps_a_little_less_than_is_said(autocast: torch.dtype | None) -> None:
    from rlvr.trainers.model.lora import with_adapter

    one, two = (with_adapter(build("qwen2", layers), ModelConfig(lora_rank=2), 0, None) for layers in (1, 2))
    shape = shape_of(build("qwen2", 2))
    assert shape is not None
    of_a_layer = kept_bytes(two, autocast) - kept_bytes(one, autocast)
    said = ROWS * LENGTH * layer_bytes(shape, 4 if autocast is None else 2)
    assert 0.8 * said < of_a_layer < said  # frozen norms keep less, the adapter's own outputs are narrow


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_shape_counts_the_parameters_of_its_model(family: str, is_tied: bool) -> None:
    model = build(family, 3, is_tied=is_tied)
    shape = shape_of(model)
    assert shape is not None
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_model_of_another_build_has_no_shape() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

    assert shape_of(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))) is None
    experts = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_local_experts=4
    )
    assert shape_of(MixtralForCausalLM(experts)) is None


@pytest.mark.parametrize("targets", ["all-linear", r".*\.q_proj"])
def test_an_adapter_is_counted_as_peft_makes_it(targets: str) -> None:
    from rlvr.trainers.model.lora import with_adapter

    settings = ModelConfig(lora_rank=4, lora_targets=targets)
    counted = adapter_parameters(build("qwen3", 2), settings)
    adapted = with_adapter(build("qwen3", 2), settings, 0, None)
    assert counted == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert adapter_parameters(build("qwen3", 2), ModelConfig()) == 0


def test_known_models_have_the_parameters_that_their_cards_name() -> None:
    assert QWEN3_0_6B.parameters == 596_049_920
    assert QWEN25_7B.parameters == 7_615_616_512


def test_full_training_holds_sixteen_bytes_of_each_parameter() -> None:
    memory = estimate_memory(QWEN3_0_6B, WORK)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * QWEN3_0_6B.parameters


def test_keys_and_values_are_those_of_all_rows_at_their_full_length() -> None:
    memory = estimate_memory(QWEN3_0_6B, replace(WORK, is_static_cache=True))
    assert memory.kv_cache == 128 * 2048 * 28 * 2 * 8 * 128 * 2
    assert estimate_memory(QWEN3_0_6B, WORK).kv_cache > memory.kv_cache  # the old cache stays until it was copied


def test_zero_splits_the_optimizer_then_gradients_then_weights() -> None:
    parameters = QWEN3_0_6B.parameters
    zero = replace(WORK, shards=8, is_deepspeed=True)
    one, two, three = (estimate_memory(QWEN3_0_6B, replace(zero, stage=stage)) for stage in (1, 2, 3))
    bucket = 4 * 2**26
    # Below stage 3 a process has float32 weights of its own of what it updates, beside the moments.
    assert (one.weights, one.gradients, one.optimizer) == (4 * parameters, 4 * parameters + bucket, 12 * parameters // 8)
    assert (two.weights, two.gradients, two.optimizer) == (4 * parameters, 4 * parameters // 8 + bucket, 12 * parameters // 8)
    assert (three.weights, three.gradients, three.optimizer) == (
        4 * parameters // 8,
        4 * parameters // 8 + bucket,
        8 * parameters // 8,
    )
    assert one.cast_weights == two.cast_weights == estimate_memory(QWEN3_0_6B, WORK).cast_weights
    offloaded = [estimate_memory(QWEN3_0_6B, replace(zero, stage=stage, is_offloaded=True)) for stage in (1, 2, 3)]
    assert [memory.optimizer for memory in offloaded] == [0, 0, 0]
    assert [memory.gradients for memory in offloaded] == [one.gradients, bucket, bucket]
    assert [memory.weights for memory in offloaded] == [one.weights, one.weights, 0]
    assert estimate_memory(QWEN3_0_6B, replace(zero, shards=1)) == estimate_memory(QWEN3_0_6B, WORK)


def test_each_way_to_save_memory_saves_some_of_its_own_kind() -> None:
    plain = estimate_memory(QWEN3_0_6B, WORK)
    checkpointed = estimate_memory(QWEN3_0_6B, replace(WORK, is_checkpointed=True))
    assert checkpointed.activations < plain.activations / 4
    adapted = estimate_memory(QWEN3_0_6B, replace(WORK, is_adapter=True, trained=5_000_000))
    assert adapted.gradients + adapted.optimizer == 12 * 5_000_000
    assert estimate_memory(QWEN3_0_6B, replace(WORK, rows=32)).kv_cache == pytest.approx(plain.kv_cache / 4)
    split = estimate_memory(QWEN3_0_6B, replace(WORK, shards=8))
    assert (split.optimizer, split.weights) == (plain.optimizer // 8, plain.weights // 8)
    assert split.engine_weights == plain.engine_weights  # each process generates with a whole copy
    offloaded = estimate_memory(QWEN3_0_6B, replace(WORK, shards=8, is_offloaded=True))
    assert offloaded.weights + offloaded.gradients + offloaded.optimizer == 0
    elsewhere = estimate_memory(QWEN3_0_6B, replace(WORK, is_native=False))
    assert elsewhere.kv_cache == elsewhere.engine_weights == elsewhere.decoding == 0
    assert plain.peak == max(plain.update, plain.generation)
