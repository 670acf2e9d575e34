"""Blocking functions in threads of their own, so that one that hangs holds up nobody, not even the end of the process.

A thread pool would not do: its workers are joined when the process ends, and hung ones would use it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from rlvr.errors import CallError, RlvrError, ToolError, boundary

MAX_RUNNING = 256  # of one tool, those that nobody waits for any more included

_running: Counter[str] = Counter()
_guard = threading.Lock()  # guards _running, which threads and event loops change


async def in_thread(name: str, function: Callable[[], Any]) -> Any:
    """What `function` returns. Cancelling leaves its thread behind, to end when it likes.

    Raises:
        CallError: `function` raised.
        ToolError: `MAX_RUNNING` calls of `name` run already; probably they hang.
    """
    with _guard:
        if _running[name] >= MAX_RUNNING:
            raise ToolError(f"{MAX_RUNNING} calls of tool {name!r} are still running; give the function a time-out of its own")
        _running[name] += 1
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def finish(value: Any, error: RlvrError | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)

    def work() -> None:
        value: Any = None
        failure: RlvrError | None = CallError(f"{name}: it ended its thread")  # such as sys.exit(), which passes the boundary
        try:
            with boundary(CallError, name):
                value = function()
            failure = None
        except RlvrError as error:
            failure = error
        finally:
            with _guard:
                _running[name] -= 1
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, value, failure)

    threading.Thread(target=work, name=f"tool {name}", daemon=True).start()
    return await done
