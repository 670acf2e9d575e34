"""What runs in the checking child: the tests, under a user that the submission can neither read nor signal.

The submission is on the other end of a link. Its objects appear here as references that can be called, indexed and
iterated, but never take part in a comparison; only plain data comes over.
"""

import builtins
import json
import os
import random
import signal
import struct

from .values import decode, encode
from .wire import read_exactly, write_all

PAYLOAD, RESULT, LINK = 3, 4, 5
MAX_MESSAGE_BYTES = 8 << 20
MAX_ITERATIONS = 10_000_000


class RemoteError(Exception):
    """An exception of a class that is not a builtin."""


class SubmissionGone(BaseException):
    """The submission ended or broke the protocol. Not an Exception: no test may take it for a result."""


class CannotPass(BaseException):
    """A test wants to hand over something that is not plain data."""


class Link:
    questions = 0

    def ask(self, **query):
        """One question, one answer; raises what the submission raised."""
        return self.value(self.exchange(query))

    def exchange(self, query):
        data = json.dumps(query).encode()
        self.questions += 1
        try:
            write_all(LINK, struct.pack("!I", len(data)) + data)
            return self.receive()
        except (EOFError, OSError):
            raise SubmissionGone("it ended before it answered") from None

    def receive(self):
        (length,) = struct.unpack("!I", read_exactly(LINK, 4))
        if length > MAX_MESSAGE_BYTES:
            raise SubmissionGone(f"an answer of {length} bytes is too long")
        try:
            message = json.loads(read_exactly(LINK, length))
        except (ValueError, RecursionError):
            raise SubmissionGone("an answer cannot be read") from None
        if type(message) is not dict:
            raise SubmissionGone("an answer cannot be read")
        return message

    def value(self, answer):
        if "e" in answer:
            raise _exception(answer["e"])
        return self.plain(answer.get("v"))

    def plain(self, data):
        try:
            return decode(data, lambda index, kind: Reference(self, index, kind))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            raise SubmissionGone("a value cannot be read") from None


def _exception(described):
    kind, message = str(described.get("kind")), str(described.get("message"))[:500]
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, UnicodeError):
        try:
            return found(message)
        except Exception:
            pass
    return RemoteError(f"{kind}: {message}")


class Reference:
    """An object that lives in the submission's process."""

    def __init__(self, link, index, kind):
        object.__setattr__(self, "_remote", (link, index, kind))

    def __repr__(self):
        return f"<remote {self._remote[2]}>"

    def __eq__(self, other):  # never asked of the submission
        return self is other

    __hash__ = object.__hash__

    def __bool__(self):
        return True

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        link, index, _ = self._remote
        return link.ask(op="get", id=index, name=name)

    def __setattr__(self, name, value):
        link, index, _ = self._remote
        link.ask(op="set", id=index, name=name, value=outgoing(value))

    def __call__(self, *args, **kwargs):
        link, index, _ = self._remote
        return _apply(link, {"op": "apply", "id": index}, args, kwargs)

    def __iter__(self):
        link, index, _ = self._remote
        iterator = link.ask(op="iter", id=index)
        for _ in range(MAX_ITERATIONS):
            try:
                yield link.ask(op="next", id=iterator._remote[1])
            except StopIteration:
                return


def _method(name):
    def method(self, *args):
        link, index, _ = self._remote
        return _apply(link, {"op": "method", "id": index, "name": name}, args, {})

    method.__name__ = name
    return method


for _name in ("len", "getitem", "setitem", "add", "sub", "mul", "lt", "le", "gt", "ge", "neg", "abs", "int", "float"):
    setattr(Reference, f"__{_name}__", _method(f"__{_name}__"))


def _apply(link, query, args, kwargs):
    query["args"] = [outgoing(arg) for arg in args]
    query["kwargs"] = {name: outgoing(value) for name, value in kwargs.items()}
    answer = link.exchange(query)
    value = link.value(answer)
    if "args" in answer:
        for mine, theirs in zip(args, link.plain(answer["args"]), strict=False):
            _write_back(mine, theirs)
    return value


def _write_back(mine, theirs):
    """An argument that was changed in place there is changed here too."""
    if type(mine) is not type(theirs):
        return
    if type(mine) is list or type(mine) is bytearray:
        mine[:] = theirs
    elif type(mine) in (dict, set):
        mine.clear()
        mine.update(theirs)


def outgoing(value):
    """The wire form of an argument; references travel as what they stand for."""
    if isinstance(value, Reference):
        return {"~": "ref", "id": value._remote[1]}
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


def entry(link, name):
    """A stand-in for one function or class of the submission."""

    def call(*args, **kwargs):
        return _apply(link, {"op": "call", "function": name}, args, kwargs)

    call.__name__ = call.__qualname__ = name.split(".")[-1]
    return call


def check(wanted):
    """Run the tests; returns the verdict that goes to the host."""
    link = Link()
    verdict = {"nonce": wanted["nonce"], "passed": [], "failures": [], "checked": False, "unsupported": "", "fatal": None}
    space = {"__builtins__": builtins, "__name__": "__tests__"}
    try:
        chunks = [compile(chunk, "<tests>", "exec") for chunk in (wanted["setup"], *wanted["tests"], wanted["finish"])]
    except (SyntaxError, ValueError) as error:
        verdict["fatal"] = _described(error)
        return verdict
    try:
        loaded = link.receive()
    except (EOFError, OSError, SubmissionGone):
        loaded = {"e": {"kind": "SystemExit", "message": "the submission ended while it was loaded"}}
    if "e" in loaded:
        verdict.update(checked=True, failures=[loaded["e"]], passed=[False])
        return verdict
    for name in wanted["entry_points"]:
        space[name] = entry(link, name)
    try:
        exec(chunks[0], space)
    except CannotPass as error:
        verdict["unsupported"] = str(error)
        return verdict
    except BaseException as error:
        if link.questions:  # it used the submission, which may be what is wrong
            verdict.update(checked=True, failures=[_described(error)], passed=[False])
        else:
            verdict["fatal"] = _described(error)
        return verdict
    verdict["checked"] = True
    has_finish = bool(wanted["finish"].strip())
    for chunk in chunks[1:] if has_finish else chunks[1:-1]:
        try:
            exec(chunk, space)
            verdict["passed"].append(True)
            verdict["failures"].append(None)
        except CannotPass as error:
            verdict["unsupported"] = str(error)
            break
        except BaseException as error:
            verdict["passed"].append(False)
            verdict["failures"].append(_described(error))
            if isinstance(error, SubmissionGone):
                break
    return verdict


def _described(error):
    try:
        message = str(error)[:500]
    except BaseException:
        message = ""
    return {"kind": type(error).__name__, "message": message.encode("utf-8", "replace").decode()}


def run(seed):
    """Never returns: the checking child's whole life after it has dropped its rights."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        random.seed(seed)
        wanted = json.loads(os.pread(PAYLOAD, os.fstat(PAYLOAD).st_size, 0))
        os.close(PAYLOAD)
        write_all(RESULT, json.dumps(check(wanted)).encode())
        os._exit(0)
    except BaseException as error:
        os.ftruncate(RESULT, 0)
        os.pwrite(RESULT, json.dumps({"fatal": _described(error)}).encode(), 0)
    finally:
        os._exit(121)
