"""Attacks on the machine: on the server, on what runs next, and on secrets that lie elsewhere."""

from __future__ import annotations

from tests.docker.attacks.model import Machine, Naive, named
from tests.docker.attacks.tasks import text

# 0: it lives in another process-id namespace, and as an argument would mean the caller itself.
PARENT = "import os, signal\nparent = os.getppid()\nif not parent:\n    raise SystemExit\n"


def _on_server(code: str, witness: str = "", *, is_deadly: bool = False) -> Machine:
    return Machine("", "", text(code), text(witness), is_deadly=is_deadly)


def _for_secret(code: str) -> Machine:
    return Machine("", "", text(code), fools=(Naive.SECRET,))


def _call(code: str) -> Machine:
    """A system call that is of use against others; `FOOLED` when it works on a process of one's own."""
    return _on_server("import ctypes, os, signal, time\nlibc = ctypes.CDLL(None, use_errno=True)\n" + text(code))


ON_SERVER = named("server", {
    "server killed": _on_server(PARENT + "os.kill(parent, signal.SIGKILL)"),
    "server stopped": _on_server(PARENT + "os.kill(parent, signal.SIGSTOP)"),
    "process group killed": _on_server(PARENT + "signal.signal(15, signal.SIG_IGN)\nos.killpg(os.getpgid(parent), 9)"),
    "everything killed": _on_server("import os\nos.kill(-1, 9)", is_deadly=True),
    "everything stopped": _on_server("""
        import os, signal

        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                if pid != os.getpid():
                    os.kill(pid, signal.SIGSTOP)
            except OSError:
                pass
    """, is_deadly=True),
    "signal by pidfd": _on_server(PARENT + "signal.pidfd_send_signal(os.pidfd_open(parent), 9)"),
    "server's limits lowered": _on_server(PARENT + """
import resource
resource.prlimit(parent, resource.RLIMIT_CPU, (0, 0))
print("FOOLED")
"""),
    "server made the last in line": _on_server(PARENT + """
os.setpriority(os.PRIO_PROCESS, parent, 19)
print("FOOLED")
"""),
    "server's scheduling": _on_server(PARENT + """
os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0))
print("FOOLED")
"""),
    "server put on one processor": _on_server(PARENT + """
os.sched_setaffinity(parent, {min(os.sched_getaffinity(0))})
print("FOOLED")
"""),
    "server first to be killed": _on_server(PARENT + """
with open(f"/proc/{parent}/oom_score_adj", "w") as file:
    file.write("1000")
print("FOOLED")
"""),
    "server's memory map": _on_server(PARENT + """
if open(f"/proc/{parent}/maps").read():
    print("FOOLED")
"""),
    "server's working folder": _on_server(PARENT + """
if os.listdir(f"/proc/{parent}/cwd/"):
    print("FOOLED")
"""),
    "server's result stream": _on_server(PARENT + """
with open(f"/proc/{parent}/fd/1", "w") as file:
    file.write("FOOLED")
"""),
})  # fmt: skip

