"""Optional: namespaces of its own for every execution (process ids, IPC, mounts). Needs CAP_SYS_ADMIN in the container.

A submission then sees no process but its own, and its folder and /dev/shm are mounts that vanish with it. The system-call
filter can only come after the mounts, so each child installs it for itself.
"""

import ctypes
import os

_NEW_MOUNTS, _NEW_IPC, _NEW_PIDS = 0x20000, 0x8000000, 0x20000000
_PRIVATE, _RECURSIVE, _NOSUID, _NODEV = 1 << 18, 0x4000, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    def __init__(self, fork, folder, install_filter):
        self._fork = fork
        self._folder = folder
        self._install_filter = install_filter
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def fork(self):
        """Like fork; the child is the first process of a new process-id namespace."""
        _must(_libc.unshare(_NEW_PIDS), "unshare process ids")
        pid = self._fork()
        if pid:
            _must(_libc.setns(self._own, _NEW_PIDS), "go back to the own process-id namespace")
        return pid

    def isolate(self, user):
        """In the child, before it gives up its rights."""
        _must(_libc.unshare(_NEW_IPC | _NEW_MOUNTS), "unshare IPC and mounts")
        _must(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE | _RECURSIVE), None), "make the mounts private")
        for folder in (self._folder, "/dev/shm"):
            options = f"size=64m,nr_inodes=8k,mode=0770,uid=0,gid={user}".encode()  # we may not override an owner
            flags = ctypes.c_ulong(_NOSUID | _NODEV)
            _must(_libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, options), f"mount {folder}")

    def close(self):
        """In the child, when it has given up its rights: the filter."""
        if self._install_filter is not None:
            self._install_filter()


def _must(result, doing):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {doing}: {os.strerror(number)}")
