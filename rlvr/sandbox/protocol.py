"""Jobs as requests to a slot, and its answers as executions. Everything in an answer's blobs is the submission's choice."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import (
    Binary,
    Calls,
    Checks,
    Compile,
    Execution,
    Failure,
    Flavor,
    Job,
    Limits,
    Program,
    Returned,
    Status,
)
from rlvr.sandbox.plain import NotPlainError, Opaque, decode, encode
from rlvr.types import JSON

MAX_JOB_BYTES = 48 << 20
_SCIENCE = re.compile(r"^\s*(?:import|from)\s+(?:numpy|sympy|mpmath|scipy|pandas)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to the slot: header, payloads (each in parts), and the nonce that a checking process must repeat."""

    header: dict[str, JSON]
    payloads: tuple[tuple[bytes, ...], ...]
    nonce: str = ""


def flavor_of(job: Job) -> Flavor:
    """Which warm interpreter suits: importing numpy takes a cold one longer than most submissions run."""
    if isinstance(job, Binary | Compile):
        return "standard"
    texts = (job.code, job.setup, *job.tests) if isinstance(job, Checks) else (job.code,)
    return "science" if any(_SCIENCE.search(text) for text in texts) else "standard"


def request(job: Job, limits: Limits) -> Request:
    """The wire form of a job.

    Raises:
        SandboxError: an argument of a call is not plain data, or the job is too large.
    """
    header: dict[str, JSON] = limits_header(limits)
    nonce = ""
    payloads: tuple[tuple[bytes, ...], ...]
    if isinstance(job, Program):
        header["k"], payloads = "program", ((_source(job.code),), (job.stdin,))
    elif isinstance(job, Calls):
        header["k"], payloads = "calls", ((_source(job.code), _calls(job)),)
    elif isinstance(job, Checks):
        nonce = secrets.token_hex(16)
        header["k"], payloads = "checks", ((_source(job.code),), (_checks(job, nonce),))
    elif isinstance(job, Compile):
        header["k"], payloads = "compile", ((_source(job.code),),)
    else:
        header["k"], payloads = "binary", ((job.binary,), (job.stdin,))
    size = sum(len(part) for payload in payloads for part in payload)
    if size > MAX_JOB_BYTES:
        raise SandboxError(f"a job of {size} bytes; the sandbox takes at most {MAX_JOB_BYTES}: shorten its input")
    return Request(header, payloads, nonce)


def limits_header(limits: Limits) -> dict[str, JSON]:
    return {
        "wall_s": limits.wall_s,
        "cpu_s": limits.cpu_s,
        "call_s": limits.call_s,
        "memory_mb": limits.memory_mb,
        "processes": limits.processes,
        "file_mb": limits.file_mb,
        "output_bytes": limits.output_bytes,
    }


def execution(job: Job, nonce: str, answer: dict[str, JSON], blobs: list[bytes], image: str) -> Execution:
    """What the slot's answer says about the job.

    Raises:
        SandboxError: the checking process failed by itself (its result is missing or carries another nonce).
    """
    result, stdout, stderr = blobs
    code = int(answer["code"])
    common: dict[str, Any] = {
        "exit_code": max(code, 0),
        "signal": max(-code, 0),
        "stdout": stdout,
        "stdout_bytes": int(answer["out"]),
        "stderr": stderr,
        "wall_s": float(answer["wall"]),
        "cpu_s": float(answer["cpu"]),
        "peak_memory_mb": round(int(answer["rss"]) / 1024, 1),
        "image": image,
    }
    status = _STATUS[answer["st"]]
    if isinstance(job, Checks):
        return _checked(status, result, nonce, common)
    lines = _lines(result) if isinstance(job, Program | Calls) else []
    failure = next((_failure(line["fatal"]) for line in lines if "fatal" in line), None)
    if isinstance(job, Compile):
        return Execution(status, binary=result if code == 0 else b"", failure=_compiler_failure(code, stderr), **common)
    if failure is not None and failure.kind == "MemoryError" and status is Status.EXITED:
        status = Status.OUT_OF_MEMORY
    returned = tuple(_returned(line) for line in lines if "fatal" not in line) if isinstance(job, Calls) else ()
    return Execution(status, failure=failure, returned=returned, **common)


_STATUS = {
    "late": Status.TIMED_OUT,
    "memory": Status.OUT_OF_MEMORY,
    "signal": Status.KILLED,
    "exit": Status.EXITED,
}


def _source(code: str) -> bytes:
    # A lone surrogate has no bytes; as a question mark it is a syntax error or a character in a string, never our failure.
    return code.encode("utf-8", "replace")


def _calls(job: Calls) -> bytes:
    try:
        calls = [[encode(list(call.args)), encode(dict(call.kwargs))] for call in job.calls]
    except NotPlainError as error:
        raise SandboxError(f"a call of {job.function!r} cannot be made: {error}") from error
    return json.dumps({"function": job.function, "calls": calls}).encode()


def _checks(job: Checks, nonce: str) -> bytes:
    wanted = {"entry_points": job.entry_points, "tests": job.tests, "setup": job.setup, "finish": job.finish, "nonce": nonce}
    return json.dumps(wanted).encode()


def _lines(result: bytes) -> list[dict[str, JSON]]:
    """The result's JSON lines, up to the first that is none: a killed submission may leave half a line."""
    lines: list[dict[str, JSON]] = []
    for text in result.split(b"\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def _failure(described: JSON) -> Failure:
    if not isinstance(described, dict):
        return Failure("Exception", "")
    return Failure(str(described.get("kind", "Exception"))[:80], str(described.get("message", ""))[:500])


def _returned(line: dict[str, JSON]) -> Returned:
    if "late" in line:
        return Returned(failure=Failure("TimeoutError", "the call took longer than its limit"))
    if "e" in line:
        return Returned(failure=_failure(line["e"]))
    try:
        return Returned(value=decode(line.get("v")))
    except NotPlainError as error:
        return Returned(value=Opaque(str(error)[:80]))


def _compiler_failure(code: int, stderr: bytes) -> Failure | None:
    if code == 0:
        return None
    if code == 127:
        raise SandboxError("the sandbox's image has no C++ compiler: rlvr sandbox build --with cpp")
    return Failure("CompileError", stderr.decode(errors="replace")[:500])


def _checked(status: Status, result: bytes, nonce: str, common: dict[str, JSON]) -> Execution:
    try:
        verdict = json.loads(result)
    except ValueError:
        verdict = {}
    if status is not Status.EXITED and not verdict:
        return Execution(status, **common)  # the time ran out, or memory did: no verdict, so nothing passed
    if verdict.get("nonce") != nonce:
        fatal = _failure(verdict.get("fatal", {"kind": "no verdict", "message": f"exit code {common['exit_code']}"}))
        if fatal.kind == "MemoryError":
            return Execution(Status.OUT_OF_MEMORY, failure=fatal, **common)
        raise SandboxError(f"the checking process failed: {fatal.kind}: {fatal.message}")
    if not verdict["checked"]:
        failure = _failure(verdict["fatal"]) if verdict["fatal"] else None
        return Execution(status, failure=failure, is_checked=False, unsupported=verdict["unsupported"], **common)
    failures = tuple(None if item is None else _failure(item) for item in verdict["failures"])
    passed = tuple(bool(item) for item in verdict["passed"])
    return Execution(status, passed=passed, check_failures=failures, unsupported=verdict["unsupported"], **common)