ON_NEXT = named("next", {
    "file left in the working folder": _on_server("open('left', 'w').write('x')", """
        import os

        if os.path.exists("left"):
            print("FOOLED")
    """),
    "file left in shared memory": _on_server("open('/dev/shm/left', 'w').write('x')", """
        import os

        if os.path.exists("/dev/shm/left"):
            print("FOOLED")
    """),
    "folder left that is in the cleaner's way": _on_server("""
        import os

        for near in range(1, 40):
            for serial in range(1, 4):
                os.makedirs(f".wipe-{os.getpid() + near}-{serial}/full", exist_ok=True)
        os.makedirs("a/b/c")
        open("left", "w")
    """, """
        import os

        if os.path.exists("left") or [name for name in os.listdir(".") if name.startswith(".wipe")]:
            print("FOOLED")
    """),
    "json.py left": _on_server("open('json.py', 'w').write('print(\"FOOLED\")')", "import json"),
    "bytecode left": _on_server("""
        import importlib.util, marshal, os

        open("helper.py", "w").write("")
        os.mkdir("__pycache__")
        code = compile("print('FOOLED')", "helper.py", "exec")
        with open(importlib.util.cache_from_source("helper.py"), "wb") as file:
            file.write(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code))
    """, """
        try:
            import helper
        except ImportError:
            pass
    """),
    "usercustomize left": _on_server("""
        import os, sys

        folder = os.path.expanduser(f"~/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
        os.makedirs(folder)
        open(f"{folder}/usercustomize.py", "w").write("print('FOOLED')")
    """, "print('next')"),
    "path file left": _on_server("""
        import os, sys

        folder = os.path.expanduser(f"~/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
        os.makedirs(folder)
        open(f"{folder}/next.pth", "w").write("import sys; print('FOOLED')")
    """, "print('next')"),
    "daemon that waits for the next": _on_server("""
        import os, time

        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(0.3)
                open("late", "w").write("x")
                open("/dev/shm/late", "w").write("x")
            os._exit(0)
    """, """
        import os, time

        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            if os.path.exists("late") or os.path.exists("/dev/shm/late"):
                print("FOOLED")
                break
            time.sleep(0.01)
    """),
    "daemon that ignores every signal": _on_server("""
        import os, signal, time

        if os.fork() == 0:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            for number in set(signal.Signals) - {9, 19}:
                signal.signal(number, signal.SIG_IGN)
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            while True:
                open("/dev/shm/alive", "w").write(str(time.time()))
                time.sleep(0.02)
        time.sleep(0.1)
    """, """
        import os, time

        begun = time.time()
        while time.time() < begun + 0.6:
            if os.path.exists("/dev/shm/alive") and float(open("/dev/shm/alive").read() or 0) > begun:
                print("FOOLED")
                break
            time.sleep(0.01)
    """),
    "daemon that copies itself faster than it is killed": _on_server("""
        import os, time

        if os.fork() == 0:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                if os.fork():
                    os._exit(0)
                os.setsid()
            os._exit(0)
        open("running", "w")
    """, """
        import os

        mine, others = os.getuid(), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                others += [pid] if os.stat(f"/proc/{pid}").st_uid == mine else []
            except FileNotFoundError:  # it is a copy further
                pass
        if os.path.exists("running"):
            print("FOOLED", others)
    """),
    "System V shared memory left": _on_server("""
        import ctypes

        ctypes.CDLL(None).shmget(0x5EED, 4096, 0o1666)
    """, """
        import ctypes

        if ctypes.CDLL(None).shmget(0x5EED, 4096, 0) >= 0:
            print("FOOLED")
    """),
    "System V message queue left": _on_server("""
        import ctypes

        ctypes.CDLL(None).msgget(0x5EED, 0o1666)
    """, """
        import ctypes

        if ctypes.CDLL(None).msgget(0x5EED, 0) >= 0:
            print("FOOLED")
    """),
    "daemon behind an abstract socket": _on_server("""
        import os, socket, time

        server = socket.socket(socket.AF_UNIX)
        server.bind("\\0next")
        server.listen()
        if os.fork() == 0:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            time.sleep(2)
            os._exit(0)
    """, """
        import socket

        try:
            socket.socket(socket.AF_UNIX).connect("\\0next")
            print("FOOLED")
        except OSError:
            pass
    """),
    "daemon behind a bound socket pair": _on_server("""
        import os, socket, time

        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.bind("\\0pair")
        if os.fork() == 0:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            time.sleep(2)
            os._exit(0)
    """, """
        import socket

        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            one.sendto(b"hello", "\\0pair")
            print("FOOLED")
        except ConnectionRefusedError:
            pass
        except OSError:
            print("FOOLED")
    """),
    "daemon behind a port": _on_server("""
        import os, socket, time

        server = socket.create_server(("127.0.0.1", 4567))
        if os.fork() == 0:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            time.sleep(2)
            os._exit(0)
    """, """
        import socket

        try:
            socket.create_connection(("127.0.0.1", 4567), 1)
            print("FOOLED")
        except OSError:
            pass
    """),
})  # fmt: skip

