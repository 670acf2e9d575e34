from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.leftovers import Container, list_containers
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, LABEL_POOL, owner_is_alive, this_owner


def one_container(fake_engine: Any, *, owner: str, status: str, age_s: float = 600.0) -> Container:
    created = (datetime.now(UTC) - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
    labels = {LABEL: "1", LABEL_OWNER: owner, LABEL_POOL: "p", f"{LABEL}.slots": "4", f"{LABEL}.purpose": "science"}
    fake_engine.answers["/containers/json"] = (200, [{"Id": "abc"}])
    fake_engine.answers["/containers/abc/json"] = (
        200,
        {
            "Id": "abc", "Name": "/rlvr-sandbox-p-1", "Created": created, "Image": "sha256:1", "Mounts": [],
            "State": {"Status": status}, "Config": {"Labels": labels},
        },
    )  # fmt: skip
    client = connect_engine()
    try:
        (found,) = list_containers(client)
    finally:
        client.close()
    return found


def owner_of_an_ended_process() -> str:
    command = [sys.executable, "-c", "from rlvr.sandbox.owner import this_owner; print(this_owner())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_container_whose_process_runs_is_in_use(fake_engine: Any) -> None:
    found = one_container(fake_engine, owner=this_owner(), status="running")
    assert not found.is_left
    assert (found.slots, found.purpose, found.pool, found.name) == (4, "science", "p", "rlvr-sandbox-p-1")
    assert 590 < found.age_s < 700


def test_a_container_whose_process_ended_is_left_behind(fake_engine: Any) -> None:
    assert one_container(fake_engine, owner=owner_of_an_ended_process(), status="running").is_left


def test_a_process_id_that_was_given_to_another_process_does_not_count_as_alive() -> None:
    pid, started, boot = this_owner().split(":")
    assert owner_is_alive(f"{pid}:{started}:{boot}")
    assert not owner_is_alive(f"{pid}:{int(started) + 1}:{boot}")


def test_another_machines_running_container_is_left_alone(fake_engine: Any) -> None:
    assert not one_container(fake_engine, owner="1:1:another-boot.4026531836", status="running").is_left


def test_a_container_of_another_pid_namespace_is_left_alone(fake_engine: Any) -> None:
    boot, _, namespace = this_owner().split(":")[2].partition(".")
    assert namespace == str(os.stat("/proc/self/ns/pid").st_ino)
    assert not one_container(fake_engine, owner=f"999999999:1:{boot}.1", status="running").is_left


@pytest.mark.parametrize("status", ["exited", "created", "dead"])
@pytest.mark.parametrize("owner", ["1:1:another-boot", ""], ids=["another machine", "nobody"])
def test_what_has_stopped_elsewhere_is_left_behind_after_a_while(fake_engine: Any, owner: str, status: str) -> None:
    assert not one_container(fake_engine, owner=owner, status=status, age_s=1.0).is_left
    assert one_container(fake_engine, owner=owner, status=status, age_s=600.0).is_left


@pytest.mark.parametrize("status", ["exited", "created"])
def test_a_process_that_runs_removes_its_own_containers(fake_engine: Any, status: str) -> None:
    assert not one_container(fake_engine, owner=this_owner(), status=status).is_left
