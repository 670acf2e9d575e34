"""The worker process: `python -m rlvr.verifiers.worker` grades rollouts one after another until its parent hangs up.

Standard input is a socket to the parent. Before any plugin is loaded the socket moves to a private descriptor,
standard input becomes empty and standard output becomes standard error: what a plugin prints can not reach the parent
as a message.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from rlvr.errors import RlvrError
from rlvr.registry import resolve
from rlvr.types import Verdict
from rlvr.verifiers.base import Verifier, as_verifier
from rlvr.verifiers.call import call_verifier
from rlvr.verifiers.chunk import grade_chunk
from rlvr.verifiers.protocol import (
    HEADER_BYTES,
    decode_frame,
    encode_frame,
    frame_size,
    rollout_from_json,
    verdict_to_json,
)

# The parent kills a worker at the limit; this alarm is for the worker whose parent died while it was stuck.
ALARM_GRACE_S = 1.0


def main() -> None:
    connection = _take_connection()
    worker_pid = os.getpid()
    verifiers: dict[str, Verifier] = {}
    while (request := _receive(connection)) is not None:
        if "load" in request:
            reply = _load(request, verifiers)
        else:
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + ALARM_GRACE_S)
            reply = _grade_chunk(request) if "lines" in request else _grade(request, verifiers)
        if os.getpid() != worker_pid:
            os._exit(0)  # the plugin forked, and this is the child: it has nothing to say
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(_encode(request["job"], reply))


def _take_connection() -> socket.socket:
    # A parent that catches SIGALRM or ignores SIGINT must not shape the worker: the alarm's default action ends it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=os.dup(0))
    connection.setblocking(True)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return connection


def _load(request: Mapping[str, Any], verifiers: dict[str, Verifier]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if request["memory_mb"] is not None:
        limit = request["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        for reference in request["load"]:
            verifiers[reference] = as_verifier(resolve("verifiers", reference))
            if (warm_up := verifiers[reference].warm_up) is not None:
                warm_up()
    except (RlvrError, ImportError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def _grade(request: Mapping[str, Any], verifiers: Mapping[str, Verifier]) -> dict[str, Any]:
    try:
        rollout = rollout_from_json(request["rollout"])
        verdict = call_verifier(verifiers[request["verifier"]], rollout, request["settings"])
    except MemoryError:
        return {"error": "MemoryError"}
    is_exhausted = verdict.score is None and "MemoryError" in verdict.reason
    return {"verdict": verdict_to_json(verdict), "is_exhausted": is_exhausted}


def _grade_chunk(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        verifier = as_verifier(resolve("verifiers", request["verifier"]))
    except (RlvrError, ImportError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"chunk": grade_chunk(request["lines"], request["name"], request["first"], verifier, request["settings"]).to_json()}


def _encode(job: int, reply: dict[str, Any]) -> bytes:
    try:
        return encode_frame({"job": job, **reply})
    except RlvrError as error:
        verdict = Verdict.error(f"the verdict cannot be sent ({error}); its details must be JSON")
        return encode_frame({"job": job, "verdict": verdict_to_json(verdict), "is_exhausted": False})


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    header = _read(connection, HEADER_BYTES)
    if header is None:
        return None
    body = _read(connection, frame_size(header))
    return None if body is None else decode_frame(body)


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    # Threads and exit handlers of a plugin must not keep a worker alive.
    os._exit(0)
