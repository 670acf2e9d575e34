"""vLLM's processes end with the trainer that started them, however that ends: else they would keep the GPU.

The standard library alone: this runs in vLLM's worker processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time

OWNER = "RLVR_VLLM_OWNER"  # the trainer's process id, in the environment of its vLLM
_POLL_S = 1.0


def end_with_owner() -> None:
    """From now on, kill this process and the one that started it as soon as the owner is gone. Nothing without an owner.

    A worker is started by vLLM's engine process, or is that process itself; the engine is started by the owner.
    """
    owner = os.environ.get(OWNER)
    if owner is not None:
        threading.Thread(target=_wait_and_end, args=(int(owner), os.getppid()), name="rlvr-owner", daemon=True).start()


def _wait_and_end(owner: int, parent: int) -> None:
    _wait_for_end(owner)
    if parent not in (owner, 1) and os.getppid() == parent:
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent, signal.SIGKILL)
    os._exit(1)


def _wait_for_end(process: int) -> None:
    try:
        if hasattr(os, "pidfd_open"):
            waiting = select.poll()
            waiting.register(os.pidfd_open(process), select.POLLIN)
            waiting.poll()
            return
        while True:
            os.kill(process, 0)
            time.sleep(_POLL_S)
    except ProcessLookupError:
        return
