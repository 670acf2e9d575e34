"""A handful of attempts to break out of a sandbox, run for real: is what it promises true on this machine?

This is a quick check for users (seconds), not the attack suite of the tests. Every attempt is made to do no harm where it
succeeds (signal 0 instead of a kill, bounded amounts of everything), and none is made where there is no isolation at all.
What it achieved is judged out here, and after each a harmless program must run well.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Call, Calls, Checks, Limits, Program, Sandbox, Status

QUICK = Limits(wall_s=2.0, cpu_s=2.0, memory_mb=512, processes=16)
LATE_S = 10.0  # far beyond the two seconds that a job is given


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. `detail` says what got through, or how it was stopped."""

    name: str
    words: str
    is_contained: bool
    detail: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Escape:
    """One attempt: `attempt` gives what got through, in words; empty when nothing did."""

    name: str
    words: str
    attempt: Callable[[Sandbox], str]


def run_escapes(sandbox: Sandbox, *, on_outcome: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Try every escape, one after the other.

    Raises:
        SandboxError: the sandbox does not even run a harmless program, runs it with the files of this machine (plain
            processes: nothing would be stopped), or failed under an attempt.
    """
    if problem := _is_unwell(sandbox):
        raise SandboxError(f"the sandbox does not work: {problem}")
    _require_isolation(sandbox)
    outcomes = []
    for escape in ESCAPES:
        started = time.monotonic()
        got_through = escape.attempt(sandbox) or _is_unwell(sandbox)
        outcome = Outcome(escape.name, escape.words, not got_through, got_through or "stopped", time.monotonic() - started)
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


def _require_isolation(sandbox: Sandbox) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        done = sandbox.execute(Program(f"import os; print(os.path.isdir({folder!r}))"), QUICK)
    if done.image.startswith("unsafe") or done.stdout != b"False\n":
        raise SandboxError("this sandbox is plain processes of this machine: nothing would be stopped, so nothing is tried")


def _is_unwell(sandbox: Sandbox) -> str:
    done = sandbox.execute(Program("import os; print(6 * 7, os.listdir('.'))"), QUICK)
    if done.is_success and done.stdout == b"42 []\n":
        return ""
    return f"a harmless program ended as {done.status}, printing {done.stdout[:200]!r}"


def _printed(code: str) -> Callable[[Sandbox], str]:
    """An attempt that prints what it achieved, and nothing when it achieved nothing."""

    def attempt(sandbox: Sandbox) -> str:
        done = sandbox.execute(Program(_PRELUDE + code), QUICK)
        if done.failure is not None:
            return f"the attempt itself is broken: {done.failure.kind}: {done.failure.message}"
        return done.stdout.decode("utf-8", "replace").strip()[:300]

    return attempt


def _never_ends(sandbox: Sandbox) -> str:
    started = time.monotonic()
    done = sandbox.execute(Program(_PRELUDE + _SPIN), QUICK)
    if done.status is Status.TIMED_OUT and time.monotonic() - started < LATE_S:
        return ""
    return f"it ended as {done.status} after {time.monotonic() - started:.1f} s, with a limit of {QUICK.wall_s:g} s"


def _floods(sandbox: Sandbox) -> str:
    done = sandbox.execute(Program(_PRELUDE + _FLOOD), QUICK)
    kept = len(done.stdout) + len(done.stderr)
    return "" if kept <= 2 * QUICK.output_bytes else f"{kept} bytes of its output came back, with a limit of {QUICK.output_bytes}"


def _solves_nothing(code: str) -> Callable[[Sandbox], str]:
    """A submission that cannot know what is expected of it, under a test that runs inside and one that is compared out here."""

    def attempt(sandbox: Sandbox) -> str:
        expected = 10**9 + secrets.randbelow(10**9)
        checked = sandbox.execute(Checks(code, entry_points=("answer",), tests=(f"assert answer() == {expected}",)), QUICK)
        if any(checked.passed):
            return "a submission that solves nothing passed an assert"
        called = sandbox.execute(Calls(code, "answer", (Call(),)), QUICK)
        values = [returned.value for returned in called.returned if returned.failure is None]
        return "a submission that solves nothing returned what was expected" if expected in values else ""

    return attempt


_PRELUDE = """\
import ctypes, os, signal, socket, sys, time
def tried(words, action):
    try:
        got = action()
    except (OSError, AttributeError, MemoryError, ValueError):
        return
    if got is not None:
        print(words, str(got)[:80])
"""

_NETWORK = """\
def connect(address):
    with socket.create_connection(address, timeout=0.3): return address
tried("reached", lambda: connect(("1.1.1.1", 53)))
tried("reached the engine's host at", lambda: connect(("172.17.0.1", 22)))
tried("resolved", lambda: socket.gethostbyname("example.com"))
own = ("lo", "sit0", "tunl0", "ip6tnl0")
tried("has interfaces", lambda: [name for _, name in socket.if_nameindex() if name not in own] or None)
"""

_READ = """\
for path in ("/etc/shadow", "/proc/1/environ", "/proc/1/mem", "/proc/1/root/etc/passwd", "/proc/kcore", "/dev/mem", "/dev/sda",
             "/dev/vda", "/var/run/docker.sock", "/root/.ssh", "/root/.bashrc", "/home", "/sys/firmware/efi/efivars"):
    tried(f"read {path}:", lambda: open(path, "rb").read(16) if not os.path.isdir(path) else os.listdir(path) or None)
"""

_WRITE = """\
def write(folder):
    path = f"{folder}/rlvr-escape"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)
    return folder
