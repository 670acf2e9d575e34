from __future__ import annotations

import errno
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.engine import connect_engine, describe_engine, engine_address, engine_addresses, engine_error, explain
from rlvr.sandbox.image import list_images
from rlvr.sandbox.image_build import _raise_error_of, ensure_image


def test_an_engine_says_what_it_is_and_what_it_cannot_enforce(fake_engine: Any) -> None:
    client = connect_engine()
    try:
        assert describe_engine(client).lacks == ()
        status, info = fake_engine.answers["/info"]
        options = ["name=seccomp,profile=builtin", "name=rootless"]
        fake_engine.answers["/info"] = (status, {**info, "CgroupVersion": "1", "PidsLimit": False, "SecurityOptions": options})
        rootless = describe_engine(client)
        fake_engine.answers["/info"] = (status, {**info, "SecurityOptions": []})
        unfiltered = describe_engine(client)
    finally:
        client.close()
    assert (rootless.cgroup_version, rootless.is_rootless, rootless.lacks) == ("1", True, ("processes limits",))
    assert unfiltered.lacks == ("seccomp",)


@pytest.mark.parametrize(("api", "is_enough"), [("1.40", False), ("1.9", False), ("1.41", True), ("1.48", True), ("2.0", True)])
def test_engines_from_20_10_on_work_and_older_ones_are_told_so(fake_engine: Any, api: str, *, is_enough: bool) -> None:
    fake_engine.answers["/version"] = (200, {"Version": "19.03.15", "ApiVersion": api})
    if is_enough:
        connect_engine().close()
        return
    with pytest.raises(SandboxError, match=rf"version 19\.03\.15 \(API {api}\), but the sandbox needs 20\.10 .* upgrade it"):
        connect_engine()


@pytest.mark.parametrize("answer", ["220 mail.example ready", {"hello": "world"}, ["a list"]])
def test_something_else_that_answers_is_no_engine(fake_engine: Any, answer: Any) -> None:
    fake_engine.answers["/version"] = (200, answer)
    with pytest.raises(SandboxError, match=r"docker\.sock"):
        connect_engine()


def test_a_socket_that_is_not_there_names_what_starts_an_engine(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"no Docker engine at .*no such socket: start Docker .*start_engine\.sh"):
        connect_engine(f"unix://{tmp_path}/none.sock")


def test_a_port_where_nobody_listens_says_so() -> None:
    with pytest.raises(SandboxError, match="nobody listens there"):
        connect_engine("tcp://127.0.0.1:9")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
def test_a_socket_of_somebody_else_says_which_group_is_missing(fake_engine: Any) -> None:
    os.chmod(fake_engine.host.removeprefix("unix://"), 0)
    with pytest.raises(SandboxError, match="group 'docker'"):
        connect_engine()


def test_no_permission_deep_inside_a_connection_error_is_found() -> None:
    from requests.exceptions import ConnectionError as ConnectionFailed
    from urllib3.exceptions import ProtocolError

    buried = ConnectionFailed(ProtocolError("Connection aborted.", PermissionError(errno.EACCES, "Permission denied")))
    assert "group 'docker'" in explain(buried)


def test_a_file_of_ours_that_may_not_be_opened_is_not_blamed_on_the_engines_socket() -> None:
    words = explain(PermissionError(errno.EACCES, "Permission denied", "/some/file"))
    assert "docker" not in words
    assert "/some/file" in words


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("write /var/lib/docker/tmp/x: no space left on device"),
    ],
)
def test_a_full_disk_says_how_to_free_some(error: Exception) -> None:
    assert "the disk is full: free some (`rlvr sandbox prune`" in explain(error)


def test_a_full_disk_of_the_engine_is_told_apart_while_an_image_is_imported() -> None:
    with pytest.raises(SandboxError, match="importing the image: the engine's disk is full: free some"):
        _raise_error_of({"error": "Error processing tar file: write /usr/lib/x: no space left on device"}, "importing the image")


def test_a_full_disk_in_the_answer_of_an_engine_is_found(fake_engine: Any) -> None:
    client = connect_engine()
    fake_engine.answers["/images/json"] = (500, {"message": "open /var/lib/docker/x: no space left on device"})
    try:
        with pytest.raises(SandboxError, match="listing images: the disk is full"):
            list_images(client)
    finally:
        client.close()


def test_an_engine_that_fails_is_not_an_engine_without_an_image(fake_engine: Any) -> None:
    client = connect_engine()
    fake_engine.answers["/images/json"] = (500, {"message": "the engine has a bad day"})
    try:
        with pytest.raises(SandboxError, match="listing images: APIError: the engine has a bad day"):
            ensure_image(client)
    finally:
        client.close()


def test_without_docker_py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SandboxError, match=r"pip install 'rlvr\[docker\]'"):
        connect_engine()
    with pytest.raises(SandboxError, match=r"pip install 'rlvr\[docker\]'"), engine_error("doing something"):
        pass


def test_hosts_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://one:2375, tcp://two:2375")
    assert engine_addresses() == ("tcp://one:2375", "tcp://two:2375")
    assert engine_address() == "tcp://one:2375"
    assert engine_address("unix:///three") == "unix:///three"


def test_a_rootless_engines_socket_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "docker.sock").touch()
    if not Path("/var/run/docker.sock").exists():
        assert engine_address() == f"unix://{tmp_path}/docker.sock"
    (tmp_path / "docker.sock").unlink()
    assert engine_address() == "unix:///var/run/docker.sock"


def test_an_engine_over_ssh_names_what_it_needs() -> None:
    pytest.importorskip("docker")
    if importlib.util.find_spec("paramiko") is not None:
        pytest.skip("paramiko is installed")
    with pytest.raises(SandboxError, match=r"needs paramiko: pip install 'docker\[ssh\]'"):
        connect_engine("ssh://host.invalid")
