"""Jobs as requests to a slot, and its answers as executions. Everything in an answer's blobs is the submission's choice."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlvr.errors import SandboxError
from rlvr.sandbox.channel import frame_header
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
MAX_NODES = 1_000_000  # of JSON in one result
_SCIENCE = re.compile(r"^\s*(?:import|from)\s+(?:numpy|sympy|mpmath|scipy|pandas)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to the slot: its head, payloads (each in parts), and the nonce that a checking process must repeat."""

    head: bytes
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
    nonce = ""
    payloads: tuple[tuple[bytes, ...], ...]
    if isinstance(job, Program):
        kind, payloads = "program", ((_source(job.code),), (job.stdin,))
    elif isinstance(job, Calls):
        kind, payloads = "calls", ((_source(job.code), _calls(job)),)
    elif isinstance(job, Checks):
        nonce = secrets.token_hex(16)
        kind, payloads = "checks", ((_source(job.code),), (_checks(job, nonce),))
    elif isinstance(job, Compile):
        kind, payloads = "compile", ((_source(job.code),),)
    else:
        kind, payloads = "binary", ((job.binary,), (job.stdin,))
    size = sum(len(part) for payload in payloads for part in payload)
    if size > MAX_JOB_BYTES:
        raise SandboxError(f"a job of {size} bytes; the sandbox takes at most {MAX_JOB_BYTES}: shorten its input")
    return Request(frame_header(f'{{"k": "{kind}", {_limits_text(limits)}}}', payloads), payloads, nonce)


@lru_cache(maxsize=64)
def _limits_text(limits: Limits) -> str:
    """A JSON object without its braces."""
    return json.dumps(limits_header(limits))[1:-1]


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
        SandboxError: the answer makes no sense, or the checking process failed by itself (its result is missing or carries
            another nonce).
    """
    try:
        result, stdout, stderr = blobs
        code = _whole(answer["code"])
        status = _STATUS[answer["st"]]
        common: dict[str, Any] = {
            "exit_code": max(code, 0),
            "signal": max(-code, 0),
            "stdout": stdout,
            "stdout_bytes": _whole(answer["out"]),
            "stderr": stderr,
            "wall_s": _seconds(answer["wall"]),
            "cpu_s": _seconds(answer["cpu"]),
            "peak_memory_mb": round(_whole(answer["rss"]) / 1024, 1),
            "image": image,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise SandboxError(f"the sandbox's slot answered nonsense ({error}): {str(answer)[:200]}") from error
    if isinstance(job, Checks):
        return _checked(status, result, nonce, common)
    if isinstance(job, Compile):
        return Execution(status, binary=result if code == 0 else b"", failure=_compiler_failure(code, stderr), **common)
    if not isinstance(job, Program | Calls):
        return Execution(status, **common)
    lines = _lines(result, len(job.calls) if isinstance(job, Calls) else 0)
    failure = next((failure_of(line["fatal"]) for line in lines if "fatal" in line), None)
    if failure is not None and failure.kind == "MemoryError" and status is Status.EXITED:
        status = Status.OUT_OF_MEMORY
    returned = tuple(_returned(line) for line in lines if "fatal" not in line)[: len(job.calls)] if isinstance(job, Calls) else ()
    return Execution(status, failure=failure, returned=returned, **common)


def _whole(value: JSON) -> int:
    if type(value) is not int or abs(value) > 1 << 62:
        raise ValueError("a count is no whole number")
    return value


def _seconds(value: JSON) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise ValueError("a time is no number of seconds")
    return float(value)


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
    return json.dumps({"function": job.function, "calls": calls, "stops_when_late": job.stops_when_late}).encode()


def _checks(job: Checks, nonce: str) -> bytes:
    wanted = {"entry_points": job.entry_points, "tests": job.tests, "setup": job.setup, "finish": job.finish, "nonce": nonce}
    return json.dumps(wanted).encode()


def _lines(result: bytes, calls: int) -> list[dict[str, JSON]]:
    """The result's first JSON lines, up to the first that is none: a killed submission may leave half a line.

    A submission may write as many lines as it likes, and as much JSON: what would take our process seconds is not read.
    """
    lines: list[dict[str, JSON]] = []
    nodes = 0
    for text in result.split(b"\n", calls + 1)[: calls + 1] if result else ():
        nodes += sum(map(text.count, (b",", b"[", b"{")))
        if nodes > MAX_NODES:
            lines.append({"e": {"kind": "ValueError", "message": f"it returned more than {MAX_NODES} values"}})
            break
        line = read_json(text)
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def read_json(text: bytes) -> JSON:
    """What hostile bytes say as JSON; None where they are none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def failure_of(described: JSON) -> Failure:
    """A failure in a submission's words: text that can be written to a file, and not much of it."""
    if not isinstance(described, dict):
        return Failure("Exception", "")
    return Failure(text_of(described.get("kind"), 80) or "Exception", text_of(described.get("message"), 500))


def text_of(value: JSON, limit: int) -> str:
    """Hostile text, cut, and without halves of surrogate pairs, which no file takes; "" for what is no text."""
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _returned(line: dict[str, JSON]) -> Returned:
    if "late" in line:
        return Returned(failure=Failure("TimeoutError", "the call took longer than its limit"))
    if "e" in line:
        return Returned(failure=failure_of(line["e"]))
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
    verdict = read_json(result)
    if status is not Status.EXITED and not verdict:
        return Execution(status, **common)  # the time ran out, or memory did: no verdict, so nothing passed
    if not isinstance(verdict, dict):
        verdict = {}
    if verdict.get("nonce") != nonce:
        fatal = failure_of(verdict.get("fatal", {"kind": "no verdict", "message": f"exit code {common['exit_code']}"}))
        if fatal.kind == "MemoryError":
            return Execution(Status.OUT_OF_MEMORY, failure=fatal, **common)
        raise SandboxError(f"the checking process failed: {fatal.kind}: {fatal.message}")
    unsupported = text_of(verdict.get("unsupported"), 500)
    if verdict.get("checked") is not True:
        failure = failure_of(verdict["fatal"]) if verdict.get("fatal") else None
        return Execution(status, failure=failure, is_checked=False, unsupported=unsupported, **common)
    passed, causes = verdict.get("passed"), verdict.get("failures")
    if not isinstance(passed, list) or not isinstance(causes, list) or len(passed) != len(causes):
        raise SandboxError("the checking process failed: its verdict makes no sense")
    failures = tuple(None if cause is None else failure_of(cause) for cause in causes)
    return Execution(
        status, passed=tuple(one is True for one in passed), check_failures=failures, unsupported=unsupported, **common
    )
