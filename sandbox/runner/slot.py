"""One slot: a server process that runs one thing at a time.

The server parses only a header of limits. What a request carries and what comes back stays in memory files, and passes
through the server in a buffer that is zeroed, so that no child inherits another one's code, tests or output; a child drops its
rights before it reads anything. What comes back is sent when every process of the slot is dead.

    request:  u32 n | header JSON | payloads   (header["p"]: the lengths of each payload's parts)
    response: u32 n | header JSON | blobs      (header["b"]: their lengths; blobs are what the submission wrote)
"""

import json
import os
import select
import signal
import socket
import struct
import time

from . import checker, confine, submission
from .users import UnkillableError, list_of_children, reap, reap_all, wait_for
from .wire import keep, length_of, memory_file, read_exactly, receive_into, send_with_files, size_of, take_low_numbers, write_all

SHARED_MEMORY = "/dev/shm"
RESULT = 4  # its number in a child
MAX_RESULT_BYTES = 8 << 20
MAX_ERROR_BYTES = 8192
MAX_HEADER_BYTES = 1 << 16
MAX_STALE_READS = 64
KILLED, OVER_CPU = -int(signal.SIGKILL), -int(signal.SIGXCPU)
ENDED, LATE, DROPPED = range(3)
INTERRUPT_S = 2.0  # until a cell that was interrupted is killed, on a machine that may be busy
ANSWER = (  # of an execution; json.dumps would make an encoder each time
    b'{"st": "%s", "code": %d, "wall": %.6f, "cpu": %.6f, "rss": %d, "left": %d, "oom": %d, "waited": %.3f, '
    b'"out": %d, "err": %d, "b": [%d, %d, %d]}'
)
_scan = json.JSONDecoder().scan_once  # json.loads, without the functions around it
HANGUP = getattr(select, "POLLRDHUP", 0x2000) | select.POLLHUP | select.POLLERR


