"""The benchmarks for a GPU run small on the CPU: they work, and claim nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.parametrize("extra", [[], ["--checkpointing"]])
def test_the_update_says_its_share_of_the_peak(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_update

    assert gpu_update.main(["--small", "--steps", "2", "--tokens", "128", "--length", "32", *extra]) == 0
    found = last_line(capsys)
    assert found["tokens"] == 128
    assert isinstance(found["mfu"], float)
    assert 0 < found["mfu"] < 1


def test_generation_is_compared_with_generate_and_with_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_rollout

    assert gpu_rollout.main(["--small", "--rows", "4", "--tokens", "6", "--repetitions", "1"]) == 0
    found = last_line(capsys)
    assert found["decoder"] == "llama"
    for ratio in (found["of_bound"], found["over_generate"]):
        assert isinstance(ratio, float)
        assert ratio > 0


def test_the_bound_reads_weights_and_cache_once_for_every_token() -> None:
    import gpu_rollout
    from gpu_shapes import SHAPES, Place
    from torch import device

    from rlvr.trainers.sizing.devices import KNOWN

    shape, hardware = SHAPES["qwen3-0.6b"], KNOWN["h200"]
    args = gpu_rollout.argparse.Namespace(rows=256, prompt_tokens=100, tokens=1)
    seconds = gpu_rollout.bound(shape, args, Place(device("cuda"), hardware, is_small=False))
    kv = 2 * 28 * 8 * 128 * 2
    assert seconds == pytest.approx((2 * (shape.parameters - 28 * (2 * 1024 + 256) - 1024) + 256 * 100 * kv) / 4.8e12)


@pytest.mark.learning
def test_the_learning_run_goes_from_random_weights_to_a_measured_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_learning

    assert gpu_learning.main(["--small", "--folder", str(tmp_path)]) == 0
    assert {"low", "high"} <= set(last_line(capsys)["gain"])  # type: ignore[call-overload]
    assert (tmp_path / "run" / "summary.json").is_file()
