"""Folders for the sockets of a box, named after the process that they belong to, so that those of crashed runs can be told."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from rlvr.errors import SandboxError
from rlvr.sandbox.owner import owner_is_alive, this_owner

PREFIX = "rlvr-sandbox-"
_NAME = re.compile(rf"{PREFIX}(\d+)-(\w+)-([0-9a-f]{{8}})-\w+")
MAX_CHARS = 95  # the path of a socket has 104 to 108 bytes, and its own name comes on top


def new_box_folder() -> Path:
    """A new folder that only this user may enter. Those that ended processes left behind are removed.

    Raises:
        SandboxError: the folder for temporary files is full, may not be written to, or has too long a path for a socket.
    """
    for folder in stale_box_folders():
        shutil.rmtree(folder, ignore_errors=True)
    pid, started, machine = this_owner().split(":")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{pid}-{started}-{_short(machine)}-"))
    except OSError as error:
        raise SandboxError(f"no folder for a sandbox's sockets can be made: {error}; free some space, or set TMPDIR") from error
    if len(os.fsencode(folder)) > MAX_CHARS:
        folder.rmdir()
        raise SandboxError(f"{folder.parent} is too long a path for sockets; set TMPDIR to one of at most 45 characters")
    return folder


def stale_box_folders() -> list[Path]:
    """Folders of processes of this user, on this machine, that have ended."""
    machine = this_owner().split(":")[2]
    found = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        match = _NAME.fullmatch(folder.name)
        if match is None or match[3] != _short(machine) or owner_is_alive(f"{match[1]}:{match[2]}:{machine}"):
            continue
        try:
            is_ours = folder.lstat().st_uid == os.geteuid() and not folder.is_symlink()
        except FileNotFoundError:  # another process was faster
            continue
        if is_ours:
            found.append(folder)
    return sorted(found)


def _short(machine: str) -> str:
    return hashlib.sha256(machine.encode()).hexdigest()[:8]