CALLS = named("system call", {
    "ptrace": _call("""
        pid = os.fork()
        if pid == 0:
            time.sleep(2)
            os._exit(0)
        if libc.ptrace(16, pid, None, None) == 0:
            print("FOOLED")
        os.kill(pid, 9)
    """),
    "an internet socket": _call("""
        import socket

        socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        print("FOOLED")
    """),
    "a netlink socket": _call("""
        import socket

        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        print("FOOLED")
    """),
    "a shared semaphore": _call("""
        if libc.semget(0, 1, 0o1600) >= 0:
            print("FOOLED")
    """),
    "a terminal": _call("""
        os.openpty()
        print("FOOLED")
    """),
    "the folder of message queues": _call("""
        os.open("/dev/mqueue/left", os.O_CREAT | os.O_RDWR)
        print("FOOLED")
    """),
})  # fmt: skip

SECRETS = named("secret", {
    "environments of all processes": _for_secret("""
        import os

        def find():
            for pid in os.listdir("/proc"):
                try:
                    if pid.isdigit() and b"SECRET-" in open(f"/proc/{pid}/environ", "rb").read():
                        return "FOOLED"
                except OSError:
                    pass
    """),
    "open files of all processes": _for_secret("""
        import os

        def find():
            for pid in os.listdir("/proc"):
                try:
                    for fd in os.listdir(f"/proc/{pid}/fd"):
                        path = f"/proc/{pid}/fd/{fd}"
                        if os.path.isfile(path) and b"SECRET-" in open(path, "rb").read(100_000):
                            return "FOOLED"
                except OSError:
                    pass
    """),
    "memory of all processes": _for_secret("""
        import os

        def find():
            word = b"SECRET" + bytes([45])
            for pid in os.listdir("/proc"):
                if not pid.isdigit() or pid == os.readlink("/proc/self"):
                    continue
                try:
                    if word in open(f"/proc/{pid}/environ", "rb").read():
                        return "FOOLED"
                    memory = open(f"/proc/{pid}/mem", "rb", 0)
                    for line in open(f"/proc/{pid}/maps"):
                        span, rights, *_ = line.split()
                        start, end = (int(part, 16) for part in span.split("-"))
                        if rights.startswith("rw") and end - start < 1 << 26:
                            memory.seek(start)
                            if word in memory.read(end - start):
                                return "FOOLED"
                except (OSError, ValueError, OverflowError):
                    pass
    """),
    "files of the whole disk": _for_secret("""
        import os

        def find():
            word = b"SECRET" + bytes([45])
            for top in ("/box", "/tmp/", "/dev/shm", "/proc/self/cwd/", "/sock", "/opt", "/etc", "/run", "/var"):
                for folder, _, names in os.walk(top):
                    for name in names:
                        try:
                            path = os.path.join(folder, name)
                            if os.path.isfile(path) and word in open(path, "rb").read(100_000):
                                return "FOOLED"
                        except OSError:
                            pass
    """),
    "descriptors of its own": _for_secret("""
        import os

        def find():
            for fd in range(64):
                for path in (f"/proc/self/fd/{fd}", f"/proc/{os.getppid()}/fd/{fd}"):
                    try:
                        if os.path.isfile(path) and b"SECRET-" in os.pread(os.open(path, os.O_RDONLY), 100_000, 0):
                            return "FOOLED"
                    except OSError:
                        pass
    """),
})  # fmt: skip

ATTACKS = [*ON_SERVER, *ON_NEXT, *CALLS, *SECRETS]
