"""Whose name a slot's processes have, and how to end all of them and remove all of their files.

`Separate` users (a container with the right to change users) are what keeps a submission from its server and its checker.
A `Single` user is what is left without that right: the processes then hide their memory from each other instead (they are
not dumpable, so no other process of the user may look into them), but a submission can end its own server.
"""

import array
import ctypes
import errno
import os
import signal
import time

from . import confine
from .wire import keep

NOBODY = 65533
MAX_ROUNDS = 500

_libc = ctypes.CDLL(None, use_errno=True)
_wait4 = _libc.wait4
_status, _usage = array.array("i", [0]), array.array("l", [0] * 32)  # struct rusage: two pairs of longs, the peak, and more
_status_at, _usage_at = (ctypes.c_void_p(values.buffer_info()[0]) for values in (_status, _usage))


class UnkillableError(Exception):
    """Processes or files of a slot do not go away."""


class Separate:
    """Three users of its own for every slot: submission, checker, and an outsider that neither can signal."""

    def __init__(self, first_user):
        self.submission, self.checker, self.outsider = first_user, first_user + 1, first_user + 2
        self.ids = (self.submission, self.checker)

    def prepare(self, folder):
        """At the start of a slot's server."""
        os.setgroups([])
        if os.path.isdir(folder) and os.stat(folder).st_gid == self.submission:
            return
        # Owners we may not change, but the group of our own folder: to one that we are in.
        try:
            os.setresgid(-1, self.submission, -1)
            os.makedirs(folder, 0o770, exist_ok=True)
            os.chown(folder, -1, self.submission)
            os.chmod(folder, 0o770)
        finally:
            os.setresgid(-1, 0, -1)

    def become_submission(self, bounds):
        _change_user(self.submission)
        confine.limit_processes(bounds)
        confine.show_memory()  # changing the user hid it; without it /dev/stdin cannot be opened

    def become_checker(self, bounds):
        _change_user(self.checker)
        confine.limit_processes(bounds)

    def kill(self):
        """End every process of the submission and the checker in this process-id namespace.

        A helper does it whose effective user is the victims' (so that `kill(-1)` reaches exactly them), while its real and
        saved users are the outsider's (so that they cannot signal it back): code that spins on kill or fork cannot win.
        """
        for user in self.ids:
            pid = os.fork()
            if pid == 0:
                try:
                    os.setresgid(NOBODY, NOBODY, NOBODY)
                    os.setresuid(self.outsider, user, self.outsider)
                    os.kill(-1, 9)
                except OSError:
                    pass
                finally:
                    os._exit(0)
            reap(pid)

    def wait_until_gone(self):
        """Wait for processes that are not our children: those of a server that died."""
        for round_ in range(MAX_ROUNDS):
            if not any(os_user in self.ids for os_user in _users_of_processes()):
                return
            if round_ % 20 == 0:
                self.kill()
            time.sleep(0.005)
        raise UnkillableError("processes of an earlier submission do not die")

    def has_files(self, folder, *, is_own):
        """Whether anything lies in `folder` (`is_own`: all of it is the slot's; else what belongs to its users)."""
        try:
            with os.scandir(folder) as entries:
                return any(is_own or entry.stat(follow_symlinks=False).st_uid in self.ids for entry in entries)
        except FileNotFoundError:
            return False

    def wipe(self, folder):
        for user in self.ids:
            pid = os.fork()
            if pid == 0:
                try:
                    _change_user(user)
                    wipe(folder)
                except OSError:
                    pass
                finally:
                    os._exit(0)
            reap(pid)


class Single:
    """One user for everything. `is_alone`: nothing but this slot runs in its process-id namespace."""

    def __init__(self, *, is_alone):
        self.is_alone = is_alone
        self.submission = self.checker = os.getuid()

    def prepare(self, folder):
        confine.hide_memory()
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def become_submission(self, bounds):
        if self.is_alone:  # elsewhere the limit would count all the other processes of this user
            confine.limit_processes(bounds)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        confine.show_memory()

    def become_checker(self, bounds):
        """Its memory stays hidden, as the server's is."""
        if not self.is_alone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def kill(self):
        if self.is_alone:
            try:
                os.kill(-1, 9)
            except ProcessLookupError:
                pass
            return
        for pid in _children():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass

    def wait_until_gone(self):
        if self.is_alone:
            self.kill()

    def has_files(self, folder, *, is_own):
        if not is_own and not self.is_alone:  # a shared folder of a user who has other programs
            return False
        try:
            with os.scandir(folder) as entries:
                return any(True for _ in entries)
        except FileNotFoundError:
            return False

    def wipe(self, folder):
        back = os.open(".", os.O_RDONLY)
        try:
            wipe(folder)
        finally:
            os.fchdir(back)
            os.close(back)


def wait_for(pid):
    """Reap this child: (wait status, CPU seconds, largest resident size in KiB).

    os.wait4 does the same, but imports a module and makes nineteen objects to say so.
    """
    while _wait4(pid, _status_at, 0, _usage_at) < 0:
        if ctypes.get_errno() != errno.EINTR:
            raise ChildProcessError(ctypes.get_errno(), f"cannot wait for process {pid}")
    user_s, user_us, system_s, system_us, largest = _usage[:5]
    return _status[0], user_s + system_s + (user_us + system_us) * 1e-6, largest


def list_of_children():
    """The kernel's list of this thread's children, to be read again and again; None without CONFIG_PROC_CHILDREN."""
    try:
        return keep(os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return None


def reap_all(users, listing):
    """Reap every child of this process, and kill those that still run. Returns how many were left over.

    `listing` is that of `list_of_children`. Its first entry is read under the kernel's lock, so that an empty one is proof.
    """
    left = 0
    while listing is None or os.pread(listing, 1, 0):
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return left
        left += 1
        if pid == 0:
            users.kill()
            if left > 20:
                time.sleep(0.001)
        if left > MAX_ROUNDS + 10_000:
            raise UnkillableError("processes of a submission do not die")
    return left


def reap(pid):
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def wipe(folder):
    """Remove all files of this process's user, when none of the slot's processes is left.

    Sub-folders are hoisted to the top, so that neither depth, nor the length of a path, nor mode 0 can stop it; under names
    that nobody could foresee, so that nothing can be in the way.
    """
    me = os.getuid()
    os.chdir(folder)
    prefix, serial = f".wipe-{os.urandom(12).hex()}", 0
    while True:
        with os.scandir(".") as entries:
            mine = [entry for entry in entries if entry.stat(follow_symlinks=False).st_uid == me]
        if not mine:
            return
        for entry in mine:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name)
                continue
            os.chmod(entry.name, 0o700)
            with os.scandir(entry.name) as inside:
                inner = list(inside)
            for child in inner:
                if child.is_dir(follow_symlinks=False):
                    serial += 1
                    os.chmod(child.path, 0o700)
                    os.rename(child.path, f"{prefix}-{serial}")
                else:
                    os.unlink(child.path)
            os.rmdir(entry.name)


def _change_user(user):
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _users_of_processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield os.stat(f"/proc/{name}").st_uid
            except OSError:
                continue


def _children():
    with open("/proc/thread-self/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]
