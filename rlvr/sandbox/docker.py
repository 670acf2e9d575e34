"""Boxes that are hardened Docker containers, on this machine's engine or another host's."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import SandboxError
from rlvr.sandbox.backend import interpreter_environment
from rlvr.sandbox.channel import Channel, SocketChannel
from rlvr.sandbox.docker_stream import ExecChannel
from rlvr.sandbox.engine import connect_engine, engine_address, engine_error
from rlvr.sandbox.folders import new_box_folder
from rlvr.sandbox.image import Layer
from rlvr.sandbox.image_build import ensure_image
from rlvr.sandbox.jobs import Flavor
from rlvr.sandbox.leftovers import remove_leftovers
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, LABEL_POOL, LABEL_USERS, this_owner

if TYPE_CHECKING:
    from docker import DockerClient

SOCKETS = "/sock"
FIRST_USER, LAST_USER, USERS_PER_SLOT = 20_000, 60_000, 3
READY_S = 30.0
# Without a limit on their number, millions of empty files would take longer to remove than anybody waits.
SHARED_FILES = "size=16m,nr_inodes=8k,nosuid,nodev,mode=1777"
SLOT_FILES = "size={mb}m,nr_inodes=8k,nosuid,nodev,mode=0770,uid=0,gid={user}"
# The forks of a warm interpreter are a third cheaper with plain malloc on huge pages (fewer page faults).


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one container may use of its host. `cpus` None: as many as it has slots."""

    memory_mb_per_slot: int = 1536
    files_mb_per_slot: int = 64
    processes_per_slot: int = 64
    cpus: float | None = None


