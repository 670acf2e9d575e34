from __future__ import annotations

import json
from typing import Any

import pytest

from rlvr.cli.main import main
from rlvr.sandbox.image import image_labels
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, this_owner


@pytest.fixture
def furnished(fake_engine: Any) -> Any:
    """An engine with an image of ours and two containers, one of them left behind."""
    labels = image_labels([], "copy of this machine, Python 3.11.7", {"python": "3.11.7"})
    image = {"Id": "sha256:" + "1" * 64, "RepoTags": ["rlvr-sandbox:abc"], "Size": 45_000_000, "Config": {"Labels": labels}}
    fake_engine.answers["/images/json"] = (200, [{"Id": "i"}])
    fake_engine.answers["/images/i/json"] = (200, image)
    fake_engine.answers["/containers/json"] = (200, [{"Id": "a"}, {"Id": "b"}])
    pid, started, machine = this_owner().split(":")
    owners = {"a": this_owner(), "b": f"{pid}:{int(started) + 1}:{machine}"}
    for key, status in (("a", "running"), ("b", "exited")):
        described = {
            "Id": key, "Name": f"/rlvr-sandbox-{key}", "Created": "2026-01-01T00:00:00Z", "Image": "sha256:1", "Mounts": [],
            "State": {"Status": status},
            "Config": {"Labels": {LABEL: "1", LABEL_OWNER: owners[key], f"{LABEL}.slots": "4", f"{LABEL}.purpose": "standard"}},
        }  # fmt: skip
        fake_engine.answers[f"/containers/{key}/json"] = (200, described)
    return fake_engine


def test_status_shows_engine_image_and_containers(furnished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "status"]) == 0
    printed = capsys.readouterr().out
    assert "Docker 28.0.0 (API 1.48, x86_64)" in printed
    assert "cgroup v2" in printed
    assert "rlvr-sandbox:abc (45 MB; no layers; python 3.11.7; copy of this machine, Python 3.11.7)" in printed
    rows = {line.split()[0]: line.split()[1] for line in printed.splitlines() if line.startswith("rlvr-sandbox-")}
    assert rows == {"rlvr-sandbox-a": "running", "rlvr-sandbox-b": "leftover"}
    assert "1 left behind; `rlvr sandbox prune` removes them" in printed


def test_status_as_json_has_all_that_is_shown(furnished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "status", "--json"]) == 0
    (host,) = json.loads(capsys.readouterr().out)
    assert host["engine"]["version"] == "28.0.0"
    assert host["images"][0]["digest"] == "sha256:" + "1" * 64
    assert [container["is_left"] for container in host["containers"]] == [False, True]


def test_status_without_an_engine_says_what_is_wrong_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    assert main(["sandbox", "status"]) == 3
    assert "no such socket" in capsys.readouterr().out


def test_status_of_several_hosts_shows_those_that_answer_and_those_that_do_not(
    furnished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix:///no/such.sock,{furnished.host}")
    assert main(["sandbox", "status", "--json"]) == 3
    first, second = json.loads(capsys.readouterr().out)
    assert "no such socket" in first["error"]
    assert (second["error"], second["engine"]["version"]) == ("", "28.0.0")


def test_an_unknown_layer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "build", "--layers", "science,java"]) == 2
    assert "unknown layer 'java'; known: science, cpp" in capsys.readouterr().err


def test_prune_without_an_engine_is_an_infrastructure_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    assert main(["sandbox", "prune"]) == 3
    assert "no such socket" in capsys.readouterr().err


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sandbox"])
    assert "ACTION" in capsys.readouterr().err
