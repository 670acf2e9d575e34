from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.folders import new_box_folder, stale_box_folders


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="rf", dir="/tmp") as folder:  # pytest's own are too long for sockets
        monkeypatch.setattr("tempfile.tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield


def folder_of_an_ended_process() -> Path:
    code = "from rlvr.sandbox.folders import new_box_folder; print(new_box_folder())"
    return Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def test_a_folder_belongs_to_this_user_alone() -> None:
    assert stat.S_IMODE(new_box_folder().stat().st_mode) == 0o700


def test_folders_of_ended_processes_go_when_the_next_one_is_made_and_others_stay() -> None:
    left, other = folder_of_an_ended_process(), Path(tempfile.gettempdir(), "rlvr-sandbox-something")
    (left / "0").touch()
    other.mkdir()
    first = new_box_folder()
    assert not left.exists()
    second = new_box_folder()
    assert first.exists()
    assert second.exists()
    assert other.exists()


def test_a_folder_of_another_machine_stays() -> None:
    left = folder_of_an_ended_process()
    pid, started, _, rest = left.name.removeprefix("rlvr-sandbox-").split("-")
    left.rename(left.with_name(f"rlvr-sandbox-{pid}-{started}-00000000-{rest}"))
    assert stale_box_folders() == []


def test_a_link_with_such_a_name_is_not_followed(tmp_path: Path) -> None:
    left = folder_of_an_ended_process()
    name = left.name
    left.rmdir()
    os.symlink(tmp_path, left.with_name(name))
    assert stale_box_folders() == []


def test_a_path_that_is_too_long_for_a_socket_says_what_to_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(SandboxError, match="too long a path for sockets; set TMPDIR"):
        new_box_folder()
    assert list(long.iterdir()) == []


def test_a_folder_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(SandboxError, match="no folder for a sandbox's sockets can be made"):
        new_box_folder()
