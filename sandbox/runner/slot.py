"""One slot: a server process that runs one thing at a time.

The server parses only a header of limits. What a request carries goes into a memory file through a buffer that is
zeroed, so that no child inherits another one's code or tests; a child drops its rights before it reads anything. What comes
back is read when every process of the slot is dead.

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
from .users import reap, reap_all
from .wire import keep, memory_file, read_exactly, read_file, write_all

SHARED_MEMORY = "/dev/shm"
RESULT = 4  # its number in a child
MAX_RESULT_BYTES = 8 << 20
MAX_HEADER_BYTES = 1 << 16
HANGUP = getattr(select, "POLLRDHUP", 0x2000) | select.POLLHUP | select.POLLERR

_chunk = bytearray(1 << 16)
_zeros = bytes(1 << 16)


class Slot:
    """Serves one connection at a time; `users` says in whose name, `folder` is the submissions' own."""

    def __init__(self, users, folder, fork, install_filter, namespaces=None):
        self.users = users
        self.folder = folder
        self.fork = fork if namespaces is None else namespaces.fork
        self.namespaces = namespaces
        self.session = None
        self.memory_kills = _memory_kills()
        self.null = keep(os.open("/dev/null", os.O_RDWR))
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
        self.reader = reader
        try:
            while True:
                try:
                    (length,) = struct.unpack("!I", read_exactly(reader, 4))
                    if length > MAX_HEADER_BYTES:
                        return
                    header = json.loads(read_exactly(reader, length))
                    payloads = [self._receive(parts) for parts in header["p"]]
                except (EOFError, ConnectionError, ValueError):
                    return
                try:
                    answer = self._handle(header, payloads)
                finally:
                    for fd in payloads:
                        os.close(fd)
                if answer is None:  # the host gave this execution up
                    return
                described, blobs = answer
                described["b"] = [len(blob) for blob in blobs]
                data = json.dumps(described).encode()
                write_all(writer, b"".join((struct.pack("!I", len(data)), data, *blobs)))
        except ConnectionError:
            return
        finally:
            self._end_session()

    def _receive(self, parts):
        fd = memory_file("payload")
        left = sum(parts)
        view = memoryview(_chunk)
        while left:
            count = os.readv(self.reader, [view[: min(left, len(_chunk))]])
            if not count:
                os.close(fd)
                raise EOFError
            write_all(fd, view[:count])
            _chunk[:count] = _zeros[:count]
            left -= count
        os.lseek(fd, 0, 0)
        return fd

    def _handle(self, header, payloads):
        kind = header["k"]
        if kind == "ping":
            return {"st": "pong", "pid": os.getpid()}, []
        if kind == "open":
            return self._open_session(header)
        if kind == "ask":
            return self._ask_session(header, payloads[0])
        if kind == "close":
            self._end_session()
            return {"st": "closed"}, []
        if kind == "checks":
            return self._run_checks(header, payloads)
        return self._run(header, payloads)

    def end(self):
        """Never returns: the whole service ends."""
        self.users.kill()
        os._exit(0)

    # -- one execution

    def _run(self, header, payloads):
        bounds = confine.Bounds(header)
        result, out, error = memory_file("result"), memory_file("out"), memory_file("err")
        try:
            stdin = payloads[1] if len(payloads) > 1 else self.null
            started = time.monotonic()
            descriptors = (stdin, out, error, payloads[0], result)
            child = self._spawn(header["k"], header["p"][0], bounds, header.get("seed", 0), descriptors)
            ended = self._wait(child, started + bounds.wall_s)
            described = self._finish(ended, [child], started, bounds)
            if described is None:
                return None
            described["out"], described["err"] = os.fstat(out).st_size, os.fstat(error).st_size
            blobs = [read_file(result, MAX_RESULT_BYTES), read_file(out, bounds.kept_bytes), read_file(error, 8192)]
            return described, blobs
        finally:
            for fd in (result, out, error):
                os.close(fd)

    def _run_checks(self, header, payloads):
        bounds = confine.Bounds(header)
        result, out = memory_file("result"), memory_file("out")
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
            if ended == "ended":
                os.kill(served, 9)
            described = self._finish(ended, [checking, served], started, bounds)
            if described is None:
                return None
            described["out"], described["err"] = os.fstat(out).st_size, 0
            return described, [read_file(result, MAX_RESULT_BYTES), read_file(out, bounds.kept_bytes), b""]
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
        """Until the process ends, the deadline passes, or the host hangs up: "ended", "late" or "dropped"."""
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(self.reader, HANGUP & ~(select.POLLHUP | select.POLLERR))
            while True:
                left_ms = (deadline - time.monotonic()) * 1000
                if left_ms <= 0:
                    return "late"
                for ready, _ in poll.poll(left_ms + 1):
                    return "ended" if ready == fd else "dropped"
        finally:
            os.close(fd)

    def _finish(self, ended, children, started, bounds):
        """Reap the execution's processes, clean the slot, and say how it went; None where nobody waits for it any more."""
        wall = time.monotonic() - started
        if ended != "ended":
            self.users.kill()
        cpu = peak = 0.0
        status = None
        for pid in children:
            _, code, usage = os.wait4(pid, 0)
            status = code if status is None else status
            cpu += usage.ru_utime + usage.ru_stime
            peak = max(peak, usage.ru_maxrss)
        left = self._clean()
        if ended == "dropped":
            return None
        code = os.waitstatus_to_exitcode(status)
        was_starved = code == -signal.SIGKILL and ended == "ended" and self._memory_ran_out()
        is_late = ended == "late" or code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu >= bounds.cpu_s)
        return {
            "st": "late" if is_late else "memory" if was_starved else "signal" if code < 0 else "exit",
            "code": code,
            "wall": round(wall, 6),
            "cpu": round(cpu, 6),
            "rss": int(peak),
            "left": left,
        }

    def _memory_ran_out(self):
        """Whether the container's memory limit has killed a process since this was last asked."""
        before, self.memory_kills = self.memory_kills, _memory_kills()
        return self.memory_kills > before

    def _clean(self):
        """No process and no file of the slot's users may be left. Where nothing is, this costs one wait and two listings."""
        left = reap_all(self.users)
        for folder, is_own in ((self.folder, True), (SHARED_MEMORY, False)):
            if self.users.has_files(folder, is_own=is_own):
                self.users.wipe(folder)
        return left

    # -- sessions

    def _open_session(self, header):
        self._end_session()
        bounds = confine.Bounds(header)
        ours, theirs = (keep(end.detach()) for end in socket.socketpair())
        out = memory_file("out")
        descriptors = (self.null, out, out, self.null, self.null, theirs)
        pid = self._spawn("session", [], bounds, header.get("seed", 0), descriptors)
        os.close(theirs)
        self.session = (pid, ours, out)
        return {"st": "open"}, []

    def _ask_session(self, header, payload):
        if self.session is None:
            return {"st": "none"}, [b"", b""]
        pid, link, out = self.session
        os.ftruncate(out, 0)
        os.lseek(out, 0, 0)
        request = read_file(payload, MAX_RESULT_BYTES)
        started = time.monotonic()
        status, answer = self._exchange(pid, link, request, started + float(header["wall_s"]))
        blobs = [answer, read_file(out, int(header["output_bytes"]))]
        described = {"st": status, "wall": round(time.monotonic() - started, 6), "out": os.fstat(out).st_size}
        if status in ("dead", "killed", "dropped"):
            self._end_session()
        return None if status == "dropped" else (described, blobs)

    def _exchange(self, pid, link, request, deadline):
        """Send one request to the session. Late: an interrupt first, then the end. "ok", "late", "killed", "dead", "dropped"."""
        try:
            write_all(link, struct.pack("!I", len(request)) + request)
        except OSError:
            return "dead", b""
        poll = select.poll()
        poll.register(link, select.POLLIN)
        poll.register(self.reader, HANGUP & ~(select.POLLHUP | select.POLLERR))
        buffer, status = b"", "ok"
        while True:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                if status == "late":
                    return "killed", b""
                status, deadline = "late", time.monotonic() + 0.5
                os.kill(pid, signal.SIGINT)
                continue
            for ready, _ in poll.poll(left_ms + 1):
                if ready != link:
                    return "dropped", b""
                data = os.read(link, 1 << 16)
                if not data:
                    return "dead", b""
                buffer += data
            if len(buffer) >= 4:
                (length,) = struct.unpack("!I", buffer[:4])
                if length > MAX_RESULT_BYTES:
                    return "killed", b""
                if len(buffer) >= 4 + length:
                    return status, buffer[4 : 4 + length]

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


def _memory_kills():
    """How often this container's memory limit has killed a process (cgroup v2, then v1); 0 where that cannot be read."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path, encoding="ascii") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
