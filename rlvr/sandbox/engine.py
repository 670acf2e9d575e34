"""A Docker engine: how it is reached, what it can do, and in words why it cannot be used."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import SandboxError

if TYPE_CHECKING:
    from docker import DockerClient

DEFAULT_HOST = "unix:///var/run/docker.sock"
# Where Docker Desktop and rootless engines listen, tried when there is no DOCKER_HOST and no engine at the usual place.
_OTHER_SOCKETS = ("~/.docker/run/docker.sock", "$XDG_RUNTIME_DIR/docker.sock")
OLDEST_API = (1, 41)  # Docker Engine 20.10
TIMEOUT_S = 60.0
MAX_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says of itself. `lacks` names the protections that it cannot give."""

    host: str
    version: str
    api: str
    architecture: str  # as `uname -m` says it
    cgroup_version: str
    storage: str
    root_folder: str
    is_rootless: bool
    lacks: tuple[str, ...]


def engine_addresses() -> tuple[str, ...]:
    """Where the engines are: DOCKER_HOST (several separated by commas), else the first usual socket that exists."""
    named = tuple(host.strip() for host in os.environ.get("DOCKER_HOST", "").split(",") if host.strip())
    return named or (engine_address(),)


def engine_address(host: str | None = None) -> str:
    """Where the engine `host` is; None: the first of `engine_addresses()`."""
    named = host or os.environ.get("DOCKER_HOST", "").partition(",")[0].strip()
    if named:
        return named
    candidates = [DEFAULT_HOST, *(f"unix://{os.path.expanduser(os.path.expandvars(path))}" for path in _OTHER_SOCKETS)]
    return next((place for place in candidates if Path(place.removeprefix("unix://")).exists()), DEFAULT_HOST)


def connect_engine(host: str | None = None, *, timeout_s: float = TIMEOUT_S) -> DockerClient:
    """A client of the engine at `host` (as in DOCKER_HOST); None: the one that the environment names.

    Raises:
        SandboxError: docker-py is not installed, no engine answers, this user may not use it, or it is older than 20.10.
    """
    docker = _docker()
    address = engine_address(host)
    with engine_error(f"connecting to the Docker engine at {address}"):
        client: DockerClient = docker.from_env(
            environment={**os.environ, "DOCKER_HOST": address},
            timeout=timeout_s,
            max_pool_size=MAX_CONNECTIONS,
            use_ssh_client=address.startswith("ssh://"),
        )
        try:
            version = client.version()
            require_new_enough(version, address)
        except BaseException:
            client.close()
            raise
    return client


def require_new_enough(version: dict[str, Any], address: str) -> None:
    """
    Raises:
        SandboxError: the engine is older than 20.10.
    """
    api = str(version.get("ApiVersion", "0"))
    if tuple(int(part) for part in api.split(".") if part.isdigit()) < OLDEST_API:
        raise SandboxError(
            f"the Docker engine at {address} is version {version.get('Version', '?')} (API {api}), "
            "but the sandbox needs 20.10 (API 1.41) or newer: upgrade it, or set DOCKER_HOST to another engine"
        )


def describe_engine(client: DockerClient, host: str | None = None) -> Engine:
    """
    Raises:
        SandboxError: the engine does not answer.
    """
    with engine_error("asking the Docker engine what it is"):
        version, info = client.version(), client.info()
    limits = {"memory": "MemoryLimit", "processes": "PidsLimit", "CPU": "CpuCfsQuota"}
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    return Engine(
        host=engine_address(host),
        version=str(version.get("Version", "?")),
        api=str(version.get("ApiVersion", "?")),
        architecture=str(info.get("Architecture", "?")),
        cgroup_version=str(info.get("CgroupVersion", "?")),
        storage=str(info.get("Driver", "?")),
        root_folder=str(info.get("DockerRootDir", "?")),
        is_rootless=any("rootless" in option for option in security),
        lacks=(
            *(f"{name} limits" for name, key in limits.items() if info.get(key) is False),
            *(() if any("seccomp" in option for option in security) else ("seccomp",)),
        ),
    )


def _docker() -> Any:
    try:
        import docker
    except ModuleNotFoundError as error:
        raise SandboxError("the Docker sandbox needs docker-py: pip install 'rlvr[docker]'") from error
    return docker


@contextmanager
def engine_error(doing: str) -> Iterator[None]:
    """Turn what docker-py and its connection raise inside the block into a SandboxError that says what to do."""
    _docker()
    from docker.errors import DockerException
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (DockerException, RequestException, HTTPError, OSError) as error:
        raise SandboxError(f"{doing}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """An engine's failure in one line: what is wrong, and what to do."""
    chain = list(_chain(error))
    text = " ".join(" ".join(str(part) for part in chain).split())
    if any(isinstance(part, PermissionError) for part in chain):
        return "this user may not use its socket: add the user to the group 'docker' and log in again, or set DOCKER_HOST"
    if any(isinstance(part, FileNotFoundError) for part in chain) and "Error while fetching server API version" in text:
        return "there is no engine (no such socket): start Docker (sandbox/start_engine.sh does it for root), or set DOCKER_HOST"
    if any(isinstance(part, ConnectionRefusedError) for part in chain):
        return "nobody listens there: start the Docker engine, or set DOCKER_HOST to one that runs"
    if "no space left on device" in text.lower() or any(
        isinstance(part, OSError) and part.errno in (errno.ENOSPC, errno.EDQUOT) for part in chain
    ):
        return "the disk is full: free some (`rlvr sandbox prune`, `docker system df`), or move the engine's data or TMPDIR"
    if any(isinstance(part, TimeoutError) or "timed out" in str(part).lower() for part in chain):
        return "the engine did not answer in time: it is overloaded or hangs; look at its log, or restart it"
    if "api version" in text.lower() and "too old" in text.lower():
        return f"the engine and docker-py speak different versions: pip install -U 'rlvr[docker]' ({str(error)[:200]})"
    # A container that failed: its own last words, not the command that it was given.
    words = getattr(error, "stderr", None) or getattr(error, "explanation", None) or error
    said = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    return f"{type(error).__name__}: {' '.join(said.split())[-400:]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and errors that it carries as arguments (as requests and urllib3 do)."""
    pending, seen = [error], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        carried = [part for argument in current.args for part in (argument if isinstance(argument, tuple) else (argument,))]
        reason = getattr(current, "reason", None)
        related = (current.__cause__, current.__context__, reason, *carried)
        pending += [part for part in related if isinstance(part, BaseException)]