class Slot:
    """Serves one connection at a time; `users` says in whose name, `folder` is the submissions' own."""

    def __init__(self, users, folder, fork, install_filter, namespaces=None):
        self.users = users
        self.folder = folder
        self.fork = fork if namespaces is None else namespaces.fork
        self.namespaces = namespaces
        self.session = None
        self.memory_counts = _memory_counts()
        self.children = list_of_children()
        self.kills_before = b""
        self.null = keep(os.open("/dev/null", os.O_RDWR))
        take_low_numbers(self.null)
        users.prepare(folder)
        confine.confine_server()
        users.kill()
        users.wait_until_gone()
        self._clean()
        if install_filter is not None and namespaces is None:
            install_filter()
        os.environ.clear()
        os.environ.update(confine.environment(self.folder))

    # -- requests

    def serve(self, reader, writer):
        """Answer requests until the other side closes."""
        self.reader, self.writer = reader, writer
        try:
            while True:
                try:
                    (length,) = struct.unpack("!I", read_exactly(reader, 4))
                    if length > MAX_HEADER_BYTES:
                        return
                    header, _ = _scan(read_exactly(reader, length).decode(), 0)
                    payloads = [self._receive(parts) for parts in header["p"]]
                except (EOFError, ConnectionError, ValueError, StopIteration):
                    return
                try:
                    is_answered = self._handle(header, payloads)
                finally:
                    for fd in payloads:
                        if fd != self.null:
                            os.close(fd)
                if not is_answered:  # the host gave this execution up
                    return
        except ConnectionError:
            return
        finally:
            self._end_session()

    def _receive(self, parts):
        left = sum(parts)
        if not left:
            return self.null
        fd = memory_file()
        while left:
            count = receive_into(self.reader, fd, left)
            if not count:
                os.close(fd)
                raise EOFError
            left -= count
        os.lseek(fd, 0, 0)
        return fd

    def _answer(self, described, files=()):
        """`files`: (descriptor, offset, length) of each blob."""
        described["b"] = [length for _, _, length in files]
        self._send(json.dumps(described).encode(), files)
        return True

    def _send(self, data, files):
        send_with_files(self.writer, struct.pack("!I", len(data)) + data, files)

    def _handle(self, header, payloads):
        """Whether it was answered; False where nobody waits any more."""
        other = OTHERS.get(header["k"])
        return self._run(header, payloads) if other is None else other(self, header, payloads)

    def _pong(self, header, payloads):
        return self._answer({"st": "pong", "pid": os.getpid()})

    def end(self):
        """Never returns: the whole service ends."""
        self.users.kill()
        os._exit(0)

    # -- one execution

    def _run(self, header, payloads):
        bounds = confine.Bounds(header)
        self.kills_before = self._memory_events()
        result, out, error = memory_file(), memory_file(), memory_file()
        try:
            stdin = payloads[1] if len(payloads) > 1 else self.null
            started = time.monotonic()
            descriptors = (stdin, out, error, payloads[0], result)
            child = self._spawn(header["k"], header["p"][0], bounds, header.get("seed", 0), descriptors)
            ended = self._wait(child, started + bounds.wall_s)
            described = self._finish(ended, [child], started, bounds)
            if described is None:
                return False
            result_bytes, out_bytes, error_bytes = length_of(result), length_of(out), length_of(error)
            sizes = min(result_bytes, MAX_RESULT_BYTES), min(out_bytes, bounds.kept_bytes), min(error_bytes, MAX_ERROR_BYTES)
            described = (*described, out_bytes, error_bytes, *sizes)
            self._send(ANSWER % described, ((result, 0, sizes[0]), (out, 0, sizes[1]), (error, 0, sizes[2])))
            return True
        finally:
            for fd in (result, out, error):
                os.close(fd)

    def _run_checks(self, header, payloads):
        bounds = confine.Bounds(header)
        self.kills_before = self._memory_events()
        result, out = memory_file(), memory_file()
        ours, theirs = (keep(end.detach()) for end in socket.socketpair())
        seed = header.get("seed", 0)
        try:
            started = time.monotonic()
            descriptors = (self.null, out, out, payloads[0], self.null, theirs)
            served = self._spawn("checks", header["p"][0], bounds, seed, descriptors)
            checking = self.fork()
            if checking == 0:
                try:
                    self._isolate(self.users.checker)
                    confine.detach(bounds, (self.null, self.null, self.null, payloads[1], result, ours), "/")
                    self.users.become_checker(bounds)
                    self._close()
                    checker.run(seed)
                except BaseException as error:
                    os.pwrite(RESULT, json.dumps({"fatal": submission.describe(error)}).encode(), 0)
                finally:
                    os._exit(120)
            os.close(ours)
            os.close(theirs)
            ours = theirs = -1
            ended = self._wait(checking, started + bounds.wall_s)
            is_cut = ended == ENDED and os.waitid(os.P_PID, served, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            if ended == ENDED:
                os.kill(served, 9)
            described = self._finish(ended, [checking, served], started, bounds, is_cut=is_cut)
            if described is None:
                return False
            out_bytes = length_of(out)
            sizes = size_of(result, MAX_RESULT_BYTES), min(out_bytes, bounds.kept_bytes), 0
            self._send(ANSWER % (*described, out_bytes, 0, *sizes), ((result, 0, sizes[0]), (out, 0, sizes[1])))
            return True
        finally:
            for fd in (result, out, ours, theirs):
                if fd >= 0:
                    os.close(fd)

    def _spawn(self, mode, lengths, bounds, seed, descriptors):
        pid = self.fork()
        if pid:
            return pid
        try:
            self._isolate(self.users.submission)
            confine.detach(bounds, descriptors, self.folder)
            self.users.become_submission(bounds)
            self._close()
            submission.run(mode, lengths, bounds, seed)
        except BaseException as error:
            try:
                os.write(2, f"runner: {error!r}\n".encode())
            except OSError:
                pass
        finally:
            os._exit(120)

    def _isolate(self, user):
        if self.namespaces is not None:
            self.namespaces.isolate(user)

    def _close(self):
        if self.namespaces is not None:
            self.namespaces.close()

    def _wait(self, pid, deadline):
        """Until the process ends, the deadline passes, or the host hangs up: ENDED, LATE or DROPPED."""
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(self.reader, HANGUP & ~(select.POLLHUP | select.POLLERR))
            while True:
                left_ms = (deadline - time.monotonic()) * 1000
                if left_ms <= 0:
                    return LATE
                for ready, _ in poll.poll(left_ms + 1):
                    return ENDED if ready == fd else DROPPED
        finally:
            os.close(fd)

    def _finish(self, ended, children, started, bounds, *, is_cut=False):
        """Reap the execution's processes, clean the slot, and say how it went; None where nobody waits for it any more.

        `is_cut`: the submission was gone before its checker. What the container's other slots may have done to it is in the
        answer, too: "oom", how many processes the memory limit has killed meanwhile, and "waited", for how many seconds it was
        ready to run and had no processor.
        """
        wall = time.monotonic() - started
        waited = 0.0
        if ended != ENDED:
            waited = max(map(_waited, children))
            self.users.kill()
        cpu = peak = 0.0
        status = None
        for pid in children:
            code, used, largest = wait_for(pid)
            status = code if status is None else status
            cpu += used
            if largest > peak:
                peak = largest
        left = self._clean()
        if ended == DROPPED:
            return None
        code = os.waitstatus_to_exitcode(status)
        kills = _memory_kills(self._memory_events()) - _memory_kills(self.kills_before) if code or is_cut else 0
        was_starved = code == KILLED and ended == ENDED and kills
        is_late = ended == LATE or code == OVER_CPU or (code == KILLED and cpu >= bounds.cpu_s)
        state = b"late" if is_late else b"memory" if was_starved else b"signal" if code < 0 else b"exit"
        return state, code, wall, cpu, peak, left, kills, waited

    def _memory_events(self):
        """The kernel's counts as it writes them; nothing where they cannot be read."""
        return b"" if self.memory_counts is None else os.pread(self.memory_counts, 4096, 0)

    def _clean(self):
        """No process and no file of the slot's users may be left. Where nothing is, this costs one wait and two listings."""
        left = reap_all(self.users, self.children)
        for folder, is_own in ((self.folder, True), (SHARED_MEMORY, False)):
            if os.listdir(folder) and self.users.has_files(folder, is_own=is_own):
                self.users.wipe(folder)
                if self.users.has_files(folder, is_own=is_own):  # nothing else may run in here
                    raise UnkillableError(f"files of a submission cannot be removed from {folder}")
        return left

    # -- sessions

    def _open_session(self, header, payloads):
        self._end_session()
        bounds = confine.Bounds(header)
        ours, theirs = (keep(end.detach()) for end in socket.socketpair())
        out = memory_file()
        descriptors = (self.null, out, out, self.null, self.null, theirs)
        pid = self._spawn("session", [], bounds, header.get("seed", 0), descriptors)
        os.close(theirs)
        os.set_blocking(ours, False)
        self.session = (pid, ours, out)
        return self._answer({"st": "open"})

    def _close_session(self, header, payloads):
        self._end_session()
        return self._answer({"st": "closed"})

    def _ask_session(self, header, payloads):
        answer = memory_file()
        try:
            if self.session is None:
                return self._answer({"st": "none", "wall": 0.0, "out": 0}, [(answer, 0, 0), (answer, 0, 0)])
            pid, link, out = self.session
            os.ftruncate(out, 0)
            os.lseek(out, 0, 0)
            started = time.monotonic()
            status, length = self._exchange(pid, link, payloads[0], answer, started + float(header["wall_s"]))
            if status == "dropped":
                self._end_session()
                return False
            described = {"st": status, "wall": round(time.monotonic() - started, 6), "out": length_of(out)}
            files = [(answer, 4, length), (out, 0, size_of(out, int(header["output_bytes"])))]
            try:
                return self._answer(described, files)
            finally:
                if status in ("dead", "killed"):
                    self._end_session()
        finally:
            os.close(answer)

    def _exchange(self, pid, link, request, answer, deadline):
        """Send one request to the session, and move what it answers to a file: ("ok" or "late", its length).

        Late: an interrupt first, then the end. Without an answer: "killed" (it took too long or broke the protocol), "dead" or
        "dropped" (the host hung up). The session may stop reading or answer unasked: nothing here waits for it alone.
        """
        head = struct.pack("!I", size_of(request, MAX_RESULT_BYTES))
        total, sent, got, status = 4 + size_of(request, MAX_RESULT_BYTES), 0, 0, "ok"
        if not self._discard_stale(link):
            return "killed", 0
        poll = select.poll()
        poll.register(link, select.POLLIN | select.POLLOUT)
        poll.register(self.reader, HANGUP & ~(select.POLLHUP | select.POLLERR))
        while True:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                if status == "late":
                    return "killed", 0
                status, deadline = "late", time.monotonic() + INTERRUPT_S
                os.kill(pid, signal.SIGINT)
                continue
            for ready, events in poll.poll(left_ms + 1):
                if ready != link:
                    return "dropped", 0
                try:
                    if events & select.POLLOUT and sent < total:
                        sent += os.write(link, head[sent:]) if sent < 4 else os.sendfile(link, request, sent - 4, total - sent)
                        if sent == total:
                            poll.modify(link, select.POLLIN)
                    if events & ~select.POLLOUT:
                        count = receive_into(link, answer, 4 + MAX_RESULT_BYTES - got)
                        if not count:
                            return "dead", 0
                        got += count
                except BlockingIOError:
                    continue
                except OSError:
                    return "dead", 0
            if got >= 4:
                (length,) = struct.unpack("!I", os.pread(answer, 4, 0))
                if length > MAX_RESULT_BYTES or (got >= 4 + length and sent < total):
                    return "killed", 0
                if got >= 4 + length:
                    return status, length

    def _discard_stale(self, link):
        """Forget what the session said unasked (an interrupt may make it answer twice); False where it does not stop."""
        for _ in range(MAX_STALE_READS):
            try:
                if not receive_into(link, self.null, 1 << 20):
                    return True
            except OSError:
                return True
        return False

    def _end_session(self):
        if self.session is None:
            return
        pid, link, out = self.session
        self.session = None
        os.close(link)
        os.close(out)
        self.users.kill()
        reap(pid)
        self._clean()


OTHERS = {  # than one process that runs a submission and ends
    "ping": Slot._pong,
    "checks": Slot._run_checks,
    "open": Slot._open_session,
    "ask": Slot._ask_session,
    "close": Slot._close_session,
}
BUSY = (  # functions, in the order in which an execution calls them
    *(Slot.serve, read_exactly, Slot._receive, memory_file, keep, receive_into, write_all, Slot._handle, Slot._run),
    *(confine.Bounds.__init__, Slot._memory_events, Slot._spawn, confine.raw_fork, Slot._wait, Slot._finish, wait_for),
    *(Slot._clean, reap_all, length_of, Slot._send, send_with_files),
)


def _memory_counts():
    """The file in which the kernel counts what the container's memory limit kills (cgroup v2, then v1); None without one."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            return keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            continue
    return None


def _memory_kills(events):
    """How many processes the container's memory limit has killed so far."""
    return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith(b"oom_kill "))


def _waited(pid):
    """For how many seconds a process was ready to run and did not."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
