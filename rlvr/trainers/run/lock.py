"""One trainer at a time in a run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rlvr.errors import CheckpointError, ConfigError, boundary

LOCK = ".lock"
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # a file system without locks: better unlocked than not at all


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other trainers out of a run folder, which is made where it is missing.

    The kernel holds the lock for this process and gives it up when the process ends, however that is: it cannot be left behind.

    Raises:
        ConfigError: another trainer is in there; names its process.
        CheckpointError: the folder cannot be written.
    """
    with boundary(CheckpointError, f"run folder {folder} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is being trained by {_holder(file)}; wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise CheckpointError(f"{folder / LOCK} cannot be locked: {error.strerror}") from error
        with boundary(CheckpointError, f"{folder / LOCK} cannot be written"):
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
            file.flush()
        yield


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it is just writing its name
        return "another process"
