"""The submission's objects as the tests see them.

A test compares what it is given with what it expects. An object that could choose its answer when it sees the expectation
(`abs(f(x) - 0.5) < 1e-6` hands 0.5 to its `__sub__`), or give another one every time it is asked, would pass without a right
answer. So what a function returns is plain data, or a reference that can do little: it can be handed back, called, iterated
(always with the same items), and asked for attributes that no plain value has. An object that the test itself made, by calling a
class of the submission, can do what such objects are for.
"""

import decimal
import fractions

from .values import Opaque, encode

MAX_ITEMS = 10_000_000


class SubmissionGone(BaseException):
    """The submission ended or broke the protocol. Not an Exception: no test may take it for a result."""


class CannotPass(BaseException):
    """A test wants to hand over something that is not plain data."""


def _names(*kinds):
    return frozenset(name for kind in kinds for name in dir(kind))


# A test that asks for one of these expects a plain value: `f(x).startswith("a")`.
TEXT_NAMES = _names(str, bytes, bytearray, int, float, complex, decimal.Decimal, fractions.Fraction)
VALUE_NAMES = TEXT_NAMES | _names(list, tuple, dict, set, frozenset)


class _Remote:
    """What a reference knows; apart from it, so that every public name of a reference is the submission's."""

    __slots__ = ("index", "is_finished", "items", "iterator", "kind", "link", "refused", "refused_of_results", "taken")

    def __init__(self, link, index, kind, refused, refused_of_results):
        self.link, self.index, self.kind = link, index, kind
        self.refused, self.refused_of_results = refused, refused_of_results
        self.items, self.iterator, self.is_finished, self.taken = [], None, False, 0

    def ask(self, **query):
        return self.link.ask(self.refused_of_results, id=self.index, **query)

    def apply(self, args, kwargs, **query):
        return self.link.apply({"id": self.index, **query}, args, kwargs, self.refused_of_results)

    def pull(self):
        """Whether there was one more item."""
        if self.is_finished or len(self.items) >= MAX_ITEMS:
            return False
        if self.iterator is None:
            self.iterator = self.ask(op="iter")
        if not isinstance(self.iterator, Reference):
            raise TypeError(f"'{self.kind}' object is not iterable")
        try:
            self.items.append(self.iterator._remote.ask(op="next"))
        except StopIteration:
            self.is_finished = True
        return not self.is_finished


class Reference:
    """An object that lives in the submission's process. `refused`: names that it is not asked for."""

    def __init__(self, link, index, kind, refused):
        object.__setattr__(self, "_remote", _Remote(link, index, kind, refused, refused))

    def __repr__(self):
        return f"<remote {self._remote.kind}>"

    def __eq__(self, other):  # never asked of the submission
        return self is other

    __hash__ = object.__hash__

    def __bool__(self):
        return True

    def __getattr__(self, name):
        if name.startswith("__") or name in self._remote.refused:
            raise AttributeError(f"the submission's '{self._remote.kind}' is no plain value: it has no {name!r}")
        return self._remote.ask(op="get", name=name)

    def __setattr__(self, name, value):
        self._remote.ask(op="set", name=name, value=self._remote.link.outgoing(value))

    def __call__(self, *args, **kwargs):
        return self._remote.apply(args, kwargs, op="apply")

    def __iter__(self):
        items = self._remote.items
        at = 0
        while at < len(items) or self._remote.pull():
            yield items[at]
            at += 1

    def __next__(self):
        remote = self._remote
        if remote.taken == len(remote.items) and not remote.pull():
            raise StopIteration
        remote.taken += 1
        return remote.items[remote.taken - 1]

    def __len__(self):
        while self._remote.pull():
            continue
        return len(self._remote.items)

    def __getitem__(self, key):
        if type(key) not in (int, slice):
            raise TypeError(f"the submission's '{self._remote.kind}' is no plain value: it cannot be asked for {key!r}")
        len(self)
        return self._remote.items[key]


class Instance(Reference):
    """An object that the test made of a class of the submission: its methods and operators are what is tested."""

    @classmethod
    def of(cls, reference):
        made, known = cls.__new__(cls), reference._remote
        object.__setattr__(made, "_remote", _Remote(known.link, known.index, known.kind, frozenset(), TEXT_NAMES))
        return made

    def __iter__(self):  # what it holds may change from one time to the next
        remote = self._remote
        return iter(Reference(remote.link, remote.index, remote.kind, TEXT_NAMES))


def _operator(name, accepts):
    def method(self, *args):
        if not all(map(accepts, args)):
            return NotImplemented
        return self._remote.apply(args, {}, op="method", name=name)

    method.__name__ = name
    return method


for _name in ("len", "getitem", "setitem", "contains", "neg", "abs", "int", "float", "add", "mul"):
    setattr(Instance, f"__{_name}__", _operator(f"__{_name}__", lambda value: True))
# What a test expects may stand on the other side: only another of the submission's objects may.
for _name in ("sub", "lt", "le", "gt", "ge"):
    setattr(Instance, f"__{_name}__", _operator(f"__{_name}__", lambda value: isinstance(value, Reference)))


def outgoing(value):
    """The wire form of an argument; references travel as what they stand for.

    Raises CannotPass for what the test itself brings, and TypeError for what came from the submission and is no value.
    """
    if isinstance(value, Reference):
        return {"~": "ref", "id": value._remote.index}
    if isinstance(value, Opaque):
        raise TypeError(f"the submission's '{value.kind}' is no plain value")
    if type(value) is list:
        return [outgoing(item) for item in value]
    if type(value) is tuple:
        return {"~": "tuple", "v": [outgoing(item) for item in value]}
    if type(value) is dict:
        return {"~": "dict", "v": [[outgoing(key), outgoing(item)] for key, item in value.items()]}
    data = encode(value)
    if type(data) is dict and data.get("~") == "opaque":
        raise CannotPass(f"a test passes a {data['c']} to the submission, which is not plain data")
    return data
