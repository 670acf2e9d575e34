"""What runs in the untrusted child, under the submission's own user. Nothing here can be relied on once its code has started.

Descriptors: 0 stdin, 1 stdout, 2 stderr, 3 the payload, 4 the result (lines of JSON), 5 the link of a checked run or session.
"""

import ast
import atexit
import builtins
import json
import os
import random
import signal
import struct
import sys
import threading
import traceback
import types

from .values import decode, encode
from .wire import read_exactly, write_all

PAYLOAD, RESULT, LINK = 3, 4, 5
MAX_MESSAGE = 500
COMPILER = ("g++", "-O2", "-std=c++17", "-pipe", "-o", "main", "main.cpp")


class CallTimeout(BaseException):
    """One call took longer than its own limit. Not an Exception: a submission's `except Exception` must not eat it."""


def program(lengths, bounds):
    """Run the payload as `__main__`; threads and exit functions get their end, as in a plain interpreter."""
    (code,) = _payload(lengths)
    sys.argv[:] = ["main.py"]
    space = _fresh_main()
    try:
        _load(code, space)
    except SystemExit as exit_:
        _finish_interpreter()
        return _exit_code(exit_)
    except BaseException as error:
        _report({"fatal": describe(error)})
        traceback.print_exception(type(error), error, _own_frames(error))
        _finish_interpreter()
        return 1
    _finish_interpreter()
    return 0


def calls(lengths, bounds):
    """Define the submission, then one result line for each call."""
    code, wanted = _payload(lengths)
    wanted = json.loads(wanted)
    space = _fresh_main()
    try:
        _load(code, space)
        function = resolve(space, wanted["function"])
    except BaseException as error:
        _report({"fatal": describe(error)})
        return 0
    if bounds.call_s:
        signal.signal(signal.SIGALRM, _on_alarm)
    for args, kwargs in wanted["calls"]:
        line = _one_call(function, decode(args), decode(kwargs), bounds.call_s)
        _report(line)
        if "late" in line and wanted["stops_when_late"]:
            break
    return 0


def _one_call(function, args, kwargs, limit_s):
    try:
        if limit_s:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            value = function(*args, **kwargs)
        finally:
            if limit_s:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return {"v": encode(value)}
    except CallTimeout:
        return {"late": True}
    except SystemExit as error:  # ends this call, as it would have ended the program
        return {"e": describe(error)}
    except BaseException as error:
        return {"e": describe(error)}


def _on_alarm(number, frame):
    raise CallTimeout


def serve(lengths, bounds):
    """Answer the checking process over the link: calls, attributes and iteration of the submission's objects."""
    (code,) = _payload(lengths)
    space = _fresh_main()
    objects = []
    try:
        _load(code, space)
        _send({"v": None})
    except BaseException as error:
        _send({"e": describe(error)})
        return 0
    while True:
        try:
            query = _receive()
        except EOFError:
            return 0
        try:
            answer = _answer(query, space, objects)
        except Exception as error:
            answer = {"e": describe(error)}
        _send(answer)


def _answer(query, space, objects):
    def known(index, _):
        return objects[index]

    operation = query["op"]
    if operation == "next":
        return {"v": encode(next(objects[query["id"]]), objects)}
    if operation == "iter":
        objects.append(iter(objects[query["id"]]))
        return {"v": {"~": "ref", "id": len(objects) - 1, "c": "iterator"}}
    if operation == "get":
        return {"v": encode(getattr(objects[query["id"]], query["name"]), objects)}
    if operation == "set":
        setattr(objects[query["id"]], query["name"], decode(query["value"], known))
        return {"v": None}
    args = decode(query["args"], known)
    kwargs = decode(query["kwargs"], known)
    if operation == "call":
        target = resolve(space, query["function"])
    elif operation == "apply":
        target = objects[query["id"]]
    else:
        target = getattr(objects[query["id"]], query["name"])
    value = encode(target(*args, **kwargs), objects)
    answer = {"v": value}
    if any(type(arg) in (list, dict, set, bytearray) for arg in args):  # what the call did to its arguments
        answer["args"] = encode(list(args), objects)
    return answer


def session(lengths, bounds):
    """A notebook: cells come over the link, their output goes to stdout, and the variables stay."""
    space = _fresh_main()
    count = 0
    while True:
        try:
            request = _receive()
        except EOFError:
            return 0
        if request["op"] == "put":
            answer = _put_file(request)
        elif request["op"] == "get":
            answer = _get_file(request)
        else:
            count += 1
            answer = _cell(request["code"], space, f"<cell {count}>")
        while True:  # an interrupt that arrives late must not cost the answer
            try:
                _send(answer)
                break
            except KeyboardInterrupt:
                continue


