from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.envs.tasks import load_task
from rlvr.errors import CheckpointError
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.run.checkpoint import check_space, checkpoints, load_state, save_checkpoint


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    spec = load_task("chains").tiny
    assert spec is not None
    return tiny_model(spec)


def save(folder: Path, step: int, tiny: tuple[Any, Any], keep: int = 2) -> Path:
    return save_checkpoint(folder, step, *tiny, {"step": step, "extra": {"drawn": 3}}, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_loads_with_transformers_alone(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    path = save(tmp_path, 4, tiny)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    for key, expected in tiny[0].state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], expected, rtol=0, atol=0)
    assert tokenizer.encode("<think>1+2=3") == tiny[1].encode("<think>1+2=3")
    assert load_state(path) == {"step": 4, "extra": {"drawn": 3}}


def test_the_newest_are_kept_and_nothing_else_lies_about(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    for step in (2, 4, 10):
        save(tmp_path, step, tiny)
    assert names(tmp_path) == ["step-000004", "step-000010"]


def test_what_a_killed_process_left_is_never_a_checkpoint_and_goes_with_the_next_one(
    tmp_path: Path, tiny: tuple[Any, Any]
) -> None:
    save(tmp_path, 2, tiny)
    draft = tmp_path / ".step-000004.99999.tmp"
    draft.mkdir()
    (draft / "trainer.pt").write_bytes(b"half")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002"]
    save(tmp_path, 4, tiny)
    assert names(tmp_path) == ["step-000002", "step-000004"]


def test_a_folder_without_the_trainers_state_is_no_checkpoint_and_is_replaced(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    save(tmp_path, 2, tiny)
    broken = save(tmp_path, 4, tiny)
    (broken / "trainer.pt").unlink()
    (broken / "leftover").write_text("x")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002"]
    assert load_state(save(tmp_path, 4, tiny))["step"] == 4
    assert not (broken / "leftover").exists()


def test_a_truncated_state_is_an_error_that_says_what_to_do(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    path = save(tmp_path, 2, tiny)
    state = path / "trainer.pt"
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"step-000002 cannot be read; delete this folder"):
        load_state(path)


def test_a_file_that_cannot_be_written_leaves_earlier_checkpoints_whole(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    """RLIMIT_FSIZE stops the weights' file in the middle, as a full disk would; in a process of its own, for it is one-way."""
    save(tmp_path, 2, tiny)
    before = {path: path.read_bytes() for path in (tmp_path / "step-000002").iterdir()}
    script = """
        import resource, signal, sys
        from pathlib import Path
        from rlvr.envs.tasks import load_task
        from rlvr.errors import CheckpointError
        from rlvr.trainers.run.checkpoint import save_checkpoint
        from rlvr.trainers.model.tiny import tiny_model

        model, tokenizer = tiny_model(load_task("chains").tiny)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint(Path(sys.argv[1]), 4, model, tokenizer, {"step": 4}, keep=2)
        except CheckpointError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "step-000004 could not be written, earlier ones are untouched" in done.stdout
    assert names(tmp_path) == ["step-000002"]
    assert {path: path.read_bytes() for path in (tmp_path / "step-000002").iterdir()} == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB: room for one checkpoint of the tiny model, not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_said_and_leaves_earlier_checkpoints_whole(small_disk: Path, tiny: tuple[Any, Any]) -> None:
    folder = small_disk / "checkpoints"
    moments = {"step": 2, "moments": torch.zeros(400_000)}
    first = save_checkpoint(folder, 2, *tiny, moments, keep=2)
    before = {path: path.read_bytes() for path in first.iterdir()}
    with pytest.raises(CheckpointError, match=r"step-000004 could not be written.*The disk is full: free some space"):
        save_checkpoint(folder, 4, *tiny, moments, keep=2)
    assert names(folder) == ["step-000002"]
    assert {path: path.read_bytes() for path in first.iterdir()} == before


def test_too_little_disk_is_said_before_a_run_starts(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    check_space(tmp_path / "not" / "yet" / "there", tiny[0], keep=2)
    with pytest.raises(CheckpointError, match=r"need about .* GB, but .* GB are free; free some space.*lower checkpoint.keep"):
        check_space(tmp_path, tiny[0], keep=10**9)


def test_an_adapter_needs_room_for_itself_alone(tmp_path: Path) -> None:
    frozen, adapter = torch.nn.Linear(10**5, 10**5, device="meta"), torch.nn.Linear(4, 4)
    model = torch.nn.Sequential(frozen.requires_grad_(False), adapter)
    with pytest.raises(CheckpointError, match="GB are free"):
        check_space(tmp_path, model, keep=10)
    model.peft_config = {}  # type: ignore[assignment]
    check_space(tmp_path, model, keep=10)


def test_the_best_weights_count_and_what_is_written_already_does_not(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = 4 * sum(parameter.numel() for parameter in tiny[0].parameters())
    free = 3 * 3 * weights + weights  # for three checkpoints, and the weights once more
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    check_space(tmp_path, tiny[0], keep=2)
    with pytest.raises(CheckpointError, match="and the best weights need about"):
        check_space(tmp_path, tiny[0], keep=2, keeps_best=True)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.safetensors").write_bytes(b"0" * weights)
    check_space(tmp_path, tiny[0], keep=2, keeps_best=True)
