"""A Docker engine: how it is reached, what it can do, and in words why it cannot be used."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import SandboxError
from rlvr.sandbox.sources import sandbox_folder

if TYPE_CHECKING:
    from docker import DockerClient

DEFAULT_HOST = "unix:///var/run/docker.sock"
# Where Docker Desktop and rootless engines listen, tried when there is no DOCKER_HOST and no engine at the usual place.
_OTHER_SOCKETS = ("~/.docker/run/docker.sock", "$XDG_RUNTIME_DIR/docker.sock")
OLDEST_API = (1, 41)  # Docker Engine 20.10
TIMEOUT_S = 60.0
MAX_CONNECTIONS = 32
UNREACHABLE = (PermissionError, FileNotFoundError, ConnectionRefusedError)


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

    def client(api: str) -> DockerClient:
        return docker.from_env(
            environment={**os.environ, "DOCKER_HOST": address},
            version=api,
            timeout=timeout_s,
            max_pool_size=MAX_CONNECTIONS,
            use_ssh_client=address.startswith("ssh://"),
        )

    with engine_error(f"connecting to the Docker engine at {address}"):
        _knock(address)
        # Asked without a version, every engine says which it speaks; left to docker-py, a failure here leaks a connection.
        with closing(client(".".join(map(str, OLDEST_API)))) as probe:
            version = probe.api.version(api_version=False)
        require_new_enough(version, address)
        return client(version["ApiVersion"])


def _knock(address: str) -> None:
    """Find out that nobody answers before docker-py does, which would leak its socket."""
    if not address.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.settimeout(5.0)
        try:
            knocking.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise SandboxError(f"no Docker engine at {address}: {_unreachable(error)}") from error


def require_new_enough(version: Any, address: str) -> None:
    """
    Raises:
        SandboxError: the engine is older than 20.10, or it is no Docker engine.
    """
    if not isinstance(version, dict) or not re.fullmatch(r"\d+\.\d+", str(version.get("ApiVersion", ""))):
        raise SandboxError(f"what answers at {address} is no Docker engine: {str(version)[:80]!r}; set DOCKER_HOST to one")
    api = str(version["ApiVersion"])
    if tuple(map(int, api.split("."))) < OLDEST_API:
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
    # What the connection raised; a file that this process may not open is another matter.
    refused = (part for part in chain if part is not error and isinstance(part, UNREACHABLE))
    if (cause := next(refused, None)) is not None:
        return _unreachable(cause)
    if "no space left on device" in text.lower() or any(
        isinstance(part, OSError) and part.errno in (errno.ENOSPC, errno.EDQUOT) for part in chain
    ):
        return "the disk is full: free some (`rlvr sandbox prune`, `docker system df`), or move the engine's data or TMPDIR"
    if any(isinstance(part, TimeoutError) or "timed out" in str(part).lower() for part in chain):
        return "the engine did not answer in time: it is overloaded or hangs; look at its log, or restart it"
    if "api version" in text.lower() and "too old" in text.lower():
        return f"the engine and docker-py speak different versions: pip install -U 'rlvr[docker]' ({str(error)[:200]})"
    if "paramiko" in text:
        return "an engine that is reached over ssh needs paramiko: pip install 'docker[ssh]'"
    # A container that failed: its own last words, not the command that it was given.
    words = getattr(error, "stderr", None) or getattr(error, "explanation", None) or error
    said = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    return f"{type(error).__name__}: {' '.join(said.split())[-400:]}"


def _unreachable(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "this user may not use its socket: add the user to the group 'docker' and log in again, or set DOCKER_HOST"
    if isinstance(error, FileNotFoundError):
        starter = sandbox_folder() / "start_engine.sh"
        return f"there is no such socket: start Docker (as root: {starter} start FOLDER), or set DOCKER_HOST"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there: start the Docker engine, or set DOCKER_HOST to one that runs"
    return str(error)


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
