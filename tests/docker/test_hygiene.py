"""After every hostile submission the next one in the slot finds nothing of it, and its neighbour never noticed."""

from __future__ import annotations

import asyncio
import json
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rlvr.sandbox.docker import DockerBackend, Hardware
from rlvr.sandbox.jobs import Compile, Execution, Limits, Program
from rlvr.sandbox.pool import SandboxPool

SLOTS = 2
LIMITS = Limits(wall_s=1.0, cpu_s=2.0, memory_mb=512)
SMALL = Hardware(memory_mb_per_slot=64, processes_per_slot=64)  # so that running out of memory takes little time

WITNESS = """
import json, os, threading, time

time.sleep(0.15)  # so that this runs in all slots at once
me = os.getuid()

def is_mine(pid):
    try:
        return os.stat(f"/proc/{pid}").st_uid == me
    except FileNotFoundError:  # of another slot, and gone
        return False

processes = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_mine(pid)]
space = os.statvfs(".")
print(json.dumps({
    "folder": os.getcwd(),
    "files": os.listdir("."),
    "shared": [name for name in os.listdir("/dev/shm") if os.stat(f"/dev/shm/{name}").st_uid == me],
    "processes": len(processes),
    "blocks": space.f_blocks - space.f_bfree,
    "inodes": space.f_files - space.f_ffree,
    "nice": os.getpriority(os.PRIO_PROCESS, 0) - os.getpriority(os.PRIO_PROCESS, os.getppid()),
    "blocked": len(__import__("signal").pthread_sigmask(0, [])),
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:5],
}))
"""
NEIGHBOUR = """
import os

open("mine", "w").write("x" * 1000)
os.waitpid(os.fork() or os._exit(0), 0)
print(sum(range(1000)), open("mine").read() == "x" * 1000)
"""

FILES = {
    "output without end": """
        import os

        while True:
            os.write(1, b"x" * 65536)
    """,
    "errors without end": """
        import sys

        while True:
            print("x" * 65536, file=sys.stderr)
    """,
    "a full disk": """
        import os

        try:
            for number in range(1000):
                with open(f"big{number}", "wb") as file:
                    for _ in range(15):
                        file.write(bytes(1 << 20))
        except OSError:
            pass
        os.mkfifo("pipe")
    """,
    "too many files": """
        for number in range(20_000):
            open(str(number), "w").close()
    """,
    "deep folders on a full disk": """
        import os

        try:
            for number in range(1500):
                os.mkdir("d" * 100)
                os.chdir("d" * 100)
        except OSError:
            pass
        with open("big", "wb") as file:
            while True:
                file.write(bytes(1 << 20))
    """,
    "folders without rights": """
        import os

        for number in range(40):
            os.makedirs(f"a{number}/b/c/d")
            for name in ("f", "b/f", "b/c/f", "b/c/d/f"):
                path = f"a{number}/{name}"
                open(path, "w").close()
                os.chmod(path, 0)
            for name in ("b/c/d", "b/c", "b", ""):
                os.chmod(f"a{number}/{name}", 0)
    """,
    "odd names": """
        import os

        for name in (b"-rf", b" ", b"\\n", b"*", b"\\xff" * 255, b"\\xe2\\x80\\xae" * 85, b"...", b"~", b"a" * 255):
            os.mkdir(name)
            open(name + b"/" + name, "w").close()
            os.mkdir(name + b"/" + name[::-1] + b"x" if len(name) < 200 else name + b"/sub")
    """,
    "links to everywhere": """
        import os

        for number, target in enumerate(("/", "/etc/passwd", "..", "../0", "../1", ".", "missing", "/proc/1/root", "/dev/shm")):
            os.symlink(target, f"link{number}")
            os.mkdir(f"folder{number}")
            os.symlink(target, f"folder{number}/link")
        os.symlink("loop", "loop")
        open("file", "w").close()
        for number in range(500):
            os.link("file", f"hard{number}")
    """,
    "full shared memory": """
        import os

        os.makedirs("/dev/shm/a/b/c")
        for folder in ("/dev/shm/a/b/c", "/dev/shm/a/b", "/dev/shm/a"):
            open(f"{folder}/f", "w").close()
            os.chmod(folder, 0)
        with open("/dev/shm/big", "wb") as file:
            while True:
                file.write(bytes(1 << 20))
    """,
    "too many files in shared memory": """
        for number in range(1_000_000):
            open(f"/dev/shm/{number}", "w").close()
    """,
    "the folder itself": """
        import os, shutil

        for doing in (lambda: os.rmdir(os.getcwd()), lambda: os.chmod(".", 0), lambda: os.rename(".", "../gone")):
            try:
                doing()
            except OSError:
                pass
        os.mkdir("inside")
        os.chdir("inside")
        os.rmdir("../inside")
    """,
}

