"""Grading for code without an event loop, or inside a running one: notebooks, trainers, reward functions."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.types import JSON, Message, Problem, Rollout, Verdict
from rlvr.verifiers.background import Background, background
from rlvr.verifiers.runner import Grader, WeightedVerifier

MAX_SHARED = 32


async def grade_all(grader: Grader, rollouts: Iterable[Rollout], *, at_once: int) -> None:
    """Grade every rollout, `at_once` at a time."""
    waiting = iter(rollouts)

    async def drain() -> None:
        for rollout in waiting:
            await grader.grade(rollout)
            await asyncio.sleep(0)  # verdicts that need no worker never wait: others must get their turn

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(drain())


class BlockingGrader:
    """A Grader that any thread may call, in a running event loop too. Its workers stay alive between the calls.

    A forked child starts workers of its own at its first call, a pickled copy too; both leave the original's alone.
    `close` it, use it as a context manager, or leave that to garbage collection or the end of the process.

    Raises:
        PluginError, ConfigError: as `Grader`.
    """

    _home: Background
    _grader: Grader

    def __init__(self, verifiers: Sequence[WeightedVerifier], *, workers: int = 2, timeout_s: float = 10.0) -> None:
        self._verifiers = tuple(verifiers)
        self._workers = workers
        self._timeout_s = timeout_s
        self._settle()

    def provenance(self) -> dict[str, dict[str, JSON]]:
        """As `Grader.provenance`."""
        return self._grader.provenance()

    def grade(self, rollouts: Sequence[Rollout]) -> None:
        """Fill `verdicts` and `reward` of every rollout, in parallel; returns when all are done."""
        if not rollouts:
            return
        with background().lock:
            if self._home is not background():  # this process is a fork of the one that the workers belong to
                self._settle()
        with self._idle:
            self._calls += 1
            grader = self._grader
        try:
            self._home.run(grade_all(grader, rollouts, at_once=min(len(rollouts), grader.at_once)))
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """End the workers when the calls under way are done. A later `grade` starts new ones."""
        if self._home is background():
            with self._idle:
                self._idle.wait_for(lambda: self._calls == 0)
                grader = self._grader
                self._grader = self._new_grader()
            self._home.run(grader.close())

    def __enter__(self) -> BlockingGrader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._verifiers, self._workers, self._timeout_s)

    def _settle(self) -> None:
        self._home = background()
        self._idle = threading.Condition()  # guards `_calls` and `_grader`
        self._calls = 0
        self._grader = self._new_grader()

    def _new_grader(self) -> Grader:
        grader = Grader(self._verifiers, workers=self._workers, timeout_s=self._timeout_s)
        weakref.finalize(self, _abandon, background(), grader).atexit = False
        return grader


def grade(
    response: str,
    answer: JSON,
    verifier: str = "math",
    *,
    prompt: str = "",
    metadata: Mapping[str, JSON] | None = None,
    timeout_s: float = 10.0,
    **settings: JSON,
) -> Verdict:
    """One response, one verdict. `settings` are the verifier's; its worker process stays alive for the next call.

    >>> grade("so 36 + 36 is <answer>72</answer>", "72", "number").outcome.value
    'correct'

    Raises:
        PluginError, ConfigError: no such verifier, or no such setting.
    """
    messages = (Message("user", prompt),) if prompt else ()
    rollout = Rollout.from_response(Problem("text", messages, answer, metadata or {}), response)
    shared_grader(verifier, settings, workers=1, timeout_s=timeout_s).grade([rollout])
    return next(iter(rollout.verdicts.values()))


_shared: OrderedDict[str, BlockingGrader] = OrderedDict()


def shared_grader(verifier: str, settings: Mapping[str, JSON], *, workers: int = 2, timeout_s: float = 10.0) -> BlockingGrader:
    """This process's grader for a verifier and its settings: the same object for equal arguments.

    At most `MAX_SHARED` are kept; the one that was used longest ago is closed.

    Raises:
        PluginError, ConfigError: as `Grader`.
    """
    key = json.dumps([verifier, dict(settings), workers, timeout_s], sort_keys=True, default=repr)
    dropped = None
    with background().lock:
        if key not in _shared:
            _shared[key] = BlockingGrader([WeightedVerifier(verifier, 1.0, dict(settings))], workers=workers, timeout_s=timeout_s)
            dropped = _shared.popitem(last=False)[1] if len(_shared) > MAX_SHARED else None
        _shared.move_to_end(key)
        found = _shared[key]
    if dropped is not None:
        dropped.close()
    return found


def _rebuild(verifiers: Sequence[WeightedVerifier], workers: int, timeout_s: float) -> BlockingGrader:
    return BlockingGrader(verifiers, workers=workers, timeout_s=timeout_s)


def _abandon(home: Background, grader: Grader) -> None:
    if home is background():
        home.start_soon(grader.close())
