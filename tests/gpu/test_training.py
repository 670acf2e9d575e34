"""Updates, memory and learning on a GPU: the benchmarks' own functions, on settings that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("extra", [[], ["--checkpointing"]])
def test_an_update_of_a_real_shape_takes_the_memory_that_was_estimated(
    device: torch.device, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_update

    gpu_update.main(["--shape", "qwen3-0.6b", "--tokens", "4096", "--length", "1024", "--steps", "2", *extra])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not found["is_small"]
    assert found["memory_estimate"] == pytest.approx(found["memory_peak"], rel=0.25)


def test_a_real_shape_is_generated_from_within_the_bound(device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_rollout

    gpu_rollout.main(["--rows", "64", "--tokens", "64", "--repetitions", "1", "--skip-generate"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["decoder"] == "llama"
    assert found["of_bound"] is None or 0 < found["of_bound"] < 1


@pytest.mark.learning
def test_a_small_model_learns_in_bf16(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_learning

    words = ["--hidden", "256", "--layers", "4", "--steps", "60", "--warm-up", "300", "--folder", str(tmp_path)]
    assert gpu_learning.main(words) == 0, capsys.readouterr().out
