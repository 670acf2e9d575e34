"""The script that starts an engine where none runs, as CI does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rlvr.sandbox.engine import connect_engine, describe_engine
from rlvr.sandbox.sources import sandbox_folder

SCRIPT = sandbox_folder() / "start_engine.sh"


def run(*arguments: str, host: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}
    if host is not None:
        environment["DOCKER_HOST"] = host
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, check=False, env=environment, timeout=120)


@pytest.fixture
def folder(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("only root can start an engine, and only where dockerd is installed")
    if not Path("/sys/fs/cgroup").is_mount() and not any(Path("/sys/fs/cgroup").iterdir()):
        pytest.skip("no cgroups here")
    # pytest's own folders have names too long for a socket.
    path = Path(f"/tmp/rlvr-engine-test-{os.getpid()}")
    yield path
    run("stop", str(path))
    shutil.rmtree(path, ignore_errors=True)


def test_an_engine_starts_in_a_folder_of_its_own_and_leaves_nothing(folder: Path) -> None:
    started = run("start", str(folder))
    assert started.returncode == 0, started.stderr
    host = started.stdout.strip()
    assert host == f"unix://{folder}/docker.sock"
    with closing(connect_engine(host)) as client:
        assert describe_engine(client, host).root_folder == f"{folder}/data"
    assert run("start", str(folder)).stdout.strip() == host, "a second start finds the first"
    pid = int((folder / "docker.pid").read_text())
    assert run("stop", str(folder)).returncode == 0
    assert not folder.exists()
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_an_engine_that_answers_already_is_used(folder: Path, docker_host: str) -> None:
    found = run("ensure", str(folder), host=docker_host)
    assert found.stdout.strip() == docker_host
    assert not folder.exists()


def test_a_docker_host_that_does_not_answer_is_not_replaced_silently(tmp_path: Path) -> None:
    failed = run("ensure", str(tmp_path / "x"), host="unix:///no/such.sock")
    assert failed.returncode == 3
    assert "DOCKER_HOST = unix:///no/such.sock does not answer: start that engine, or unset the variable" in failed.stderr


def test_stopping_where_nothing_was_started_is_harmless(tmp_path: Path) -> None:
    assert run("stop", str(tmp_path / "none")).returncode == 0


def test_wrong_usage_prints_how_it_is_used() -> None:
    wrong = run("begin")
    assert wrong.returncode == 2
    assert "start_engine.sh start FOLDER" in wrong.stdout
