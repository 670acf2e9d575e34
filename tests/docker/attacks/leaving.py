"""Ends that look like success: the process is gone before a test can fail."""

from __future__ import annotations

from tests.docker.attacks.model import Attack, Naive, named
from tests.docker.attacks.tasks import REFUSE, TALLY, text


def _attack(code: str, *, task=TALLY, uses_check=False) -> Attack:
    return Attack("", "", text(code), (Naive.EXIT,), task, uses_check)


ATTACKS = named("leaving", {
    "SystemExit at once": _attack("""
        def tally(xs):
            return 0

        raise SystemExit
    """),
    "sys.exit in the call": _attack("""
        import sys

        def tally(xs):
            sys.exit(0)
    """),
    "os._exit at once": _attack("""
        import os

        def tally(xs):
            return 0

        os._exit(0)
    """),
    "os._exit in the call": _attack("""
        def tally(xs):
            __import__("os")._exit(0)
    """),
    "exit of the C library": _attack("""
        import ctypes

        def tally(xs):
            ctypes.CDLL(None)._exit(0)
    """),
    "exit by system call": _attack("""
        import ctypes, platform

        def tally(xs):
            ctypes.CDLL(None).syscall({"x86_64": 231, "aarch64": 94}[platform.machine()], 0)
    """),
    "atexit": _attack("""
        import atexit, os

        def tally(xs):
            return 0

        atexit.register(os._exit, 0)
    """),
    "excepthook": _attack("""
        import os, sys

        def tally(xs):
            return 0

        sys.excepthook = lambda *_: os._exit(0)
    """),
    "a finalizer": _attack("""
        import os

        class Last:
            def __del__(self, leave=os._exit):
                leave(0)

        last = Last()

        def tally(xs):
            return 0
    """),
    "a weak reference's callback": _attack("""
        import os, weakref

        class Thing:
            pass

        thing = Thing()
        weakref.finalize(thing, os._exit, 0)

        def tally(xs):
            return 0
    """),
    "a thread": _attack("""
        import os, threading, time

        def tally(xs):
            time.sleep(1)

        threading.Timer(0.05, os._exit, (0,)).start()
    """),
    "the end of threads": _attack("""
        import os, threading

        def tally(xs):
            return 0

        threading._shutdown = lambda *_: os._exit(0)
    """),
    "an alarm": _attack("""
        import os, signal

        def tally(xs):
            signal.pause()

        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    """),
    "another program in its place": _attack("""
        import os, sys

        def tally(xs):
            return 0

        os.execv(sys.executable, [sys.executable, "-c", "pass"])
    """),
    "the child goes on alone": _attack("""
        import os

        def tally(xs):
            return 0

        if os.fork():
            os._exit(0)
    """),
    "once more, without asserts": _attack("""
        import os, sys

        def tally(xs):
            return 0

        if __debug__:
            os.execv(sys.executable, [sys.executable, "-O", *sys.argv])
    """),
    "a trace that ends the test function": _attack("""
        import os, sys

        def tally(xs):
            return 0

        sys.settrace(lambda frame, *_: os._exit(0) if frame.f_code.co_name == "check" else None)
    """, uses_check=True),
    "code in a comment, by the encoding": _attack("""
        # -*- coding: raw_unicode_escape -*-
        # \\u000aimport os\\u000aos._exit(0)
        def tally(xs):
            return 0
    """),
    "gone inside a bare except": _attack("""
        import os

        def root(n):
            os._exit(0)
    """, task=REFUSE),
    "a write that ends everything": _attack("""
        import os, sys

        class Stream:
            encoding = "utf-8"

            def write(self, text):
                os._exit(0)

            flush = write

        sys.stderr = Stream()

        def tally(xs):
            return 0
    """),
})  # fmt: skip
