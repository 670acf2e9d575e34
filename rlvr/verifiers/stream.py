"""Grade many rollouts from an iterable: in parallel, in order, in constant memory."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Final

from rlvr.errors import RlvrError, VerifierError, boundary
from rlvr.types import JSON, Message, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

_END: Final = object()


async def grade_stream(grader: Grader, rollouts: Iterable[Rollout], *, window: int = 64) -> AsyncIterator[Rollout]:
    """Yield every rollout of `rollouts`, graded, in order; at most `window` are held at a time.

    `rollouts` is read in a thread of its own, so it may block; what it raises is raised here, after everything that
    came before it.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Rollout | RlvrError | object] = asyncio.Queue()
    room = threading.Semaphore(window)  # the reader waits here when `window` rollouts are under way
    is_stopped = threading.Event()
    threading.Thread(
        target=_read, args=(rollouts, room, is_stopped, _sender(loop, arrived)), daemon=True, name="rlvr-reader"
    ).start()
    tasks: deque[asyncio.Task[Rollout]] = deque()
    reading: asyncio.Task[Rollout | RlvrError | object] | None = asyncio.create_task(arrived.get())
    failure: RlvrError | None = None
    try:
        while tasks or reading is not None:
            waiting: set[asyncio.Future[object]] = {task for task in (reading, tasks[0] if tasks else None) if task is not None}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                item = reading.result()
                if isinstance(item, Rollout):
                    tasks.append(asyncio.create_task(_graded(grader, item)))
                    reading = asyncio.create_task(arrived.get())
                else:
                    failure = item if isinstance(item, RlvrError) else None
                    reading = None
            while tasks and tasks[0].done():
                yield tasks.popleft().result()
                room.release()
        if failure is not None:
            raise failure
    finally:
        is_stopped.set()
        room.release()
        for task in (*tasks, *([reading] if reading is not None else [])):
            task.cancel()


def verify_stream(
    verifier: WeightedVerifier, rollouts: Iterable[Rollout], *, workers: int = 2, timeout_s: float = 10.0
) -> Iterator[Rollout]:
    """`grade_stream` for code without an event loop, with one verifier. Close the iterator, or exhaust it, to stop the workers.

    Raises:
        PluginError, ConfigError: as `Grader`; before the first rollout is read.
    """
    grader = Grader([verifier], workers=workers, timeout_s=timeout_s)
    return _run_stream(grader, rollouts)


def grade_text(
    reference: str,
    answer: JSON,
    response: str,
    *,
    prompt: str = "",
    metadata: Mapping[str, JSON] | None = None,
    settings: Mapping[str, JSON] | None = None,
    timeout_s: float = 10.0,
) -> Verdict:
    """One response, one verdict. Starts a process for an isolated verifier; use a Grader for more than a few.

    >>> grade_text("number", "72", "so <answer>72</answer>").outcome.value
    'correct'
    """
    messages = (Message("user", prompt),) if prompt else ()
    rollout = Rollout.from_response(Problem("text", messages, answer, metadata or {}), response)
    graded = next(
        iter(verify_stream(WeightedVerifier(reference, 1.0, settings or {}), [rollout], workers=1, timeout_s=timeout_s))
    )
    return next(iter(graded.verdicts.values()))


def _run_stream(grader: Grader, rollouts: Iterable[Rollout]) -> Iterator[Rollout]:
    with asyncio.Runner() as runner:
        stream = grade_stream(grader, rollouts)
        try:
            while (rollout := runner.run(_next(stream))) is not None:
                yield rollout
        finally:
            runner.run(_close(stream, grader))


async def _next(stream: AsyncIterator[Rollout]) -> Rollout | None:
    return await anext(stream, None)


async def _close(stream: AsyncIterator[Rollout], grader: Grader) -> None:
    await stream.aclose()  # type: ignore[attr-defined]
    await grader.close()


async def _graded(grader: Grader, rollout: Rollout) -> Rollout:
    await grader.grade(rollout)
    return rollout


def _sender(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[object]) -> Callable[[object], None]:
    def send(item: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    return send


def _read(
    rollouts: Iterable[Rollout], room: threading.Semaphore, is_stopped: threading.Event, send: Callable[[object], None]
) -> None:
    outcome: object = _END
    try:
        with boundary(VerifierError, "reading the rollouts"):
            for rollout in rollouts:
                room.acquire()
                if is_stopped.is_set():
                    return
                send(rollout)
    except RlvrError as error:
        outcome = error  # it travels to the thread that asked, and is raised there
    send(outcome)
