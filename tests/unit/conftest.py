"""Fixtures that several folders of unit tests share."""

from __future__ import annotations

import json
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rlvr import registry

# How long an example takes is the machine's to say.
settings.register_profile(
    "untimed",
    settings.default,
    deadline=None,
    suppress_health_check={*settings.default.suppress_health_check, HealthCheck.too_slow},
)
settings.load_profile("untimed")

ENTRY_POINTS = """
[rlvr.tools]
ruler = other_rlvr:ruler
absent = other_rlvr:absent
broken = other_rlvr_missing:tool

[rlvr.envs]
single_turn = other_rlvr:ruler
"""


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test registers by decorator is forgotten after it."""
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for an installed distribution, "other-rlvr 1.2", with entry points of its own, some broken."""
    site = tmp_path / "site"
    info = site / "other_rlvr-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rlvr\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "other_rlvr.py").write_text("def ruler():\n    return 30\n")
    monkeypatch.syspath_prepend(site)
    registry._entries.cache_clear()
    yield site
    sys.modules.pop("other_rlvr", None)
    registry._entries.cache_clear()


class FakeEngine:
    """Something that speaks a Docker engine's HTTP on a socket: `answers[path]` is a status and what is sent as JSON."""

    def __init__(self, socket_path: Path) -> None:
        self.host = f"unix://{socket_path}"
        self.answers: dict[str, tuple[int, Any]] = {
            "/version": (200, {"Version": "28.0.0", "ApiVersion": "1.48", "MinAPIVersion": "1.24"}),
            "/info": (
                200,
                {
                    "Architecture": "x86_64", "CgroupVersion": "2", "Driver": "overlay2", "DockerRootDir": "/no/such/folder",
                    "MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True, "SecurityOptions": ["name=seccomp"],
                },
            ),
            "/images/json": (200, []),
            "/containers/json": (200, []),
        }  # fmt: skip
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = re.sub(r"^/v[\d.]+", "", self.path.partition("?")[0])
                status, message = answers.get(path, (404, {"message": f"no answer for {path}"}))
                body = message.encode() if isinstance(message, str) else json.dumps(message).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def address_string(self) -> str:
                return "local"

        self.server = socketserver.ThreadingUnixStreamServer(str(socket_path), Handler)
        self.server.daemon_threads = True


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """A fake Docker engine that DOCKER_HOST names."""
    engine = FakeEngine(tmp_path / "docker.sock")
    thread = threading.Thread(target=engine.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    yield engine
    engine.server.shutdown()
    engine.server.server_close()
    thread.join(timeout=5)