class DockerBackend:
    """Starts containers on one engine (`host` as in DOCKER_HOST; None: the environment's).

    The slots are reached through unix sockets in a folder that is shared with the container where the engine runs on this
    machine, else through an attached `exec` for each slot; `transport` ("socket", "exec") settles it by hand. `runtime` is the
    engine's name of another container runtime, e.g. "runsc" for gVisor. `has_namespaces` gives every execution process ids,
    IPC and mounts of its own, for which the container (never a submission) keeps CAP_SYS_ADMIN.

    Raises:
        SandboxError: no engine answers, it is too old, or the image cannot be made.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        pool: str | None = None,
        hardware: Hardware | None = None,
        transport: str = "auto",
        runtime: str | None = None,
        has_namespaces: bool = False,
    ) -> None:
        self._client = connect_engine(host)
        self._host = engine_address(host)
        self.name = f"docker {self._host}"
        self._pool = pool or secrets.token_hex(4)
        self._hardware = hardware or Hardware()
        self._runtime = runtime
        self._has_namespaces = has_namespaces
        self._has_sockets = self._host.startswith("unix://") if transport == "auto" else transport == "socket"
        self._image = ensure_image(self._client)
        remove_leftovers(self._client)

    def start(self, slots: int, flavor: Flavor, *, is_for_sessions: bool = False) -> DockerBox:
        purpose = "sessions" if is_for_sessions else flavor
        users = free_users(self._client, USERS_PER_SLOT * slots)
        folder = new_box_folder() if self._has_sockets else None
        preload: Flavor = flavor if self._image.has([Layer.SCIENCE]) else "standard"
        options = ("--uid", str(users.start), "--preload", preload, *(["--namespaces"] if self._has_namespaces else []))
        with engine_error("starting a sandbox container"):
            try:
                environment = interpreter_environment(preload)
                settings = self._settings(slots, users, folder, purpose, options)
                container = self._client.containers.create(**settings, environment=environment)
                box = DockerBox(container, slots, self._image.digest, folder, options, environment)
            except BaseException:
                if folder is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            with stopped_on_error(box):
                container.start()
                box.wait_until_ready(READY_S)
        return box

    def close(self) -> None:
        self._client.close()

    def _settings(self, slots: int, users: range, folder: Path | None, purpose: str, options: Sequence[str]) -> Mapping[str, Any]:
        size = self._hardware
        mounts = {f"/box/{slot}": self._slot_files(users, slot) for slot in range(slots)} | {"/dev/shm": SHARED_FILES}
        memory = (size.memory_mb_per_slot * slots + 512) << 20
        # Without a folder to listen in, the container only waits; every slot is an attached exec of its own.
        command = ["--listen", SOCKETS, "--slots", str(slots), *options] if folder is not None else ["--wait"]
        return {
            "image": self._image.tag,
            "command": runner_command(*command),
            "name": f"rlvr-sandbox-{self._pool}-{secrets.token_hex(4)}",
            "labels": {
                LABEL: "1",
                LABEL_OWNER: this_owner(),
                LABEL_POOL: self._pool,
                LABEL_USERS: f"{users.start}-{users.stop}",
                f"{LABEL}.slots": str(slots),
                f"{LABEL}.purpose": purpose,
            },
            "user": f"0:{os.getgid()}",  # the socket's group: that is how this process may connect
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "cap_add": ["SETUID", "SETGID", "KILL", *(["SYS_ADMIN"] if self._has_namespaces else [])],
            "security_opt": ["no-new-privileges"],
            "mem_limit": memory,
            "memswap_limit": memory,
            "pids_limit": size.processes_per_slot * slots + 32,
            "nano_cpus": int((size.cpus or min(slots, os.cpu_count() or slots)) * 1e9),
            "ipc_mode": "private",
            "tmpfs": mounts,
            "volumes": {str(folder): {"bind": SOCKETS, "mode": "rw"}} if folder is not None else {},
            "log_config": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "init": False,
            "runtime": self._runtime,
        }

    def _slot_files(self, users: range, slot: int) -> str:
        return SLOT_FILES.format(mb=self._hardware.files_mb_per_slot, user=users.start + USERS_PER_SLOT * slot)


class DockerBox:
    """One container. Its lifeline is a connection: when this process ends, however it ends, the container ends itself."""

    def __init__(
        self,
        container: Any,
        slots: int,
        image: str,
        folder: Path | None,
        options: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.name: str = container.name
        self.slots = slots
        self.image = image
        self._container = container
        self._folder = folder
        self._options = tuple(options)
        self._environment = environment
        self._lifeline: socket.socket | None = None

    def wait_until_ready(self, timeout_s: float) -> None:
        """Raises SandboxError with the container's own words where it does not come up."""
        deadline = time.monotonic() + timeout_s
        while self._folder is not None and self._lifeline is None:
            lifeline = socket.socket(socket.AF_UNIX)
            try:
                lifeline.connect(str(self._folder / "life"))
                self._lifeline = lifeline
            except OSError as error:
                lifeline.close()
                if time.monotonic() > deadline or not self.is_alive():
                    raise SandboxError(
                        f"the sandbox container {self.name} did not come up: {self._last_words() or error}"
                    ) from error
                time.sleep(0.005)

    def connect(self, slot: int) -> Channel:
        if self._folder is not None:
            return SocketChannel.connect(str(self._folder / str(slot)))
        return ExecChannel(self._container, runner_command("--stdio", str(slot), *self._options), self._environment)

    def is_alive(self) -> bool:
        try:
            with engine_error("asking for a sandbox container"):
                self._container.reload()
        except SandboxError:
            return False
        return bool(self._container.status in ("created", "running"))

    def stop(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
        try:
            with engine_error("removing a sandbox container"):
                self._container.remove(force=True)
        except SandboxError:
            pass  # it ends itself without its lifeline, and `prune` removes what is left of it
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _last_words(self) -> str:
        try:
            with engine_error("reading a sandbox container's log"):
                return bytes(self._container.logs(tail=20)).decode(errors="replace").strip()[-1000:]
        except SandboxError:
            return ""


def runner_command(*arguments: str) -> list[str]:
    """How the runner is started inside."""
    return ["python3", "-s", "-P", "-X", "utf8", "/opt/rlvr/runner", *arguments]


@contextmanager
def stopped_on_error(box: DockerBox) -> Iterator[None]:
    try:
        yield
    except BaseException:
        box.stop()
        raise


def free_users(client: DockerClient, count: int) -> range:
    """User ids that no other sandbox container of this engine has: the limit on processes counts a user over the whole host."""
    with engine_error("listing sandbox containers"):
        labels = [container.labels.get(LABEL_USERS, "") for container in client.containers.list(filters={"label": LABEL})]
    taken = [range(*map(int, label.split("-"))) for label in labels if label.count("-") == 1]
    for _ in range(1000):
        start = FIRST_USER + secrets.randbelow(LAST_USER - FIRST_USER - count)
        if not any(start < other.stop and other.start < start + count for other in taken):
            return range(start, start + count)
    raise SandboxError(f"no {count} free user ids between {FIRST_USER} and {LAST_USER}: run `rlvr sandbox prune`")
