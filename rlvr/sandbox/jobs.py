"""What can be asked of a sandbox, and what it answers: jobs, limits, executions.

A job is run by a process of its own that starts from a warm interpreter and is gone afterwards. Nothing that comes back in
an `Execution` may be trusted to be more than data that the submission chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias

from rlvr.errors import ConfigError

# None, bool, int, float, str, bytes, complex, Decimal, Fraction, range, a builtin type itself (`int`); list, tuple, set, dict
# and deque of these.
Plain: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use. The memory limit is of address space, for each process of the submission."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    call_s: float | None = None  # wall-clock time of one call in a `Calls` job; None: only the whole job's limits
    memory_mb: int = 1024
    processes: int = 32
    file_mb: int = 16  # largest single file
    output_bytes: int = 65_536  # what is kept of stdout; the rest is cut, and said so

    def __post_init__(self) -> None:
        for name in ("wall_s", "cpu_s", "memory_mb", "processes", "file_mb", "output_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"sandbox limit {name} = {getattr(self, name)}; it must be positive")
        if self.wall_s > 600:
            raise ConfigError(f"sandbox limit wall_s = {self.wall_s}; at most 600 seconds")


@dataclass(frozen=True, slots=True)
class Call:
    """One function call of a `Calls` job; arguments are plain data."""

    args: tuple[Plain, ...] = ()
    kwargs: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """Run `code` as `__main__` with `stdin`; what counts is its stdout and exit code."""

    code: str
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Calls:
    """Define `code`, then call `function` (a name, `Class.method`, or a method of `Solution`) once per call, in order.

    No expected value belongs in here: comparing is the caller's work, outside the sandbox. `stops_when_late`: a call that runs
    into its own limit is the last; where one failure settles everything, the others would only cost as much time again.
    """

    code: str
    function: str
    calls: tuple[Call, ...]
    stops_when_late: bool = False


@dataclass(frozen=True, slots=True)
class Checks:
    """Run test code against `code` from a second process under another user.

    `tests` are chunks of Python, run in order in one namespace; each passes if it raises nothing. `setup` runs before them
    (not a test), and `finish` is one last chunk (e.g. `check(f)`). `entry_points` names what the tests may call of the
    submission: these are proxies, over which only plain data passes.
    """

    code: str
    entry_points: tuple[str, ...]
    tests: tuple[str, ...]
    setup: str = ""
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Compile:
    """Compile C++ (`g++ -O2 -std=c++17`); `Execution.binary` is the program, for `Binary` jobs."""

    code: str


@dataclass(frozen=True, slots=True)
class Binary:
    """Run a program that a `Compile` job made, with `stdin`."""

    binary: bytes
    stdin: bytes = b""


Job: TypeAlias = Program | Calls | Checks | Compile | Binary
Flavor: TypeAlias = Literal["standard", "science"]  # what the warm interpreter has imported already


class Status(StrEnum):
    """How an execution ended. Only the submission's doing is in here: what the sandbox does wrong is a SandboxError."""

    EXITED = "exited"  # by itself; see `exit_code`
    KILLED = "killed"  # by a signal; see `signal`
    TIMED_OUT = "timed_out"  # wall-clock or CPU time
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of the submission: the name of its class, and its text (at most 500 characters)."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What one call gave: a value, or the failure instead."""

    value: Plain = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """What a job did.

    `failure`: the exception that ended the submission's own code (its import, its main program); for `Compile` the
    compiler's message. `returned`: one for each call that came to an end, so it may be shorter than the calls.
    `passed`: for `Checks`, one for each of `tests` (and `finish`) that was reached; `check_failures` the same with causes;
    `is_checked` is False where the checking side itself failed to run (its `setup` raised: broken tests, not a bad submission),
    and `unsupported` then says what could not be passed between the processes, if that was the cause.
    `image`: the digest of the image, or the name of the backend, that ran it.
    """

    status: Status
    exit_code: int = 0
    signal: int = 0
    stdout: bytes = b""
    stdout_bytes: int = 0  # before it was cut
    stderr: bytes = b""  # its first 8 KiB; part of stdout for `Calls` and `Checks`
    failure: Failure | None = None
    returned: tuple[Returned, ...] = ()
    passed: tuple[bool, ...] = ()
    check_failures: tuple[Failure | None, ...] = ()
    is_checked: bool = True
    unsupported: str = ""
    binary: bytes = b""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    image: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the program came to its own end without an exception and with exit code 0."""
        return self.status is Status.EXITED and self.exit_code == 0 and self.failure is None

    @property
    def is_truncated(self) -> bool:
        return self.stdout_bytes > len(self.stdout)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell of a session gave. `value` is the repr of a trailing expression, as a notebook shows it; None without one.

    `status` TIMED_OUT: the cell was interrupted; `is_alive` says whether the session (its variables) survived it.
    """

    status: Status
    stdout: str = ""
    value: str | None = None
    failure: Failure | None = None
    traceback: str = ""
    is_truncated: bool = False
    is_alive: bool = True
    wall_s: float = 0.0


class Session(Protocol):
    """A stateful Python interpreter in the sandbox: variables live from cell to cell."""

    async def run(self, code: str, *, timeout_s: float | None = None) -> Cell:
        """Run one cell. A time-out interrupts the cell, and kills the session only if that does not help; cancelling ends both.

        Raises:
            SandboxError: the sandbox failed; the session is lost.
        """
        ...

    async def write_file(self, path: str, content: bytes) -> None:
        """Put a file into the session's own folder (`path` is relative to it)."""
        ...

    async def read_file(self, path: str) -> bytes:
        """A file of the session's own folder.

        Raises:
            FileNotFoundError: there is none, or it is no regular file within the size limit.
        """
        ...

    async def reset(self) -> None:
        """Forget every variable and file."""
        ...

    async def close(self) -> None:
        """End the session; its slot serves others. Closing twice is harmless."""
        ...


class Sandbox(Protocol):
    """Runs jobs where they can do no harm: `SandboxPool` on this machine, `rlvr.sandbox.remote` by asking another one."""

    @property
    def capacity(self) -> int:
        """Jobs that run at the same time."""
        ...

    def warm_up(self) -> None:
        """Run a harmless program, so that a sandbox that cannot work is found out before the work begins.

        Raises:
            SandboxError: what is wrong, and what to do.
        """
        ...

    def execute(self, job: Job, limits: Limits = ..., *, run: str = "") -> Execution:
        """Run one job and wait for it, from any thread; `run` names who asks, for fairness between runs.

        Raises:
            SandboxError: the sandbox failed, twice where the first loss could have been bad luck. Never the submission's doing.
        """
        ...

    async def run(self, job: Job, limits: Limits = ..., *, run: str = "") -> Execution:
        """`execute` for an event loop; cancelling it ends the submission."""
        ...

    async def open_session(self, limits: Limits = ..., *, run: str = "", idle_s: float = 600.0) -> Session:
        """A new session in a slot of its own, closed by itself after `idle_s` without a cell.

        Raises:
            SandboxError: the sandbox failed, or no slot came free in time.
        """
        ...

    def close(self) -> None:
        """Stop every container or process of this sandbox."""
        ...


def results_of(execution: Execution, count: int) -> Sequence[Returned]:
    """One `Returned` per call: those that never came are filled in with how the execution ended."""
    missing = count - len(execution.returned)
    cause = execution.failure or Failure(execution.status.value, f"exit code {execution.exit_code}, signal {execution.signal}")
    return [*execution.returned[:count], *(Returned(failure=cause) for _ in range(max(missing, 0)))]
