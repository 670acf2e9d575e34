"""Leave nothing behind: end every process and remove every file of a slot's users."""

import os
import time

NOBODY = 65533
MAX_ROUNDS = 500


class UnkillableError(Exception):
    """Processes of a slot do not go away."""


def kill_users(users, outsider):
    """End every process of `users`, in this process-id namespace.

    A helper does it whose effective user is the victims' (so that `kill(-1)` reaches exactly them), while its real and
    saved users are `outsider` (so that they cannot signal it back): code that spins on kill or fork cannot win.
    """
    for user in users:
        pid = os.fork()
        if pid == 0:
            try:
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(outsider, user, outsider)
                os.kill(-1, 9)
            except OSError:
                pass
            finally:
                os._exit(0)
        _reap(pid)


def reap_all(users, outsider):
    """Reap every child of this process, and kill those that still run. Returns how many were left over."""
    left = 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return left
        left += 1
        if pid == 0:
            kill_users(users, outsider)
            if left > 20:
                time.sleep(0.001)
        if left > MAX_ROUNDS + 10_000:
            raise UnkillableError("processes of a submission do not die")


def wait_until_gone(users, outsider):
    """Wait for processes of `users` that are not our children: those of a server that died."""
    for round_ in range(MAX_ROUNDS):
        if not _running(users):
            return
        if round_ % 20 == 0:
            kill_users(users, outsider)
        time.sleep(0.005)
    raise UnkillableError("processes of an earlier submission do not die")


def _running(users):
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid in users:
                    return True
            except OSError:
                continue
    return False


def has_files(folder, users, *, own):
    """Whether anything lies in `folder` (`own`: all of it is the slot's; else what belongs to `users`)."""
    try:
        with os.scandir(folder) as entries:
            return any(own or entry.stat(follow_symlinks=False).st_uid in users for entry in entries)
    except FileNotFoundError:
        return False


def wipe_as(user, folder):
    """Remove all files of `user` in `folder`, acting as `user`."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            wipe(folder)
        except OSError:
            pass
        finally:
            os._exit(0)
    _reap(pid)


def wipe(folder):
    """Remove all files of this process's user, when none of its processes is left.

    Sub-folders are hoisted to the top, so that neither depth, nor the length of a path, nor mode 0 can stop it.
    """
    me = os.getuid()
    os.chdir(folder)
    serial = 0
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
                    os.rename(child.path, f".wipe-{os.getpid()}-{serial}")
                else:
                    os.unlink(child.path)
            os.rmdir(entry.name)


def _reap(pid):
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
