"""What runs in the checking child: the tests, under a user that the submission can neither read nor signal.

The submission is on the other end of a link. Only plain data comes over; its objects appear here as references (see
remote.py) that are never asked to compare themselves with what a test expects.
"""

import ast
import builtins
import json
import os
import random
import struct

from .remote import VALUE_NAMES, CannotPass, Instance, Reference, SubmissionGone, outgoing
from .values import decode
from .wire import read_exactly, write_all

PAYLOAD, RESULT, LINK = 3, 4, 5
MAX_MESSAGE_BYTES = 8 << 20
SETTLE = "__settle__"
MAX_DESCRIBED = 50  # failures whose messages are kept: a verdict that is too long to be read would be none


class RemoteError(Exception):
    """An exception of a class that is not a builtin."""


class Link:
    """Questions to the submission and its answers. `gone` and `cannot_pass` tell what a test's `except:` may have eaten."""

    def __init__(self):
        self.questions = 0
        self.gone = self.cannot_pass = ""
        self.changes = []

    def ask(self, refused, **query):
        """One question, one answer; raises what the submission raised. `refused`: see `Reference`."""
        return self.value(self.exchange(query), refused)

    def exchange(self, query):
        self.questions += 1
        try:
            data = json.dumps(query).encode()
            write_all(LINK, struct.pack("!I", len(data)) + data)
            return self.receive()
        except (EOFError, OSError):
            self.gone = "it ended before it answered"
        except SubmissionGone as error:
            self.gone = str(error)
        raise SubmissionGone(self.gone)

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

    def value(self, answer, refused):
        if "e" in answer:
            raise _exception(answer["e"])
        return self.plain(answer.get("v"), refused)

    def plain(self, data, refused):
        try:
            return decode(data, lambda index, kind: Reference(self, index, kind, refused))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError):
            self.gone = "a value cannot be read"
            raise SubmissionGone(self.gone) from None

    def apply(self, query, args, kwargs, refused):
        """A call. What it did to its arguments is done to ours, too, before the test's next statement: at once,
        `assert f(data) == sorted(data)` would hold for whoever empties `data`.
        """
        query["args"] = [self.outgoing(arg) for arg in args]
        query["kwargs"] = {name: self.outgoing(value) for name, value in kwargs.items()}
        answer = self.exchange(query)
        value = self.value(answer, refused)
        if "args" in answer:
            theirs = self.plain(answer["args"], refused)
            self.changes += zip(args, theirs if type(theirs) is list else (), strict=False)
        return value

    def settle(self):
        changes, self.changes = self.changes, []
        for mine, changed in changes:
            _write_back(mine, changed)

    def outgoing(self, value):
        try:
            return outgoing(value)
        except CannotPass as error:
            self.cannot_pass = str(error)
            raise


def _exception(described):
    said = _said(described)
    found = getattr(builtins, said["kind"], None)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, UnicodeError):
        try:
            return found(said["message"])
        except Exception:
            pass
    return RemoteError(f"{said['kind']}: {said['message']}")


def _said(described):
    """A failure in the submission's words, which may be anything, as two texts."""
    kind, message = (described.get(key) if type(described) is dict else None for key in ("kind", "message"))
    return {"kind": kind[:80] if type(kind) is str else "Exception", "message": message[:500] if type(message) is str else ""}


def _write_back(mine, theirs):
    """An argument that was changed in place there is changed here too."""
    if type(mine) is not type(theirs):
        return
    if type(mine) is list or type(mine) is bytearray:
        mine[:] = theirs
    elif type(mine) in (dict, set):
        mine.clear()
        mine.update(theirs)


def entry(link, name, *, is_class):
    """A stand-in for one function or class of the submission."""
    short = name.split(".")[-1]

    def call(*args, **kwargs):
        value = link.apply({"op": "call", "function": name}, args, kwargs, VALUE_NAMES)
        return Instance.of(value) if is_class and type(value) is Reference else value

    call.__name__ = call.__qualname__ = short
    return call


def _uses_objects(tree):
    """Whether tests ask for an attribute that neither a module nor a plain value has: then they are about a class."""
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return any(
        node.attr not in VALUE_NAMES and _root(node) not in modules for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    )


def _root(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _compiled(tree):
    """Test code that settles before each of its statements."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if type(block) is list:  # of a lambda or a conditional expression it is one expression
                setattr(node, field, [part for statement in block for part in (*_settling(statement), statement)])
    return compile(ast.fix_missing_locations(tree), "<tests>", "exec", dont_inherit=True)


def _settling(statement):
    if isinstance(statement, ast.Expr | ast.ImportFrom) and not any(isinstance(node, ast.Call) for node in ast.walk(statement)):
        return ()  # a docstring and a future import must stay the first
    call = ast.Expr(ast.Call(ast.Name(SETTLE, ast.Load()), [], []))
    ast.copy_location(call, statement)
    return (call,)


def check(wanted):
    """Run the tests; returns the verdict that goes to the host."""
    link = Link()
    verdict = {"nonce": wanted["nonce"], "passed": [], "failures": [], "checked": False, "unsupported": "", "fatal": None}
    space = {"__builtins__": builtins, "__name__": "__tests__", SETTLE: link.settle}
    try:
        trees = [ast.parse(chunk, "<tests>") for chunk in (wanted["setup"], *wanted["tests"], wanted["finish"])]
        has_objects = any(map(_uses_objects, trees))
        chunks = [_compiled(tree) for tree in trees]
    except (SyntaxError, ValueError, RecursionError) as error:
        verdict["fatal"] = _described(error)
        return verdict
    try:
        loaded = link.receive()
    except (EOFError, OSError, SubmissionGone):
        loaded = {"e": {"kind": "SystemExit", "message": "the submission ended while it was loaded"}}
    if "e" in loaded:
        verdict.update(checked=True, failures=[_said(loaded["e"])], passed=[False])
        return verdict
    for name in wanted["entry_points"]:
        space[name] = entry(link, name, is_class=has_objects and name.split(".")[-1][:1].isupper())
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
        failure = None
        try:
            exec(chunk, space)
        except BaseException as error:
            failure = _described(error)
        if link.cannot_pass:
            verdict["unsupported"] = link.cannot_pass
            break
        if link.gone:  # whatever the test made of it
            failure = {"kind": "SubmissionGone", "message": link.gone}
        verdict["passed"].append(failure is None)
        if failure is not None and verdict["passed"].count(False) > MAX_DESCRIBED:
            failure["message"] = ""
        verdict["failures"].append(failure)
        if link.gone:
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
        if seed:
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
