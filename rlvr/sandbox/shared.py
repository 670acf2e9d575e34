"""The sandbox that this process shares: one pool, made when it is first needed."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rlvr.errors import ConfigError, SandboxError
from rlvr.sandbox.jobs import Sandbox
from rlvr.sandbox.pool import SandboxPool

KINDS = ("auto", "docker", "bubblewrap", "unsafe")

_lock = threading.Lock()  # guards the two below
_shared: dict[int, Sandbox] = {}  # by process: a forked child makes its own
_override: list[Sandbox] = []


def shared_sandbox() -> Sandbox:
    """The sandbox of this process.

    `RLVR_SANDBOX` chooses: `docker` (the engine of DOCKER_HOST; several hosts separated by commas), `bubblewrap`,
    `unsafe` (plain processes: no protection at all), the address of a `rlvr sandbox serve` (several separated by commas),
    or `auto`, the default: Docker where an engine answers, else bubblewrap. `RLVR_SANDBOX_SLOTS`: jobs at a time.

    Raises:
        SandboxError: there is none on this machine: what was tried, and what to do.
        ConfigError: `RLVR_SANDBOX` or `RLVR_SANDBOX_SLOTS` says something else.
    """
    with _lock:
        if _override:
            return _override[-1]
        process = os.getpid()
        if process not in _shared:
            _shared[process] = make_sandbox(os.environ.get("RLVR_SANDBOX", "auto"), slots=_slots())
            atexit.register(close_shared)
        return _shared[process]


@contextmanager
def use_sandbox(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Make `sandbox` the shared one inside the block; it is not closed at the end."""
    with _lock:
        _override.append(sandbox)
    try:
        yield sandbox
    finally:
        with _lock:
            _override.remove(sandbox)


def close_shared() -> None:
    """Stop the shared sandbox, if this process has one."""
    with _lock:
        sandbox = _shared.pop(os.getpid(), None)
    if sandbox is not None:
        sandbox.close()


def make_sandbox(kind: str, *, slots: int | None = None) -> Sandbox:
    """A sandbox of the named kind, as `RLVR_SANDBOX` names them. Raises as `shared_sandbox` does."""
    if kind.startswith(("http://", "https://")):
        from rlvr.sandbox.remote import RemoteSandbox

        return RemoteSandbox(kind.split(","), os.environ.get("RLVR_SANDBOX_TOKEN", ""))
    if kind == "docker":
        return _docker(slots)
    if kind == "bubblewrap":
        return _bubblewrap(slots)
    if kind == "unsafe":
        from rlvr.sandbox.unsafe import UnsafeBackend

        return SandboxPool([UnsafeBackend()], slots=slots)
    if kind != "auto":
        raise ConfigError(f"RLVR_SANDBOX = {kind!r}; use one of {', '.join(KINDS)}, or the address of a `rlvr sandbox serve`")
    tried = []
    for make in (_docker, _bubblewrap):
        try:
            return make(slots)
        except SandboxError as error:
            tried.append(str(error))
    raise SandboxError("no sandbox on this machine: " + "; and: ".join(tried))


def _docker(slots: int | None) -> Sandbox:
    from rlvr.sandbox.docker import DockerBackend

    hosts: list[str | None] = [host for host in os.environ.get("DOCKER_HOST", "").split(",") if host] or [None]
    return SandboxPool([DockerBackend(host) for host in hosts], slots=slots)


def _bubblewrap(slots: int | None) -> Sandbox:
    from rlvr.sandbox.bubblewrap import BubblewrapBackend

    return SandboxPool([BubblewrapBackend()], slots=slots)


def _slots() -> int | None:
    text = os.environ.get("RLVR_SANDBOX_SLOTS", "")
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"RLVR_SANDBOX_SLOTS = {text!r}; it must be a positive whole number")
    return int(text)