for folder in ("/", "/usr/bin", "/usr/local/lib", "/opt/rlvr/runner", "/etc", "/sock", "/box", "/var", "/sys", "/dev"):
    tried("wrote into", lambda: write(folder))
def spare_me():
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file: file.write(b"-1000")
    return "place in the order of killing"
tried("changed its", spare_me)
"""

_ROOT = """\
for change in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    tried("became", lambda: (change(), os.getresuid(), os.getresgid()))
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0: raise OSError(ctypes.get_errno(), "refused")
    return "done"
x86 = os.uname().machine == "x86_64"
tried("made a user namespace:", lambda: call(272 if x86 else 97, 0x10000000))
os.mkdir("place")
tried("mounted a file system:", lambda: call(165 if x86 else 40, b"none", b"place", b"tmpfs", 0, None))
tried("changed the root:", lambda: (os.chroot("place"), "chroot")[1])
"""

_OTHERS = """\
me = os.getpid()
alive = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (me, os.getppid())]
for other in {1, os.getppid(), *alive}:
    tried("may send signals to", lambda: (os.kill(other, 0), other)[1])
    tried("may open the memory of", lambda: (open(f"/proc/{other}/mem", "rb").close(), other)[1])
    tried("saw the files of", lambda: os.listdir(f"/proc/{other}/fd") and other)
"""

_BEHIND = """\
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(100):
            time.sleep(0.1)
            try: open("left-behind", "w").close()
            except OSError: os._exit(0)
        os._exit(0)
open("left-behind", "w").close()
"""

_MEMORY = """\
hoard = []
try:
    for _ in range(128): hoard.append(bytearray(16 << 20))
    print("took 2 GB")
except MemoryError:
    pass
"""

_DISK = """\
written = 0
try:
    for number in range(64):
        with open(str(number), "wb", buffering=0) as file:
            for _ in range(8): written += file.write(bytes(1 << 20))
    print(f"wrote {written >> 20} MB")
except OSError:
    pass
"""

_BOMB = """\
started = 0
try:
    for started in range(1, 101):
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
    print(f"started {started} processes")
except OSError:
    pass
"""

_SPIN = """\
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
end = time.monotonic() + 20
while time.monotonic() < end: pass
"""

_FLOOD = """\
try:
    for _ in range(200): os.write(1, b"flood" * 200_000)
except OSError:
    pass
"""

_ALWAYS_EQUAL = """\
class Anything(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def answer(): return Anything(0)
"""

_EXIT = """\
import os, atexit
atexit.register(lambda: os._exit(0))
def answer(): os._exit(0)
"""

_FRAMES = """\
import sys, gc, re
def answer():
    frame = sys._getframe()
    while frame is not None:
        for value in [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]:
            if type(value) is int and 10**9 <= value < 2 * 10**9: return value
        frame = frame.f_back
    for seen in gc.get_objects():
        for part in (seen.values() if isinstance(seen, dict) else seen if isinstance(seen, (list, tuple)) else ()):
            found = re.search(r"answer\\(\\) == (\\d+)", part) if isinstance(part, str) else None
            if found: return int(found[1])
    raise LookupError
"""


ESCAPES: Sequence[Escape] = (
    Escape("network", "reach the network", _printed(_NETWORK)),
    Escape("host files", "read files of the host or of the sandbox's own processes", _printed(_READ)),
    Escape("writing", "write outside its own folder", _printed(_WRITE)),
    Escape("root", "become root, make namespaces, mount, change the root", _printed(_ROOT)),
    Escape("other processes", "reach other processes: signals, memory, files", _printed(_OTHERS)),
    Escape("left behind", "leave processes and files for the next submission", _printed(_BEHIND)),
    Escape("memory", f"take 2 GB of memory, with a limit of {QUICK.memory_mb} MB", _printed(_MEMORY)),
    Escape("disk", "write 512 MB of files", _printed(_DISK)),
    Escape("fork bomb", f"start 100 processes, with a limit of {QUICK.processes}", _printed(_BOMB)),
    Escape("no end", "ignore every signal and never end", _never_ends),
    Escape("flood", "flood the output with 200 MB", _floods),
    Escape("always equal", "return an object that equals everything", _solves_nothing(_ALWAYS_EQUAL)),
    Escape("early exit", "end the process before the test can fail", _solves_nothing(_EXIT)),
    Escape("frames", "read the expected value from frames or memory", _solves_nothing(_FRAMES)),
)
