"""The container's first process: imports what submissions usually need, forks the slots, and replaces those that die.

It ends by itself when the host that started it is gone: `--listen` keeps a lifeline socket for that.
"""

import atexit
import functools
import gc
import getopt
import importlib
import os
import random
import select
import signal
import socket
import sys
import time
import traceback

from . import confine, memory, seccomp
from .namespaces import Namespaces
from .slot import BUSY, Slot
from .users import Separate, Single
from .wire import keep

# What programs that solve tasks import, by the reference solutions of HumanEval, MBPP and Code Jam. Every extension module more
# makes every fork dearer (five mappings to copy), so hashlib, tempfile, uuid, pathlib and their like are left to who needs them.
STANDARD = (
    "abc array ast bisect builtins collections collections.abc contextlib copy dataclasses datetime decimal enum fractions "
    "functools heapq io itertools json math numbers operator os random re statistics string struct sys textwrap threading time "
    "traceback types typing warnings"
).split()
SCIENCE = ("numpy", "sympy")
CHOICES = {"users": ("separate", "alone", "shared"), "preload": ("standard", "science"), "filter": ("on", "off")}
USERS_PER_SLOT = 3
FIRST_LIFELINE_S = 60.0
LINGER_S = 0.5
END_S = 2.0


def main():
    options = Options(sys.argv[1:])
    # What runs in the background of a shell begins with interrupts ignored, and a cell could then not be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.wait:
        _wait_for_attached()
    confine.forbid_new_privileges()
    confine.close_doors()
    if options.users != "separate":
        confine.hide_memory()  # the supervisor has the submissions' user, too
    os.umask(0o022)
    sys.dont_write_bytecode = True
    for name in (*STANDARD, *(SCIENCE if options.preload == "science" else ())):
        importlib.import_module(name)
    fork = confine.raw_fork if confine.raw_fork_works() else os.fork
    install = _filter(required=options.filter != "off")
    atexit._clear()
    random.seed(0)
    sys.argv[:] = ["main.py"]
    for name in [name for name in sys.modules if name.split(".")[0] == __package__]:
        _kept.append(sys.modules.pop(name))  # a submission's `import wire` must not find ours
    gc.collect()
    memory.fill_holes()
    memory.gather(BUSY)
    gc.freeze()
    make = functools.partial(_slot_main, options=options, fork=fork, install=install)
    if options.stdio is not None:
        _serve_stdio(make, options.stdio)
    else:
        _Supervisor(options, make).run()


_kept = []


