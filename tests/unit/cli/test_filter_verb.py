from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.filtering.filter import default_path, fingerprint
from rlvr.filtering.pass_rates import load_pass_rates

COMMON = ["-n", "2", "--max-tokens", "6"]


def filter_(model: Path, out: Path, *options: str) -> int:
    return main(["filter", "chains", "--model", str(model), "--out", str(out), *COMMON, *options])


def test_json_names_the_file_and_the_kept_ids(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rates.jsonl"
    assert filter_(tiny_checkpoint, out, "--limit", "4", "--keep", "0:1", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["file"] == str(out)
    assert (summary["problems"], summary["kept"], summary["keep"]) == (4, 4, [0.0, 1.0])
    assert summary["kept_ids"] == list(load_pass_rates(out, task="chains").by_id)


def test_the_terminal_shows_a_histogram_and_the_kept_count(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert filter_(tiny_checkpoint, tmp_path / "rates.jsonl", "--limit", "5", "--keep", "0:0.5") == 0
    printed = capsys.readouterr().out
    assert "never" in printed
    assert "█" in printed
    assert "of 5 problems" in printed


def test_early_stopping_is_reported_and_can_be_turned_off(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["filter", "chains", "--model", str(tiny_checkpoint), "--max-tokens", "4", "-n", "16", "--limit", "3"]
    assert main([*arguments, "--out", str(tmp_path / "early.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "18 rollouts instead of 48: 62% saved" in printed  # 6 failures of 16 are enough for a model that solves nothing
    assert "decide otherwise about 1.5% of the problems or less" in printed
    assert main([*arguments, "--out", str(tmp_path / "full.jsonl"), "--full", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rollouts"], summary["rollouts_saved_share"], summary["epsilon"]) == (48, 0.0, None)


def test_a_run_that_grew_in_two_calls_equals_one_that_did_not(tiny_checkpoint: Path, tmp_path: Path) -> None:
    filter_(tiny_checkpoint, tmp_path / "grown.jsonl", "--limit", "2")
    filter_(tiny_checkpoint, tmp_path / "grown.jsonl", "--limit", "6")
    filter_(tiny_checkpoint, tmp_path / "whole.jsonl", "--limit", "6")
    assert (tmp_path / "grown.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_leaks_and_duplicates_are_left_out_before_anything_is_sampled(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [f"{a} + {b}" for a, b in ((1, 2), (3, 4), (5, 6), (1, 2))]
    rows = [{"id": f"t{i}", "prompt": prompt, "answer": "3", "split": "train"} for i, prompt in enumerate(prompts)]
    rows.append({"id": "e", "prompt": "3 + 4", "answer": "7", "split": "test"})
    task, out = tmp_path / "sums.jsonl", tmp_path / "rates.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["filter", str(task), "--model", str(tiny_checkpoint), "--out", str(out), "--template", "plain", *COMMON, "--json"]
    assert main([*command, "--clean", "--keep", "0:1"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kept_ids"] == ["t0", "t2"]
    assert "1 of 4 problems leak 1 of 1 held-out ones" in captured.err
    assert main(command) == 2  # the file has no t1 and t3
    assert "cleaned_against: [] there, None now" in capsys.readouterr().err


def test_other_weights_at_the_same_path_are_noticed(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    assert filter_(model, tmp_path / "rates.jsonl", "--limit", "2") == 0
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert filter_(model, tmp_path / "rates.jsonl", "--limit", "2") == 2
    assert "measured with other settings (weights:" in capsys.readouterr().err


def test_without_resume_an_existing_file_is_left_alone(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rates.jsonl"
    filter_(tiny_checkpoint, out, "--limit", "2")
    before = out.read_bytes()
    assert filter_(tiny_checkpoint, out, "--limit", "4", "--no-resume") == 2
    assert out.read_bytes() == before
    assert "remove it or choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "0.8:0.2"], "a window is LOW:HIGH"),
        (["-n", "0"], "at least one sample"),
        (["--temperature", "0"], "draws equal answers"),
    ],
)
def test_wrong_options_are_usage_errors(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", "chains", "--model", "/no/such/model", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_default_file_names_task_split_and_model() -> None:
    assert default_path("chains", "train", "Qwen/Qwen3-0.6B") == Path("runs/pass-rates/chains-train-Qwen-Qwen3-0.6B.jsonl")


def test_a_run_folder_means_its_newest_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoints" / "step-000002")
    (tmp_path / "checkpoints" / "step-000001").mkdir()
    assert fingerprint(str(tmp_path)) == fingerprint(str(tiny_checkpoint))


def test_hub_names_have_no_fingerprint(tiny_checkpoint: Path) -> None:
    assert fingerprint("Qwen/Qwen3-0.6B") is None
    assert fingerprint(str(tiny_checkpoint)) == fingerprint(str(tiny_checkpoint))
