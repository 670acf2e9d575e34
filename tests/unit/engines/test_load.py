from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rlvr.config import ModelConfig
from rlvr.engines.load import load_model
from rlvr.errors import CheckpointError, ConfigError, RlvrError

CPU = ModelConfig(device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with bf16 weights, dropout and a word tokenizer."""
    config = Qwen3Config(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attention_dropout=0.5,
        max_position_embeddings=32,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_weights_are_float32_whatever_the_file_holds(folder: Path) -> None:
    loaded = load_model(folder, CPU)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert (loaded.device, loaded.precision, loaded.path) == (torch.device("cpu"), "fp32", str(folder))
    assert loaded.tokenizer.encode("a b") == [1, 2]


def test_dropout_is_off_in_training_mode(folder: Path) -> None:
    model = load_model(folder, CPU).model.train()
    tokens = torch.tensor([[1, 2, 1, 2]])
    torch.testing.assert_close(model(tokens).logits, model(tokens).logits, atol=0, rtol=0)


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(folder, CPU)
    assert capfd.readouterr() == ("", "")


def test_bf16_is_what_was_asked_for(folder: Path) -> None:
    assert load_model(folder, ModelConfig(device="cpu", precision="bf16")).precision == "bf16"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./missing", "a/b/c", "~/missing"])
def test_a_missing_folder_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"no such folder.*hub name"):
        load_model(path, CPU)


def test_a_name_that_the_hub_does_not_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"no model at 'nobody/nothing'.*no such folder here.*hub.*HF_TOKEN"):
        load_model("nobody/nothing", CPU)


@pytest.mark.parametrize(
    ("gone", "kind", "message"),
    [
        ("config.json", ConfigError, "no config.json"),
        ("model.safetensors", CheckpointError, "no weights"),
        ("tokenizer*", CheckpointError, "no tokenizer"),
    ],
)
def test_a_missing_part_is_named(folder: Path, gone: str, kind: type[RlvrError], message: str) -> None:
    for file in folder.glob(gone):
        file.unlink()
    with pytest.raises(kind, match=message):
        load_model(folder, CPU)


def test_an_adapter_is_not_a_model(folder: Path) -> None:
    shutil.move(folder / "config.json", folder / "adapter_config.json")
    with pytest.raises(ConfigError, match="LoRA adapter"):
        load_model(folder, CPU)


def test_a_file_is_not_a_checkpoint(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file"):
        load_model(folder / "config.json", CPU)


def test_weights_that_would_be_random_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 tensors.*down_proj"):
        load_model(folder, CPU)


def test_a_damaged_weight_file_is_a_checkpoint_error(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="loading"):
        load_model(folder, CPU)


def test_a_tokenizer_larger_than_the_model_is_refused(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(9)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    with pytest.raises(CheckpointError, match="9 tokens, but the model embeds 8"):
        load_model(folder, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        load_model(folder, ModelConfig(device="cuda"))
    with pytest.raises(ConfigError, match="allowed: auto"):
        load_model(folder, ModelConfig(device="abacus"))
