from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.cli.main import main
from rlvr.config import ModelConfig
from rlvr.engines.load import load_model
from rlvr.engines.merge import merge_models
from rlvr.envs.tasks import load_task
from rlvr.errors import CheckpointError, ConfigError
from rlvr.trainers.model.tiny import tiny_model


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two tiny models of different weights."""
    spec = load_task("chains").tiny
    assert spec is not None
    for seed in (0, 1):
        model, tokenizer = tiny_model(spec, seed)
        model.save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
    return tmp_path / "0", tmp_path / "1"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_every_tensor_is_the_convex_combination(two: tuple[Path, Path], tmp_path: Path, weight: float) -> None:
    merged = merge_models(*two, tmp_path / "out", weight=weight)
    first, second, out = (weights(folder) for folder in (*two, merged.path))
    assert list(out) == list(first)
    for name, tensor in out.items():
        expected = weight * first[name].double() + (1 - weight) * second[name].double()
        assert tensor.dtype == first[name].dtype
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-8)
    assert (merged.averaged, merged.copied) == (len(out), 0)
    assert merged.parameters == sum(tensor.numel() for tensor in out.values())


def test_the_ends_are_the_models_to_the_bit_and_what_comes_out_loads(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge_models(*two, tmp_path / "one", weight=1)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (two[0] / "model.safetensors").read_bytes()
    merge_models(*two, tmp_path / "half")
    loaded = load_model(tmp_path / "half", ModelConfig(device="cpu"))
    assert len(loaded.tokenizer) == len(load_model(two[0], ModelConfig(device="cpu")).tokenizer)


def test_half_precision_is_averaged_in_a_wider_type(tmp_path: Path, two: tuple[Path, Path]) -> None:
    for folder in two:
        save_file({name: t.to(torch.bfloat16) for name, t in weights(folder).items()}, folder / "model.safetensors")
    merge_models(*two, tmp_path / "out", weight=0.3)
    first, second, out = (weights(folder) for folder in (*two, tmp_path / "out"))
    for name, tensor in out.items():
        assert torch.equal(tensor, torch.lerp(second[name].float(), first[name].float(), 0.3).to(torch.bfloat16))


def test_models_in_several_files_are_merged_file_by_file(tmp_path: Path, two: tuple[Path, Path]) -> None:
    whole = weights(two[0])
    names = list(whole)
    parts = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, held in parts.items():
        save_file({name: whole[name] for name in held}, two[0] / file)
    (two[0] / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (two[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    merge_models(*two, tmp_path / "out")
    second = weights(two[1])
    for file, held in parts.items():
        out = load_file(tmp_path / "out" / file)
        assert set(out) == set(held)
        for name in held:
            torch.testing.assert_close(out[name], (whole[name] + second[name]) / 2)


def test_a_trainers_state_stays_behind(two: tuple[Path, Path], tmp_path: Path) -> None:
    (two[0] / "trainer.pt").write_bytes(b"optimizer")
    merge_models(*two, tmp_path / "out")
    assert not (tmp_path / "out" / "trainer.pt").exists()


def test_what_does_not_fit_together_is_refused_and_leaves_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"--weight 1\.5"):
        merge_models(*two, out, weight=1.5)
    with pytest.raises(ConfigError, match="no model at"):
        merge_models(two[0], "/nowhere", out)

    edit(two[1], rope_theta=3.0)
    with pytest.raises(ConfigError, match="the models differ in rope_theta"):
        merge_models(*two, out)
    edit(two[1], rope_theta=json.loads((two[0] / "config.json").read_text()).get("rope_theta"))

    second = weights(two[1])
    name = next(iter(second))
    save_file({**second, name: second[name][:1].clone()}, two[1] / "model.safetensors")
    with pytest.raises(ConfigError, match="has shape"):
        merge_models(*two, out)
    save_file({key: t for key, t in second.items() if key != name}, two[1] / "model.safetensors")
    with pytest.raises(ConfigError, match="1 tensors are in one of the models only"):
        merge_models(*two, out)
    save_file({**second, name: second[name] * float("nan")}, two[1] / "model.safetensors")
    with pytest.raises(ConfigError, match="not finite after averaging"):
        merge_models(*two, out)
    (two[1] / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        merge_models(*two, out)
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_another_vocabulary_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    path = two[1] / "tokenizer.json"
    text = json.loads(path.read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["+"], vocabulary["-"] = vocabulary["-"], vocabulary["+"]
    path.write_text(json.dumps(text))
    with pytest.raises(ConfigError, match=r"the tokenizers differ in 2 tokens, e.g. '\+'"):
        merge_models(*two, tmp_path / "out")


def test_the_verb_says_what_it_wrote(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(two[0]), str(two[1]), "--weight", "0.5", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "out")
    assert main(["merge", str(two[0]), str(two[1]), "--out", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