class Options:
    """The command line. `argparse` would bring shutil and three compressors into the memory that every fork copies."""

    def __init__(self, arguments):
        self.listen = None  # folder for the slots' sockets
        self.stdio = None  # serve this one slot on stdin and stdout
        self.wait = False  # serve nothing: keep the container up while slots are attached to it
        self.slots = 1
        self.uid = 20_000  # first user id; every slot takes three
        self.users = "separate"  # separate, alone or shared: see users.py
        self.work = "/box"  # the slots' own folders lie in here
        self.preload = "standard"  # or science
        self.namespaces = False  # see namespaces.py
        self.filter = "on"  # the seccomp filter; or off
        names = {name: "" if value is False else "=" for name, value in vars(self).items()}
        try:
            given, rest = getopt.getopt(arguments, "", [name + suffix for name, suffix in names.items()])
            for option, value in given:
                name = option[2:]
                kind = int if name in ("stdio", "slots", "uid") else str
                setattr(self, name, kind(value) if names[name] else True)
        except (getopt.GetoptError, ValueError) as error:
            sys.exit(f"runner: {error}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                sys.exit(f"runner: --{name} is {getattr(self, name)!r}, not one of {', '.join(allowed)}")
        if rest or (self.listen is None and self.stdio is None and not self.wait):
            sys.exit(f"runner: {f'what is {rest[0]!r}?' if rest else 'one of --listen, --stdio and --wait is needed'}")


def _filter(*, required):
    """What installs the system-call filter; None where it is switched off."""
    if not required:
        return None
    code = seccomp.program(seccomp.policy())
    return functools.partial(seccomp.install, code)


def _slot_main(number, accept, *, options, fork, install):
    """A slot server's whole life. `accept` gives (reader, writer) pairs until there is no more."""
    if options.users == "separate":
        users = Separate(options.uid + USERS_PER_SLOT * number)
    else:
        users = Single(is_alone=options.users == "alone")
    folder = os.path.join(options.work, str(number))
    namespaces = Namespaces(fork, folder, install) if options.namespaces else None
    slot = Slot(users, folder, fork, install, namespaces)
    if options.listen is not None:
        confine.die_with_parent()  # changing users, which making the slot may take, has cleared it
    if options.users == "shared":  # elsewhere the kernel ends what is left, with the process-id namespace
        signal.signal(signal.SIGTERM, lambda *_: slot.end())
    for reader, writer in accept():
        try:
            slot.serve(reader, writer)
        finally:
            for fd in {reader, writer}:
                os.close(fd)


def _serve_stdio(make, number):
    reader, writer = keep(os.dup(0)), keep(os.dup(1))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    make(number, lambda: [(reader, writer)])


def _wait_for_attached():
    """First process of a container whose slots are attached one by one: it ends when none has been there for a while."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    deadline = time.monotonic() + FIRST_LIFELINE_S
    while time.monotonic() < deadline:
        time.sleep(1.0)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            pass
        if any(name.isdigit() and name != "1" for name in os.listdir("/proc")):
            deadline = time.monotonic() + 10 * LINGER_S
    os._exit(0)


class _Supervisor:
    """Listens, forks the slots, reaps whatever ends, restarts dead slots, and follows the lifeline."""

    def __init__(self, options, make):
        self.options = options
        self.make = make
        self.children = {}
        self.is_ending = False
        self.listeners = [self._listen(str(number)) for number in range(options.slots)]
        self.lifeline = self._listen("life")
        self.hosts = {}

    def _listen(self, name):
        path = os.path.join(self.options.listen, name)
        listener = socket.socket(socket.AF_UNIX)
        old = os.umask(0o117)  # the owner's group may connect: that is the host's user
        try:
            listener.bind(path)
        finally:
            os.umask(old)
        listener.listen(64)
        return listener

    def run(self):
        wake_reader, wake_writer = (keep(fd) for fd in os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        for number in range(self.options.slots):
            self._start(number)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._request_end)
        poll = select.poll()
        poll.register(wake_reader, select.POLLIN)
        poll.register(self.lifeline, select.POLLIN)
        deadline = time.monotonic() + FIRST_LIFELINE_S
        while True:
            for fd, _ in poll.poll(1000):
                if fd == wake_reader:
                    os.read(wake_reader, 4096)
                elif fd == self.lifeline.fileno():
                    host, _ = self.lifeline.accept()
                    self.hosts[host.fileno()] = host
                    poll.register(host, select.POLLIN)
                    deadline = None
                elif not self.hosts[fd].recv(64):
                    poll.unregister(fd)
                    self.hosts.pop(fd).close()
                    deadline = time.monotonic() + LINGER_S if not self.hosts else None
            self._reap()
            if self.is_ending or (deadline is not None and time.monotonic() > deadline):
                self._end()

    def _end(self):
        """Outside a container nothing ends the slots but this."""
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.005)
            except ChildProcessError:
                break
        os._exit(0)

    def _request_end(self, number, frame):
        self.is_ending = True

    def _reap(self):
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.children:
                self._start(self.children.pop(pid))

    def _start(self, number):
        pid = os.fork()
        if pid:
            self.children[pid] = number
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            confine.die_with_parent()
            listener = socket.socket(fileno=keep(self.listeners[number].detach()))
            for other in (*self.listeners, self.lifeline, *self.hosts.values()):
                other.close()
            self.make(number, lambda: _connections(listener))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def _connections(listener):
    while True:
        connection, _ = listener.accept()
        fd = keep(connection.detach())
        yield fd, fd
