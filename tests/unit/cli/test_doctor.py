from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.doctor import Check, examine, requirements
from rlvr.cli.main import main


def check(name: str) -> Check:
    return next(found for found in examine() if found.name.startswith(name))


def test_doctor_is_content_where_the_tests_run(fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert {"python", "torch [train]", "threads", "OMP_WAIT_POLICY", "memory", "disk", "docker engine", "RLVR_DATA"} <= {
        one["name"] for one in found["checks"]
    }


def test_doctor_prints_a_line_for_each_check_and_a_verdict(fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ready to train"
    assert any(line.startswith("ok       transformers [train]") for line in lines)


def test_a_package_is_listed_once_with_the_least_to_install_for_it() -> None:
    labels = [found.name for found in examine() if "[" in found.name]
    packages = [label.partition(" ")[0] for label in labels]
    assert len(packages) == len(set(packages))
    assert "math-verify [math]" in labels


def test_the_core_needs_no_torch() -> None:
    assert set(requirements()[""]) == {"pydantic", "rich", "numpy"}


def test_a_data_folder_that_is_not_there_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    assert check("RLVR_DATA").status == "ok"
    monkeypatch.setenv("RLVR_DATA", str(tmp_path / "absent"))
    assert check("RLVR_DATA").status == "warn"
    monkeypatch.delenv("RLVR_DATA")
    assert check("RLVR_DATA").status == "off"


def test_a_docker_engine_is_described_with_what_it_runs_on(fake_engine: Any) -> None:
    found = check("docker engine")
    assert found == Check("docker engine", "ok", f"28.0.0 (API 1.48), cgroup v2, overlay2, at {fake_engine.host}")


def test_something_else_at_the_dockers_address_is_not_taken_for_it(fake_engine: Any) -> None:
    fake_engine.answers["/version"] = (200, "220 mail.example ready")
    found = check("docker engine")
    assert found.status == "off"
    assert fake_engine.host in found.value


def test_without_an_image_nothing_is_started_and_the_command_that_makes_one_is_named(fake_engine: Any) -> None:
    found = check("sandbox image")
    assert (found.status, found.do) == ("off", "rlvr sandbox build makes it now")
    assert [one.name for one in examine()][-1] == "sandbox image"


@pytest.mark.parametrize("address", ["unix:///no/such.sock", "tcp://127.0.0.1:9"])
def test_a_docker_engine_that_cannot_be_reached_is_no_failure(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    assert check("docker engine").status == "off"
