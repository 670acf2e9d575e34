"""Results that say of themselves that they are right."""

from __future__ import annotations

from tests.docker.attacks.model import Attack, Naive, named
from tests.docker.attacks.tasks import AREA, LETTERS, NAME, ROWS, TALLY, text

EVERYWHERE = (Naive.EXIT, Naive.FLAG, Naive.VALUES)
BY_CODE = (Naive.EXIT, Naive.FLAG)


def _attack(code: str, *, task=TALLY, fools=EVERYWHERE, uses_check=False) -> Attack:
    return Attack("", "", text(code), fools, task, uses_check)


ATTACKS = named("equality", {
    "object equal to everything": _attack("""
        class Anything:
            def __eq__(self, other):
                return True

        def tally(xs):
            return Anything()
    """),
    "int with its own equality": _attack("""
        class Whole(int):
            __hash__ = int.__hash__

            def __eq__(self, other):
                return True

            def __ne__(self, other):
                return False

        def tally(xs):
            return Whole(0)
    """),
    "int that passes an isinstance check": _attack("""
        class Whole(int):
            __eq__ = lambda self, other: True
            __hash__ = None

        def tally(xs):
            return Whole(len(xs))
    """, fools=BY_CODE, uses_check=True),
    "str with its own equality": _attack("""
        class Words(str):
            def __eq__(self, other):
                return isinstance(other, str)

        def greet(name):
            return Words("Dear")
    """, task=NAME),
    "list with its own equality": _attack("""
        class Rows(list):
            def __eq__(self, other):
                return len(other) >= 0

        def rows(n):
            return Rows()
    """, task=ROWS),
    "list of objects equal to everything": _attack("""
        class Anything:
            __eq__ = lambda self, other: True

        def rows(n):
            return [Anything() for _ in range(n)]
    """, task=ROWS),
    "dict with its own equality": _attack("""
        from collections import Counter

        class Letters(Counter):
            def __eq__(self, other):
                return True

        def letters(s):
            return Letters()
    """, task=LETTERS),
    "mock.ANY": _attack("""
        from unittest.mock import ANY

        def tally(xs):
            return ANY
    """),
    "MagicMock that agrees": _attack("""
        from unittest.mock import MagicMock

        def tally(xs):
            mock = MagicMock()
            mock.__eq__.return_value = True
            return mock
    """),
    "class that gives another as its own": _attack("""
        class Pretender:
            __class__ = property(lambda self: int)

            def __eq__(self, other):
                return True

        def tally(xs):
            return Pretender()
    """, fools=BY_CODE, uses_check=True),
    "class whose metaclass is equal to everything": _attack("""
        class Meta(type):
            def __eq__(cls, other):
                return True

            __hash__ = type.__hash__

        class Answer(metaclass=Meta):
            pass

        def tally(xs):
            return Answer
    """),
    "comparison that returns something true": _attack("""
        class Vague:
            def __eq__(self, other):
                return ["yes"]

        def tally(xs):
            return Vague()
    """),
    "class made at run time": _attack("""
        def tally(xs):
            return type("int", (int,), {"__eq__": lambda *_: True, "__hash__": lambda _: 0})(1)
    """),
    "float that is nowhere away from anything": _attack("""
        class Near(float):
            def __sub__(self, other):
                return 0.0

            __rsub__ = __sub__

        def area(r):
            return Near(1.0)
    """, task=AREA),
    "object that computes with itself": _attack("""
        class Number:
            def _same(self, *others):
                return self

            __sub__ = __rsub__ = __abs__ = __neg__ = __mul__ = _same

            def __lt__(self, other):
                return True

            __le__ = __lt__

        def area(r):
            return Number()
    """, task=AREA, fools=EVERYWHERE),
    "object whose difference is a plain zero": _attack("""
        class Number:
            __sub__ = __rsub__ = lambda self, other: 0.0

        def area(r):
            return Number()
    """, task=AREA),
    "object with the methods of a str": _attack("""
        class Text:
            startswith = endswith = lambda self, part: True

        def greet(name):
            return Text()
    """, task=NAME, fools=BY_CODE, uses_check=True),
    "function as a result, patched to agree": _attack("""
        import functools

        class Answer(functools.partial):
            def __eq__(self, other):
                return True

        def tally(xs):
            return Answer(print)
    """),
})  # fmt: skip
