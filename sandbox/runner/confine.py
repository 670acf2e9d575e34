"""What makes a forked child a submission: its own user, session, limits and descriptors, and no way back."""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_MAX_FD = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_raw_fork = ctypes.PyDLL(None).fork


class Bounds:
    """The limits of one execution, as the kernel counts them. Read once from a request's header."""

    __slots__ = ("call_s", "cpu_s", "file_bytes", "kept_bytes", "memory_bytes", "processes", "wall_s")

    def __init__(self, header):
        self.wall_s = min(float(header.get("wall_s", 10.0)), 600.0)
        self.cpu_s = max(1, min(int(-(-float(header.get("cpu_s", 10.0)) // 1)), 600))  # whole seconds, rounded up
        self.call_s = header.get("call_s")
        self.memory_bytes = int(header.get("memory_mb", 1024)) << 20
        self.processes = int(header.get("processes", 32))
        self.file_bytes = int(header.get("file_mb", 16)) << 20
        self.kept_bytes = int(header.get("output_bytes", 65536))


def raw_fork():
    """fork() without Python's at-fork hooks, which nobody here needs: half the price. For processes of one thread."""
    return _raw_fork()


def raw_fork_works():
    """Whether a child made by `raw_fork` can start threads, import and exit. Asked once, when the container starts."""
    pid = _raw_fork()
    if pid == 0:
        try:
            import threading

            ran = []
            thread = threading.Thread(target=lambda: ran.append(1))
            thread.start()
            thread.join(5)
            import plistlib  # noqa: F401

            os._exit(0 if ran else 1)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return status == 0


def confine_server():
    """Limits and marks that every child inherits, so that they cost nothing per execution."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans come to the slot's server
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_STACK, 64 << 20),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _lower(what, value)


def close_doors():
    """No terminals, whose number the whole host shares, and no message queues, which outlive who makes them."""
    for path in ("/dev/pts/ptmx", "/dev/mqueue"):
        try:
            os.chmod(path, 0)
        except OSError:  # not there, or not ours to close
            pass


def forbid_new_privileges():
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def detach(bounds, descriptors, folder):
    """Give a fresh child its own session, limits and folder; `descriptors[n]` becomes its number n, every other one is closed."""
    os.setsid()
    # Out of memory takes a submission before a server. It may lower this to the server's own score again, not below: then the
    # largest process goes first, which no server is.
    set_oom_score(1000)
    for number, fd in enumerate(descriptors):
        os.dup2(fd, number)
    os.closerange(len(descriptors), _MAX_FD)
    _limit(resource.RLIMIT_CPU, bounds.cpu_s, bounds.cpu_s + 1)
    _limit(resource.RLIMIT_AS, bounds.memory_bytes, bounds.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, bounds.file_bytes, bounds.file_bytes)
    os.chdir(folder)
    os.umask(0o077)


def limit_processes(bounds):
    """After the user has changed: the limit counts the processes of a user."""
    _limit(resource.RLIMIT_NPROC, bounds.processes, bounds.processes)


def die_with_parent():
    """A server without its supervisor is of no use to anybody."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def hide_memory():
    """No other process, of whatever user but root, may look into this one (/proc/PID/mem, fd, environ)."""
    _prctl(_PR_SET_DUMPABLE, 0)


def show_memory():
    _prctl(_PR_SET_DUMPABLE, 1)


def set_oom_score(score):
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:  # no /proc, or a process that hides its memory: then nothing chooses between us
        return
    try:
        os.write(fd, b"%d" % score)
    except PermissionError:  # a lower score than the one inherited needs a capability
        pass
    finally:
        os.close(fd)


def _limit(what, soft, hard):
    try:
        resource.setrlimit(what, (soft, hard))
    except ValueError:  # the container's own limit is lower, and stays
        _lower(what, soft)


def _lower(what, value):
    _, hard = resource.getrlimit(what)
    lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (lowest, lowest))


def _prctl(option, value):
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def environment(folder):
    """What submissions find in their environment."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHON": sys.executable,
    }