PROCESSES = {
    "a fork bomb": """
        import os

        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
    "killing in a circle": """
        import os

        for _ in range(12):
            if os.fork() == 0:
                os.setsid()
                while True:
                    for pid in range(2, 400):
                        try:
                            if pid != os.getpid():
                                os.kill(pid, 9)
                        except OSError:
                            pass
        while True:
            os.kill(-1, 9)
    """,
    "stopping in a circle": """
        import os, signal

        for _ in range(12):
            if os.fork() == 0:
                os.setsid()
                while True:
                    os.kill(-1, signal.SIGSTOP)
        while True:
            os.kill(-1, signal.SIGSTOP)
    """,
    "zombies": """
        import os

        for _ in range(25):
            if os.fork() == 0:
                os._exit(0)
    """,
    "daemons": """
        import ctypes, os, time

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to this process
        for _ in range(8):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(100)
                os._exit(0)
    """,
    "processes that ignore signals": """
        import os, signal

        for _ in range(8):
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
                for number in set(signal.Signals) - {9, 19}:
                    signal.signal(number, signal.SIG_IGN)
                while True:
                    pass
    """,
    "spinning threads": """
        import threading

        def spin():
            while True:
                pass

        for _ in range(20):
            threading.Thread(target=spin).start()
    """,
    "a main thread that is gone": """
        import ctypes, threading, time

        threading.Thread(target=time.sleep, args=(100,)).start()
        ctypes.CDLL(None).pthread_exit(None)
    """,
    "a process that stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "limits of its own": """
        import os, resource

        for name in dir(resource):
            if name.startswith("RLIMIT") and name not in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK"):
                try:
                    resource.setrlimit(getattr(resource, name), (0, 0))
                except (OSError, ValueError):
                    pass
        while True:
            pass
    """,
    "the last in line": """
        import os, time

        os.setpriority(os.PRIO_PROCESS, 0, 19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.umask(0o777)
        for _ in range(6):
            if os.fork() == 0:
                while True:
                    open("file", "a")
        time.sleep(0.3)
    """,
    "descriptors": """
        import os, time

        for _ in range(6):
            os.fork()
        kept = []
        while True:
            try:
                kept.append(os.pipe())
                os.write(kept[-1][1], b"x" * 4096)
                kept.append(os.openpty())
            except OSError:
                break
        time.sleep(0.2)
    """,
    "timers and alarms": """
        import ctypes, os, signal

        for signal_number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(signal_number, signal.SIG_IGN)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0.01, 0.001)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    """,
    "a crash": "import ctypes\nctypes.string_at(0)",
    "a stack without end": "import sys, threading\nsys.setrecursionlimit(10**9)\ndef f():\n    f()\nf()",
}

MEMORY = {
    "memory in many processes": """
        import os

        for _ in range(8):
            if os.fork() == 0:
                while True:
                    kept = bytearray(100 << 20)
                    for at in range(0, len(kept), 4096):
                        kept[at] = 1
        os.wait()
    """,
    "memory behind a lowered score": """
        import os

        open("/proc/self/oom_score_adj", "w").write("0")
        kept = []
        for _ in range(8):
            if os.fork() == 0:
                while True:
                    kept.append(bytearray(b"x") * (20 << 20))
        os.wait()
    """,
    "memory files": """
        import os, time

        open("/proc/self/oom_score_adj", "w").write("0")
        for _ in range(6):
            if os.fork() == 0:
                kept = []
                while True:
                    kept.append(os.memfd_create("m"))
                    for _ in range(15):
                        os.write(kept[-1], b"x" * (1 << 20))
        os.wait()
    """,
}


@pytest.fixture(scope="module")
def pair(docker_host: str) -> Iterator[SandboxPool]:
    """Two slots in one box."""
    with SandboxPool([DockerBackend(docker_host, hardware=SMALL)], slots=SLOTS) as pool:
        pool.warm_up()
        yield pool


class Neighbour:
    """Runs harmless programs in the other slot, one after the other, and keeps what went wrong."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool = pool
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.runs = 0
        self.failures: list[Execution] = []

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set() or not self.runs:
            done = self._pool.execute(Program(NEIGHBOUR))
            self.runs += 1
            if done.stdout != b"499500 True\n" or not done.is_success:
                self.failures.append(done)


def look_around(pool: SandboxPool) -> list[dict[str, object]]:
    """What programs find that run in all slots at the same time."""
    seen: dict[str, dict[str, object]] = {}
    with ThreadPoolExecutor(SLOTS) as threads:
        for _ in range(200):
            for look in threads.map(pool.execute, [Program(WITNESS)] * SLOTS):
                assert look.is_success, look
                found = json.loads(look.stdout)
                seen[found["folder"]] = found
            if len(seen) == SLOTS:
                return list(seen.values())
    raise AssertionError(f"not all slots were seen: {seen.keys()}")


def check_after(pool: SandboxPool, code: str, limits: Limits = LIMITS) -> None:
    """Run hostile code beside a neighbour, and then look what is left."""
    with Neighbour(pool) as neighbour:
        pool.execute(Program(textwrap.dedent(code)), limits)
    assert neighbour.failures == []
    for found in look_around(pool):
        folder = found.pop("folder")
        nothing = {"files": [], "shared": [], "processes": 1, "blocks": 0, "inodes": 1, "nice": 0, "blocked": 0}
        assert found == nothing | {"descriptors": ["0", "1", "2", "3", "4"]}, folder


def kills(pool: SandboxPool) -> bytes:
    """What the kernel says of the processes that a container's memory limit has killed."""
    code = """
        import glob, re

        for path in glob.glob("/sys/fs/cgroup/memory.events") + glob.glob("/sys/fs/cgroup/memory/memory.oom_control"):
            print(re.findall(r"^oom_kill .*", open(path).read(), re.MULTILINE))
    """
    return pool.execute(Program(textwrap.dedent(code))).stdout


@pytest.mark.parametrize("name", FILES)
def test_a_slot_is_clean_after_files(name: str, pair: SandboxPool) -> None:
    check_after(pair, FILES[name])


@pytest.mark.parametrize("name", PROCESSES)
def test_a_slot_is_clean_after_processes(name: str, pair: SandboxPool) -> None:
    check_after(pair, PROCESSES[name])


@pytest.mark.parametrize("name", MEMORY)
def test_a_slot_is_clean_after_memory(name: str, pair: SandboxPool) -> None:
    before = [box.name for box in pair.boxes()], kills(pair)
    check_after(pair, MEMORY[name], replace(LIMITS, wall_s=30.0, cpu_s=30.0))  # it ends with the first process that is killed
    assert before != ([box.name for box in pair.boxes()], kills(pair)), "the container never ran out of memory"


def test_no_process_of_a_submission_is_left_in_the_container(pair: SandboxPool) -> None:
    check_after(pair, PROCESSES["daemons"])
    for box in pair.boxes():
        listed = box._container.top()["Processes"]  # type: ignore[attr-defined]
        assert len(listed) == 1 + box.slots, listed  # the first process, and a server for each slot


def test_compiling_leaves_nothing(pair: SandboxPool) -> None:
    assert pair.execute(Compile("int main() { return 0; }"), replace(LIMITS, wall_s=30.0, cpu_s=20.0)).binary
    for found in look_around(pair):
        assert (found["files"], found["blocks"]) == ([], 0)


WILD = """
import os, struct, threading

def write():
    while True:
        try:
            os.write(5, struct.pack("!I", 12) + b'{"shown": 1}' * 2)
        except OSError:
            pass

for _ in range(3):
    threading.Thread(target=write, daemon=True).start()
os.kill(os.getpid(), 19)
"""


def test_a_session_that_does_not_keep_to_its_protocol_disturbs_no_other(sandbox: SandboxPool) -> None:
    async def talk() -> str | None:
        good, wild = await sandbox.open_session(), await sandbox.open_session()
        await good.run("x = 41")
        await wild.run(WILD, timeout_s=1.0)
        cell = await wild.run("1" + " " * 1_000_000, timeout_s=2.0)  # more than it would read
        assert cell.value in (None, "1")
        shown = await good.run("x + 1")
        await good.close()
        await wild.close()
        return shown.value

    assert asyncio.run(talk()) == "42"


def test_a_session_finds_nothing_of_another_one(sandbox: SandboxPool) -> None:
    word = "LEFT" + "OVER"

    async def talk() -> list[str]:
        first = await sandbox.open_session()
        await first.run(f"x = '{word}' * 1000\nprint(x)\nopen('kept', 'w').write(x)\nopen('/dev/shm/kept', 'w').write(x)\nx")
        await first.write_file("given", word.encode() * 1000)
        await first.reset()
        seen = [await first.run("import os\nos.listdir('.'), os.path.exists('/dev/shm/kept'), 'x' in globals()")]
        await first.close()
        second = await sandbox.open_session()
        seen.append(await second.run("import os\nos.listdir('.'), os.path.exists('/dev/shm/kept')"))
        search = """
            word, hits = bytes(reversed(b"REVOTFEL")) * 2, 0
            for line in open("/proc/self/maps"):
                span, rights, *_ = line.split()
                start, end = (int(part, 16) for part in span.split("-"))
                if rights.startswith("rw"):
                    memory = open("/proc/self/mem", "rb", 0)
                    memory.seek(start)
                    data = memory.read(end - start)
                    hits += data.count(word * 3)
            hits
        """
        seen.append(await second.run(textwrap.dedent(search)))
        await second.close()
        return [cell.value or str(cell.failure) for cell in seen]

    assert asyncio.run(talk()) == ["([], False, False)", "([], False)", "0"]
