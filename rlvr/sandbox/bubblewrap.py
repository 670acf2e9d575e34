"""Boxes made by bubblewrap, for machines without a container engine: namespaces, a root file system of its own, no network.

Run by root, a box has the same users as a container. Run by anybody else there is only one user to be had, so every slot is
a box with process ids of its own, and its server and checker hide their memory from the submission. There is no limit on the
memory of a whole box here, only on that of every process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from rlvr.errors import SandboxError
from rlvr.sandbox.backend import interpreter_environment
from rlvr.sandbox.folders import new_box_folder
from rlvr.sandbox.jobs import Flavor
from rlvr.sandbox.local import LocalBox, Part
from rlvr.sandbox.sources import RECIPE, RUNNER, digest_of, sandbox_folder

FIRST_USER, LAST_USER, USERS_PER_SLOT = 20_000, 60_000, 3
STAGING_TIMEOUT_S = 1800.0
FILES_BYTES = 64 << 20
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
}


class BubblewrapBackend:
    """Starts boxes with `bwrap`; `layers` as of the image (`science`, `cpp`).

    `has_users`: whether boxes get users of their own, which only root can give (None: whether this is root).

    Raises:
        SandboxError: bubblewrap is missing or may not make namespaces here, or the root file system cannot be made.
    """

    def __init__(self, layers: tuple[str, ...] = ("science",), *, has_users: bool | None = None) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("bubblewrap is not installed: install the package `bubblewrap`, or Docker")
        self._program = program
        self._has_users = os.geteuid() == 0 if has_users is None else has_users
        self._root = root_file_system(layers)
        self._check()
        self.name = "bubblewrap"
        self._image = f"bubblewrap:{self._root.name}"

    def start(self, slots: int, flavor: Flavor, *, is_for_sessions: bool = False) -> LocalBox:
        folder = new_box_folder()
        if self._has_users:
            first_user = FIRST_USER + secrets.randbelow(LAST_USER - FIRST_USER - USERS_PER_SLOT * slots)
            parts = [self._part(folder / "sock", slots, flavor, "--uid", str(first_user))]
        else:
            parts = [self._part(folder / f"sock{slot}", 1, flavor, "--users", "alone") for slot in range(slots)]
        return LocalBox(folder.name, self._image, folder, parts, ENVIRONMENT | interpreter_environment(flavor))

    def close(self) -> None:
        """Nothing is held."""

    def _part(self, sockets: Path, slots: int, flavor: Flavor, *users: str) -> Part:
        runner = ["python3", "-s", "-P", "-X", "utf8", "/opt/rlvr/runner"]
        options = ["--listen", "/sock", "--slots", str(slots), "--preload", flavor, *users]
        mounts = ["--bind", str(sockets), "/sock"]
        for slot in range(slots):  # of its own, so that no slot can fill another one's
            mounts += ["--perms", "0700", "--size", str(FILES_BYTES), "--tmpfs", f"/box/{slot}"]
        return Part([*self._confined(*mounts), *runner, *options], sockets, slots)

    def _confined(self, *mounts: str) -> list[str]:
        rights = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_KILL"] if self._has_users else []
        return [
            *(
                self._program,
                "--unshare-pid",
                "--unshare-net",
                "--unshare-ipc",
                "--unshare-uts",
                "--unshare-cgroup-try",
                "--as-pid-1",
            ),
            *([] if self._has_users else ["--unshare-user"]),
            *("--cap-drop", "ALL", *rights),
            *("--ro-bind", str(self._root), "/", "--proc", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--size", str(FILES_BYTES), "--tmpfs", "/dev/shm"),
            *("--perms", "0755", "--size", "65536", "--tmpfs", "/box"),
            *(*mounts, "--chdir", "/", "--"),
        ]

    def _check(self) -> None:
        command = [*self._confined(), "python3", "-c", "print(42)"]
        try:
            answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired as error:
            raise SandboxError("bubblewrap did not start a program within 60 s") from error
        if answer.stdout != "42\n":
            cause = " ".join(answer.stderr.split())[-300:]
            raise SandboxError(
                f"bubblewrap cannot make a sandbox here: {cause}; allow unprivileged user namespaces, "
                "run it as root, or use Docker"
            )


def root_file_system(layers: tuple[str, ...]) -> Path:
    """The folder with the root file system of this rlvr; made now if there is none. Two processes do not make it twice.

    Raises:
        SandboxError: it cannot be made.
    """
    key = hashlib.sha256(json.dumps([digest_of(RUNNER), digest_of(RECIPE), sorted(layers), sys.version]).encode()).hexdigest()[
        :16
    ]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlvr" / "sandbox"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / key
    with open(cache / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            made = cache / f"{key}.making"
            shutil.rmtree(made, ignore_errors=True)
            _stage(made, layers)
            shutil.copytree(sandbox_folder() / "runner", made / "opt/rlvr/runner", ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("sock", "box", "proc", "dev"):
                (made / name).mkdir(exist_ok=True)
            made.rename(folder)
    return folder


def _stage(folder: Path, layers: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "rootfs", "--layers", ",".join(sorted(layers)), "--folder", str(folder)]
    try:
        answer = subprocess.run(
            command, cwd=sandbox_folder(), capture_output=True, text=True, check=False, timeout=STAGING_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"putting the root file system together took more than {STAGING_TIMEOUT_S:.0f} s") from error
    if answer.returncode != 0:
        raise SandboxError(f"the root file system cannot be made: {' '.join(answer.stderr.split())[-600:]}")
