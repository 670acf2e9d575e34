"""Tests against a real container engine: skipped where none answers, failed instead where RLVR_REQUIRE_DOCKER is set."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.pool import SandboxPool


@pytest.fixture(scope="session")
def docker_host() -> str:
    """The engine's address, as in DOCKER_HOST."""
    try:
        connect_engine(timeout_s=10).close()
    except SandboxError as error:
        if os.environ.get("RLVR_REQUIRE_DOCKER") == "1":
            pytest.fail(f"RLVR_REQUIRE_DOCKER is set, but: {error}", pytrace=False)
        pytest.skip(str(error))
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture(scope="session")
def sandbox(docker_host: str) -> Iterator[SandboxPool]:
    """One pool for all the tests of this process."""
    with SandboxPool([DockerBackend(docker_host)], slots=4, sessions=16) as pool:
        yield pool
