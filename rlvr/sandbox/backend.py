"""What a pool needs of a place where slots run: a container engine, bubblewrap, or (unsafe) this machine itself."""

from __future__ import annotations

from typing import Protocol

from rlvr.sandbox.channel import Channel
from rlvr.sandbox.jobs import Flavor


def interpreter_environment(flavor: Flavor) -> dict[str, str]:
    """How the warm interpreter allocates, so that its forks are cheap.

    Python's own allocator keeps what a small program touches on fewer pages, each of which a fork has to copy (300 against 340).
    With numpy and sympy loaded malloc with huge pages is cheaper by a fifth, because there are 70 MB of page tables to copy.
    """
    own = {} if flavor == "standard" else {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    return {**own, "PYTHONHASHSEED": "0"}


class Box(Protocol):
    """One running container (or what stands for it) with `slots` slots."""

    name: str
    slots: int
    image: str  # the image's digest, or the backend's name

    def connect(self, slot: int) -> Channel:
        """Raises ChannelLostError."""
        ...

    def is_alive(self) -> bool: ...

    def stop(self) -> None:
        """End it and everything in it; harmless when it is gone already."""
        ...


class Backend(Protocol):
    """Starts boxes. One backend speaks to one engine on one host."""

    name: str

    def start(self, slots: int, flavor: Flavor, *, is_for_sessions: bool = False) -> Box:
        """A new box whose slots are ready.

        Raises:
            SandboxError: it cannot be started: what is wrong, and what to do.
        """
        ...

    def close(self) -> None:
        """Give back what the backend itself holds (not its boxes)."""
        ...
