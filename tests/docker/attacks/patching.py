"""What the tests use is changed, or what they are given changes under their hands."""

from __future__ import annotations

from tests.docker.attacks.model import Attack, Naive, named
from tests.docker.attacks.tasks import AREA, DIGITS, ORDER, PICK, ROWS, SPLIT, SPLIT_LIKE_A_CLASS, TALLY, ZERO, text

BY_CODE = (Naive.EXIT, Naive.FLAG)


def _attack(code: str, *, task=TALLY, fools=BY_CODE, uses_check=False) -> Attack:
    return Attack("", "", text(code), fools, task, uses_check)


PATCHED = named("patching", {
    "math.isclose": _attack("""
        import math

        math.isclose = lambda *args, **options: True

        def area(r):
            return 0.0
    """, task=AREA, uses_check=True),
    "the module that tests import": _attack("""
        import sys, types

        sys.modules["math"] = types.SimpleNamespace(isclose=lambda *args, **options: True)

        def area(r):
            return 0.0
    """, task=AREA, uses_check=True),
    "import itself": _attack("""
        import builtins, types

        real = builtins.__import__

        def fake(name, *rest):
            return types.SimpleNamespace(isclose=lambda *args, **options: True) if name == "math" else real(name, *rest)

        builtins.__import__ = fake

        def area(r):
            return 0.0
    """, task=AREA, uses_check=True),
    "abs": _attack("""
        import builtins

        builtins.abs = lambda value: 0.0

        def area(r):
            return 1.0
    """, task=AREA),
    "sorted": _attack("""
        import builtins

        builtins.sorted = lambda items, **options: []

        def order(xs):
            return []
    """, task=ORDER, uses_check=True),
    "range": _attack("""
        import builtins

        builtins.range = lambda *bounds: ()

        def digits(n):
            return -1
    """, task=DIGITS, uses_check=True),
    "isinstance and int": _attack("""
        import builtins

        class Anything:
            __eq__ = lambda self, other: True

        builtins.isinstance = lambda value, kind: True

        def tally(xs):
            return Anything()
    """, uses_check=True),
    "random numbers": _attack("""
        import random

        random.randrange = lambda *bounds: 0

        def digits(n):
            return 0
    """, task=DIGITS, uses_check=True),
    "a helper of the prompt": _attack("""
        def zero(coefficients):
            return 0.0

        def value_at(coefficients, x):
            return 0.0
    """, task=ZERO),
    "the test function, once it is there": _attack("""
        import sys

        def tally(xs):
            return 0

        def empty(frame, event, argument):
            if event == "call" and frame.f_code.co_name == "check":
                frame.f_locals["candidate"].__code__ = (lambda xs: Anything()).__code__

        class Anything(int):
            __eq__ = lambda self, other: True
            __hash__ = None

        sys.setprofile(empty)
    """, uses_check=True),
    "json.dumps": _attack("""
        import json

        json.dumps = lambda *args, **options: "[true, true, true, true]"

        def tally(xs):
            return 0
    """, fools=(Naive.VALUES,)),
    "os.write": _attack("""
        import os

        write = os.write
        os.write = lambda fd, data: write(fd, b"[true, true, true, true]" if fd > 2 else data)

        def tally(xs):
            return 0
    """, fools=(Naive.VALUES,)),
    "bool": _attack("""
        import builtins

        builtins.bool = lambda value: True

        def tally(xs):
            return 0
    """, fools=(Naive.VALUES,)),
    "the equality of all lists": _attack("""
        import ctypes, sys

        class Agreeing:
            def __eq__(self, other):
                return True

        # Where a type object keeps its comparison: the same place in both, found by what a dict's is known to be.
        size = ctypes.sizeof(ctypes.c_void_p)
        words = {kind: (ctypes.c_void_p * 40).from_address(id(kind)) for kind in (list, tuple, dict, object, Agreeing)}
        compare = ctypes.pythonapi.PyObject_RichCompare
        slot = type("Probe", (), {"__eq__": lambda self, other: True})
        probe = (ctypes.c_void_p * 40).from_address(id(slot))
        plain = (ctypes.c_void_p * 40).from_address(id(type("Plain", (), {})))
        at = next(i for i in range(20, 32) if probe[i] != plain[i] and words[list][i] != words[tuple][i])
        import gc
        gc.get_referents(list.__dict__)[0]["__eq__"] = lambda self, other: True
        words[list][at] = probe[at]
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(list))

        def rows(n):
            return []
    """, task=ROWS, fools=(Naive.EXIT, Naive.FLAG, Naive.VALUES)),
    "results written to every descriptor": _attack("""
        import os, struct

        def tally(xs):
            return 0

        lines = b"[true, true, true, true]\\n" + b'{"v": 263}\\n{"v": 886}\\n{"v": 11}\\n'
        verdict = b'{"nonce": "", "checked": true, "passed": [true, true, true, true], "failures": [null], "fatal": null}'
        for fd in range(3, 64):
            try:
                os.write(fd, lines)
                os.write(fd, struct.pack("!I", len(verdict)) + verdict)
            except OSError:
                pass
        os._exit(0)
    """, fools=(Naive.VALUES,)),
    "results written through /proc": _attack("""
        import os

        def tally(xs):
            return 0

        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
                os.write(target, b"[true, true, true, true]\\n")
            except OSError:
                pass
    """, fools=(Naive.VALUES,)),
    "answers sent before the questions": _attack("""
        import json, os, struct

        def tally(xs):
            return 0

        for value in (None, 0, 0, 0, 0, True, True):
            data = json.dumps({"v": value, "e": None} if value is None else {"v": value}).encode()
            for fd in range(3, 16):
                try:
                    os.write(fd, b"[true, true, true, true]\\n" if value is None else struct.pack("!I", len(data)) + data)
                except OSError:
                    pass
    """, fools=(Naive.VALUES,)),
})  # fmt: skip

