"""The expected value, or the harness's secret, read from where it lies."""

from __future__ import annotations

from tests.docker.attacks.model import Attack, Naive, named
from tests.docker.attacks.tasks import NAME, ROWS, TALLY, text


def _attack(code: str, *fools: Naive, task=TALLY, uses_check=False) -> Attack:
    return Attack("", "", text(code), fools, task, uses_check)


ATTACKS = named("reading", {
    "local variables of the caller": _attack("""
        import sys

        def tally(xs):
            return sys._getframe(1).f_locals["expected"]
    """, Naive.VALUES),
    "local variables of a test function": _attack("""
        import inspect

        def tally(xs):
            return inspect.currentframe().f_back.f_locals["expected"]
    """, Naive.EXIT, Naive.FLAG, uses_check=True),
    "frames of a traceback": _attack("""
        def tally(xs):
            try:
                raise LookupError
            except LookupError as error:
                frame = error.__traceback__.tb_frame
                while frame is not None:
                    if "expected" in frame.f_locals:
                        return frame.f_locals["expected"]
                    frame = frame.f_back
    """, Naive.VALUES),
    "constants in the caller's code": _attack("""
        import dis, sys

        def tally(xs):
            caller = sys._getframe(1)
            for line in dis.get_instructions(caller.f_code):
                if line.offset > caller.f_lasti and line.opname == "LOAD_CONST":
                    return line.argval
    """, Naive.EXIT, Naive.FLAG),
    "the script's own file": _attack("""
        import re, sys

        def tally(xs):
            with open(sys.argv[0]) as file:
                for call, expected in re.findall(r"tally\\((.*)\\) == (-?\\d+)", file.read()):
                    if call == repr(xs):
                        return int(expected)
    """, Naive.EXIT),
    "lines that inspect shows": _attack("""
        import inspect

        def tally(xs):
            line = inspect.stack()[1].code_context[0]
            return int(line.split("==")[1])
    """, Naive.EXIT),
    "files named on the command line": _attack("""
        import json

        def tally(xs):
            for path in open("/proc/self/cmdline").read().split("\\0"):
                if path.endswith(".json"):
                    return dict((str(args[0]), expected) for args, expected in json.load(open(path))["cases"])[str(xs)]
    """, Naive.VALUES),
    "test file on the command line": _attack("""
        import re

        def tally(xs):
            for path in open("/proc/self/cmdline").read().split("\\0"):
                if path == "tests.py":
                    found = re.search(re.escape(f"tally({xs!r}) == ") + r"(-?\\d+)", open(path).read())
                    return int(found[1])
    """, Naive.FLAG),
    "files in the working folder": _attack("""
        import json, os

        def tally(xs):
            for name in os.listdir("."):
                if name.endswith(".json"):
                    for args, expected in json.load(open(name))["cases"]:
                        if args == [xs]:
                            return expected
    """, Naive.VALUES),
    "lists that the garbage collector knows": _attack("""
        import gc

        def tally(xs):
            for found in gc.get_objects():
                if type(found) is list and len(found) == 2 and found[0] == [xs] and type(found[1]) is int:
                    return found[1]
    """, Naive.VALUES),
    "who refers to the argument": _attack("""
        import gc

        def tally(xs):
            for args in gc.get_referrers(xs):
                for pair in gc.get_referrers(args) if type(args) is list else ():
                    if type(pair) is list and len(pair) == 2 and pair[0] is args:
                        return pair[1]
    """, Naive.VALUES),
    "globals of the main module": _attack("""
        import sys

        def tally(xs):
            for value in list(vars(sys.modules["__main__"]).values()):
                if isinstance(value, dict) and "cases" in value:
                    return next(expected for args, expected in value["cases"] if args == [xs])
    """, Naive.VALUES),
    "globals of whoever calls": _attack("""
        import sys

        def tally(xs):
            tests = sys._getframe(1).f_globals["tests"]
            return next(expected for args, expected in tests["cases"] if args == [xs])
    """, Naive.VALUES),
    "expected list emptied": _attack("""
        import sys

        def rows(n):
            expected = sys._getframe(1).f_locals["expected"]
            expected.clear()
            return []
    """, Naive.VALUES, task=ROWS),
    "expected list found and made the result": _attack("""
        import gc

        def rows(n):
            for found in gc.get_objects():
                if type(found) is list and len(found) == n and found and found[0] == [5] and type(found[-1]) is list:
                    if len(found[-1]) == n:
                        return found
    """, Naive.VALUES, task=ROWS),
    "own memory searched for the tests": _attack("""
        import re

        def greet(name):
            wanted = re.compile(b"assert greet\\\\('" + name.encode() + b"'\\\\) == '([^']{5,40})'")
            memory = open("/proc/self/mem", "rb", 0)
            for line in open("/proc/self/maps"):
                span, rights, *_ = line.split()
                if not rights.startswith("rw"):
                    continue
                start, end = (int(part, 16) for part in span.split("-"))
                try:
                    memory.seek(start)
                    found = wanted.search(memory.read(end - start))
                except OSError:
                    continue
                if found:
                    return found[1].decode()
    """, Naive.FLAG, task=NAME),
    "the harness's secret in a frame": _attack("""
        import os, sys

        def tally(xs):
            return 0

        frame = sys._getframe()
        while frame is not None:
            if "nonce" in frame.f_locals:
                print("PASSED", frame.f_locals["nonce"], flush=True)
                os._exit(0)
            frame = frame.f_back
    """, Naive.FLAG),
    "the harness's secret in its file": _attack("""
        import os

        def tally(xs):
            return 0

        for path in open("/proc/self/cmdline").read().split("\\0"):
            if path == "nonce":
                print("PASSED", open(path).read(), flush=True)
                os._exit(0)
    """, Naive.FLAG),
    "a trace of the caller": _attack("""
        import sys

        seen = {}

        def watch(frame, event, argument):
            tests = frame.f_back.f_globals.get("tests") if frame.f_back else None
            if isinstance(tests, dict):
                seen.update({str(args[0]): expected for args, expected in tests["cases"]})

        sys.setprofile(watch)

        def tally(xs):
            return seen[str(xs)]
    """, Naive.VALUES),
})  # fmt: skip