def _cell(code, space, name):
    answer = {}
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
            if value is not None:
                answer["shown"] = repr(value)
                space["_"] = value
    except BaseException as error:
        answer["e"] = describe(error)
        try:
            answer["traceback"] = "".join(traceback.format_exception(type(error), error, _own_frames(error), limit=-20))[-20_000:]
        except BaseException:
            answer["traceback"] = answer["e"]["kind"]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    return answer


def _put_file(request):
    try:
        os.makedirs(os.path.dirname(request["path"]) or ".", exist_ok=True)
        with open(request["path"], "wb") as file:
            file.write(bytes.fromhex(request["content"]))
    except (OSError, ValueError) as error:
        return {"e": describe(error)}
    return {}


def _get_file(request):
    try:
        with open(request["path"], "rb") as file:
            return {"content": file.read(request["limit"] + 1).hex()}
    except (OSError, ValueError) as error:
        return {"e": describe(error)}


def compile_cpp(lengths, bounds):
    """g++ in the submission's folder; the program goes to the result."""
    (code,) = _payload(lengths)
    with open("main.cpp", "wb") as file:
        file.write(code)
    try:
        pid = os.posix_spawnp(COMPILER[0], COMPILER, os.environ)
    except FileNotFoundError:
        return 127
    _, status = os.waitpid(pid, 0)
    if status == 0:
        with open("main", "rb") as file:
            write_all(RESULT, file.read())
    return 0 if status == 0 else 1


def binary(lengths, bounds):
    """Become the compiled program that the payload is."""
    os.close(RESULT)
    os.execve(PAYLOAD, ["main"], dict(os.environ))


MODES = {
    "program": program,
    "calls": calls,
    "checks": serve,
    "session": session,
    "compile": compile_cpp,
    "binary": binary,
}


def run(mode, lengths, bounds, seed):
    """Never returns: the child's whole life after it has dropped its rights."""
    code = 120
    try:
        if seed:  # the server has seeded with 0 already; doing it here costs more than most submissions
            random.seed(seed)
        code = MODES[mode](lengths, bounds)
    except SystemExit as exit_:
        code = _exit_code(exit_)
    except BaseException as error:
        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    finally:
        _flush()
        os._exit(code & 255)


def resolve(space, name):
    """A function by name: a global, `Class.method`, or a method of a class `Solution`."""
    if name in space:
        return space[name]
    if "." in name:
        owner, attribute = name.split(".", 1)
        target = space[owner]
        return getattr(target() if isinstance(target, type) else target, attribute)
    if "Solution" in space:
        return getattr(space["Solution"](), name)
    raise NameError(f"name {name!r} is not defined")


def describe(error):
    """An exception as plain text; its own `__str__` may be hostile."""
    kind = type.__getattribute__(type(error), "__name__")
    try:
        message = str.__str__(str(error))[:MAX_MESSAGE]
    except BaseException:
        message = ""
    return {"kind": str(kind)[:80], "message": message.encode("utf-8", "replace").decode()}


def _own_frames(error):
    """The traceback without the frames of this package."""
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("<"):
        trace = trace.tb_next
    return trace


_stdout, _stderr = sys.stdout, sys.stderr


def _flush():
    for stream in (_stdout, _stderr):
        try:
            stream.flush()
        except BaseException:
            pass


def _finish_interpreter():
    if threading.active_count() == 1 and not atexit._ncallbacks():
        return
    for finish in (threading._shutdown, atexit._run_exitfuncs):
        try:
            finish()
        except BaseException:
            traceback.print_exc()


def _exit_code(exit_):
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code
    sys.stderr.write(f"{exit_.code}\n")
    return 1


def _fresh_main():
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module.__dict__


def _load(code, space):
    exec(compile(code, "<submission>", "exec", dont_inherit=True), space)


def _payload(lengths):
    parts, offset = [], 0
    for length in lengths:
        parts.append(os.pread(PAYLOAD, length, offset))
        offset += length
    os.close(PAYLOAD)
    return parts


def _report(line):
    try:
        data = json.dumps(line).encode()
    except (ValueError, TypeError, RecursionError):
        data = json.dumps({"v": {"~": "opaque", "c": "unencodable"}}).encode()
    write_all(RESULT, data + b"\n")


def _send(message):
    data = json.dumps(message).encode()
    write_all(LINK, struct.pack("!I", len(data)) + data)


def _receive():
    (length,) = struct.unpack("!I", read_exactly(LINK, 4))
    return json.loads(read_exactly(LINK, length))
