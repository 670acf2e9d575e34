"""`rlvr sandbox test` and `rlvr doctor` against a real engine."""

from __future__ import annotations

import json

import pytest

from rlvr.cli.doctor import examine
from rlvr.cli.main import main


def test_every_attempt_to_break_out_is_stopped(docker_host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "test", "--kind", "docker", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert len(found["escapes"]) >= 14


def test_doctor_finds_the_engine_the_image_and_a_sandbox_that_holds(docker_host: str) -> None:
    from rlvr.sandbox.engine import connect_engine
    from rlvr.sandbox.image_build import ensure_image

    client = connect_engine(docker_host)
    ensure_image(client)
    client.close()
    checks = {check.name: check for check in examine()}
    assert checks["docker engine"].status == "ok"
    assert checks["sandbox image"].status == "ok"
    assert checks["sandbox self-test"].status == "ok", checks["sandbox self-test"].value