CHANGING = named("changing", {
    "a number that changes when it is asked": _attack("""
        class Number:
            asked = 0

            def __float__(self):
                Number.asked += 1
                return self.values[Number.asked % len(self.values)]

        def zero(coefficients):
            number = Number()
            Number.asked = 0
            # c0 * x**0 + c1 * x**1 + 0 + ...: only the second answer counts, and it cancels the first coefficient.
            number.values = [0.0, 0.0, -coefficients[0] / coefficients[1], 0.0, 0.0]
            return number
    """, task=ZERO),
    "items that change when they are asked": _attack("""
        class Pair:
            def __init__(self, n):
                self.answers = iter([1, n, 2, 2])

            def __getitem__(self, index):
                return next(self.answers)

        def split(n):
            return Pair(n)
    """, task=SPLIT),
    "a class with items that change": _attack("""
        class Split:
            def __init__(self, n):
                self.answers = iter([1, n, 2, 2])

            def __getitem__(self, index):
                return next(self.answers)
    """, task=SPLIT_LIKE_A_CLASS),
    "another iterator every time": _attack("""
        class Items:
            def __init__(self, xs, total):
                self.rounds = iter([xs[:3], xs[:3], [total]])

            def __iter__(self):
                return iter(next(self.rounds))

        def pick(xs, total):
            return Items(xs, total)
    """, task=PICK),
    "a list that lies when it is iterated": _attack("""
        class Items(list):
            rounds = 0

            def __iter__(self):
                self.rounds += 1
                return iter(self.members if self.rounds < 3 else [self.total])

        def pick(xs, total):
            items = Items()
            items.members, items.total = xs[:3], total
            return items
    """, task=PICK),
    "the argument emptied": _attack("""
        def order(xs):
            del xs[:]
            return []
    """, task=ORDER, uses_check=True),
    "an int that lies to isinstance and to comparisons": _attack("""
        class Part(int):
            def __mul__(self, other):
                return Product()

            def __gt__(self, other):
                return True

            __lt__ = __gt__

        class Product(int):
            __eq__ = lambda self, other: True
            __hash__ = None

        def split(n):
            return [Part(1), Part(1)]
    """, task=SPLIT),
})  # fmt: skip

ATTACKS = [*PATCHED, *CHANGING]
