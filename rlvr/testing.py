"""Public fakes and checks for the tests of rlvr and of its plugins."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence

from rlvr.envs.check import check_env as check_env
from rlvr.errors import SandboxError
from rlvr.evaluation.health.check import check_health_rule as check_health_rule
from rlvr.sandbox.jobs import Cell, Execution, Job, Limits, Status
from rlvr.tools.check import Example as Example
from rlvr.tools.check import check_tool as check_tool
from rlvr.types import Completion, FinishReason, Sampling
from rlvr.verifiers.check import check_verifier as check_verifier


class ScriptedEngine:
    """An engine that answers from a script instead of a model.

    `script` maps (prompt_ids, sampling) to the token ids of the answer. Every request is kept in `requests`.

    >>> import asyncio
    >>> engine = ScriptedEngine(lambda prompt, sampling: (7, 8))
    >>> asyncio.run(engine.generate((1, 2), Sampling(max_tokens=1))).token_ids
    (7,)
    """

    def __init__(self, script: Callable[[tuple[int, ...], Sampling], Sequence[int]], *, policy_version: int = 0) -> None:
        self._script = script
        self.policy_version = policy_version
        self.requests: list[tuple[tuple[int, ...], Sampling]] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        prompt = tuple(prompt_ids)
        self.requests.append((prompt, sampling))
        tokens = tuple(self._script(prompt, sampling))
        finish = FinishReason.STOP if len(tokens) <= sampling.max_tokens else FinishReason.LENGTH
        tokens = tokens[: sampling.max_tokens]
        return Completion(tokens, (0.0,) * len(tokens), finish, self.policy_version)


_LIMITS = Limits()


class FakeSandbox:
    """A sandbox that answers from a script and runs nothing. Put it in place of the real one with `use_sandbox`.

    `script` maps (job, limits) to what the job is to have done; a `SandboxError` it returns or raises is raised to whoever
    asked. Every job is kept in `jobs`, every cell of a session in `cells`; `cell` maps its code to what it shows.

    >>> from rlvr.sandbox.jobs import Call, Calls, Returned
    >>> from rlvr.sandbox.shared import use_sandbox
    >>> from rlvr.verifiers.stream import grade_text
    >>> tests = {"tests": {"type": "asserts", "setup": "", "asserts": ["assert double(2) == 4"]}}
    >>> fake = FakeSandbox(lambda job, limits: Execution(Status.EXITED, returned=(Returned(4),)))
    >>> with use_sandbox(fake):
    ...     grade_text("code", tests, "def double(x): return x + x").outcome.value
    'correct'
    >>> fake.jobs[0][0].calls
    (Call(args=(2,), kwargs={}),)
    """

    def __init__(
        self,
        script: Callable[[Job, Limits], Execution | SandboxError] | None = None,
        *,
        cell: Callable[[str], Cell] | None = None,
        capacity: int = 4,
    ) -> None:
        self._script = script or (lambda job, limits: Execution(Status.EXITED))
        self._cell = cell or (lambda code: Cell(Status.EXITED))
        self._capacity = capacity
        self._lock = threading.Lock()  # guards the lists below: verifiers ask from many threads
        self.jobs: list[tuple[Job, Limits]] = []
        self.cells: list[str] = []
        self.warm_ups = 0
        self.is_closed = False

    @property
    def capacity(self) -> int:
        return self._capacity

    def warm_up(self) -> None:
        self.warm_ups += 1

    def execute(self, job: Job, limits: Limits = _LIMITS, *, run: str = "") -> Execution:
        with self._lock:
            self.jobs.append((job, limits))
        done = self._script(job, limits)
        if isinstance(done, SandboxError):
            raise done
        return done

    async def run(self, job: Job, limits: Limits = _LIMITS, *, run: str = "") -> Execution:
        await asyncio.sleep(0)
        return self.execute(job, limits, run=run)

    async def open_session(
        self,
        limits: Limits = _LIMITS,
        *,
        run: str = "",
        idle_s: float = 600.0,
    ) -> FakeSession:
        await asyncio.sleep(0)
        return FakeSession(self)

    def close(self) -> None:
        self.is_closed = True

    def _show(self, code: str) -> Cell:
        with self._lock:
            self.cells.append(code)
        return self._cell(code)


class FakeSession:
    """A session of a `FakeSandbox`: cells are answered by its script, files are kept."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self._sandbox = sandbox
        self._files: dict[str, bytes] = {}
        self.is_open = True

    @property
    def files(self) -> Mapping[str, bytes]:
        return dict(self._files)

    async def run(self, code: str, *, timeout_s: float | None = None) -> Cell:
        if not self.is_open:
            raise SandboxError("this session is closed")
        await asyncio.sleep(0)
        return self._sandbox._show(code)

    async def write_file(self, path: str, content: bytes) -> None:
        self._files[path] = content

    async def read_file(self, path: str) -> bytes:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path]

    async def reset(self) -> None:
        self._files.clear()

    async def close(self) -> None:
        self.is_open = False
