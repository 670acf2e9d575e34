from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.cli.doctor import Check, examine, requirements
from rlvr.cli.main import main


def check(name: str) -> Check:
    return next(found for found in examine() if found.name.startswith(name))


@pytest.fixture
def docker_socket(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """An address where something answers one request with the bytes in the list."""
    answer: list[bytes] = []
    address = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(address))
        server.listen(1)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{address}", answer
        thread.join(timeout=5)


def test_doctor_is_content_where_the_tests_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert {"python", "torch [train]", "threads", "OMP_WAIT_POLICY", "memory", "disk", "docker engine", "RLVR_DATA"} <= {
        one["name"] for one in found["checks"]
    }


def test_doctor_prints_a_line_for_each_check_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_docker_engine_is_recognised_by_its_answer(
    docker_socket: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answer = docker_socket
    answer.append(b"HTTP/1.0 200 OK\r\nServer: Docker/28.0 (linux)\r\n\r\nOK")
    monkeypatch.setenv("DOCKER_HOST", address)
    assert check("docker engine") == Check("docker engine", "ok", f"Docker/28.0 (linux) at {address}")


def test_something_else_at_the_dockers_address_is_not_taken_for_it(
    docker_socket: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answer = docker_socket
    answer.append(b"220 mail.example ready\r\n")
    monkeypatch.setenv("DOCKER_HOST", address)
    found = check("docker engine")
    assert found.status == "off"
    assert "unexpected answer ['220 mail.example ready']" in found.value


@pytest.mark.parametrize("address", ["unix:///no/such.sock", "tcp://127.0.0.1:9", "ssh://host"])
def test_a_docker_engine_that_cannot_be_reached_is_no_failure(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    assert check("docker engine").status == "off"
