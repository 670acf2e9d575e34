"""Who started a container: labels that let a later start find what a crashed run left behind."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

LABEL = "org.rlvr.sandbox"
LABEL_OWNER, LABEL_POOL, LABEL_USERS = "org.rlvr.owner", "org.rlvr.pool", "org.rlvr.users"


@cache
def _boot_id() -> str:
    """Of this boot of this machine, as seen from here: containers that share an engine's socket have process ids of their own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return "unknown"


def this_owner() -> str:
    """`pid:start time:boot id` of this process: three things that no later process shares."""
    return f"{os.getpid()}:{_start_time(os.getpid())}:{_boot_id()}"


def owner_is_alive(owner: str) -> bool:
    """Whether the process that an owner label names may still run.

    A label of another machine or another boot, or one that a machine without /proc wrote, counts as alive: it is not ours
    to judge.
    """
    parts = owner.split(":")
    if len(parts) != 3 or not parts[0].isdigit() or "unknown" in parts:
        return True
    pid, started, boot = parts
    return boot != _boot_id() or _start_time(int(pid)) == started


def owner_is_of_this_machine(owner: str) -> bool:
    """Whether an owner label was written on this machine, since this boot: only then can be known whether it runs."""
    return "unknown" not in owner and owner.split(":")[2:] == [_boot_id()]


def _start_time(pid: int) -> str:
    """In clock ticks since boot (proc(5), stat, field 22); "gone" where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone" if Path("/proc/self/stat").exists() else "unknown"
    return stat.rpartition(")")[2].split()[19]
