"""Grade what an iterable brings: in parallel, in order, in constant memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from rlvr.errors import RlvrError, VerifierError, boundary
from rlvr.types import JSON, Message, Problem, Rollout, Verdict
from rlvr.verifiers.runner import Grader, WeightedVerifier

T = TypeVar("T")
R = TypeVar("R")

WINDOW = 64


class _End:
    """What follows the last item."""


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


_END: Final = _End()


def grade_stream(grader: Grader, rollouts: Iterable[Rollout], *, window: int = WINDOW) -> AsyncIterator[Rollout]:
    """Yield every rollout of `rollouts`, graded, in order; as `in_order`."""

    async def graded(rollout: Rollout) -> Rollout:
        await grader.grade(rollout)
        return rollout

    return in_order(rollouts, graded, window=window)


async def in_order(items: Iterable[T], work: Callable[[T], Awaitable[R]], *, window: int) -> AsyncIterator[R]:
    """Yield what `work` makes of every item, in the order of the items; at most `window` are held at a time.

    `items` is read in a thread of its own, so it may block; what it raises is raised here, after everything that
    came before it.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[_Item[T] | RlvrError | _End] = asyncio.Queue()
    room = threading.Semaphore(window)  # the reader waits here when `window` items are under way
    is_stopped = threading.Event()
    threading.Thread(
        target=_read, args=(items, room, is_stopped, _sender(loop, arrived)), daemon=True, name="rlvr-reader"
    ).start()
    tasks: deque[asyncio.Future[R]] = deque()
    reading: asyncio.Task[_Item[T] | RlvrError | _End] | None = asyncio.create_task(arrived.get())
    failure: RlvrError | None = None
    try:
        while tasks or reading is not None:
            waiting: list[asyncio.Future[Any]] = [*([reading] if reading is not None else []), *([tasks[0]] if tasks else [])]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                item = reading.result()
                if isinstance(item, _Item):
                    tasks.append(asyncio.ensure_future(work(item.value)))
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
        unfinished: list[asyncio.Future[Any]] = [*tasks, *([reading] if reading is not None else [])]
        for task in unfinished:
            if not task.cancel() and not task.cancelled():
                task.exception()  # seen, although what came before it is raised instead


def verify_stream(
    verifier: WeightedVerifier, rollouts: Iterable[Rollout], *, workers: int = 2, timeout_s: float = 10.0
) -> Generator[Rollout, None, None]:
    """`grade_stream` for code without an event loop, with one verifier. Close the iterator, or exhaust it, to stop the workers.

    Raises:
        PluginError, ConfigError: as `Grader`; before the first rollout is read.
    """
    grader = Grader([verifier], workers=workers, timeout_s=timeout_s)
    return blocking(grade_stream(grader, rollouts), grader)


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


def blocking(stream: AsyncIterator[R], grader: Grader) -> Generator[R, None, None]:
    """`stream` for code without an event loop. Close the iterator, or exhaust it, to stop the grader's workers."""
    with asyncio.Runner() as runner:
        try:
            while not isinstance(found := _wait(runner.get_loop(), _next(stream)), _End):
                yield found
        finally:
            runner.run(_close(stream, grader))


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, R]) -> R:
    """As `asyncio.Runner.run`, which sets a signal handler each time: that costs more than most items of a stream do."""
    task = loop.create_task(work)
    try:
        return loop.run_until_complete(task)
    finally:
        if not task.done():  # interrupted
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)


async def _next(stream: AsyncIterator[R]) -> R | _End:
    return await anext(stream, _END)


async def _close(stream: AsyncIterator[R], grader: Grader) -> None:
    await stream.aclose()  # type: ignore[attr-defined]
    await grader.close()


def _sender(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[R]) -> Callable[[R], None]:
    def send(item: R) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    return send


def _read(
    items: Iterable[T],
    room: threading.Semaphore,
    is_stopped: threading.Event,
    send: Callable[[_Item[T] | RlvrError | _End], None],
) -> None:
    outcome: RlvrError | _End = _END
    try:
        with boundary(VerifierError, "reading the rollouts"):
            for item in items:
                room.acquire()
                if is_stopped.is_set():
                    return
                send(_Item(item))
    except RlvrError as error:
        outcome = error  # it travels to the thread that asked, and is raised there
    send(outcome)
