"""Several hosts that do the same work: which one is asked next, and when a request is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.errors import SandboxError

REST_S = 5.0  # a host that failed is left alone for as long
FULL_S = 0.25  # one that has no room, for as long
PATIENCE_S = 120.0  # with hosts that are all full, or all gone
LOOK_S = 0.1


class HostBusyError(Exception):
    """The host has no room at the moment. Internal: the trip decides what it means."""


class HostDownError(Exception):
    """The host could not be reached, so that nothing was begun. Internal."""


class HostLostError(Exception):
    """The host went away while it worked, or answered nonsense. Internal."""


@dataclass(eq=False, slots=True)
class Host:
    """One server. `capacity` and `max_bytes` (of a request) are 0 while it has not said."""

    url: str
    capacity: int = 0
    max_bytes: int = 0
    in_flight: int = 0
    served: int = 0
    rests_until: float = 0.0

    @property
    def load(self) -> tuple[float, float]:
        """What it does now for its size; between equals, what it has done."""
        return self.in_flight / max(1, self.capacity), self.served / max(1, self.capacity)


class Fleet:
    """The hosts, and what each is doing for this process. For any number of threads."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._lock = threading.Lock()  # guards the hosts
        self.hosts = tuple(Host(url) for url in urls)

    @property
    def capacity(self) -> int:
        return max(1, sum(host.capacity for host in self.hosts))

    def take(self) -> Host | None:
        """The least loaded host that does not rest; give it back. None: all of them rest."""
        with self._lock:
            now = time.monotonic()
            awake = [host for host in self.hosts if host.rests_until <= now]
            if not awake:
                return None
            host = min(awake, key=lambda host: host.load)
            host.in_flight += 1
            host.served += 1
            return host

    def give_back(self, host: Host, *, rest_s: float = 0.0) -> None:
        with self._lock:
            host.in_flight -= 1
            if rest_s:
                host.rests_until = time.monotonic() + rest_s


class Trip:
    """One request on its way through the fleet.

    A host that is full or cannot be reached costs nothing but time. A host that is lost under the request costs one of two
    attempts, and so does one that says that its sandbox failed.
    """

    def __init__(self, fleet: Fleet, patience_s: float = PATIENCE_S) -> None:
        self._fleet = fleet
        self._patience_s = patience_s
        self._started = time.monotonic()
        self._failures: list[str] = []
        self._why_waiting = "all hosts rest after a failure"

    def next(self) -> Host | None:
        """The host to ask; None: none at the moment, ask again after `LOOK_S`.

        Raises:
            SandboxError: two attempts failed, or no host had room for as long as we wait.
        """
        if len(self._failures) >= 2:
            raise SandboxError(f"the sandbox failed twice: {'; then: '.join(self._failures)}")
        if time.monotonic() - self._started > self._patience_s:
            raise SandboxError(f"no sandbox host took the job within {self._patience_s:g} s; the last time {self._why_waiting}")
        return self._fleet.take()

    def arrived(self, host: Host) -> None:
        self._fleet.give_back(host)

    def failed(self, host: Host, error: BaseException) -> None:
        """Give the host back after an error; errors that are no host's doing are raised again by the caller."""
        rest_s = REST_S
        if isinstance(error, HostBusyError):
            rest_s = FULL_S
            self._why_waiting = f"{host.url} was full"
        elif isinstance(error, HostDownError):
            self._why_waiting = f"{host.url} could not be reached ({error})"
        elif isinstance(error, (HostLostError, SandboxError)):
            self._failures.append(f"{host.url}: {error}")
        else:
            rest_s = 0.0
        # Where there is no other host, a failure must not keep the second attempt waiting.
        self._fleet.give_back(host, rest_s=rest_s if len(self._fleet.hosts) > 1 else min(rest_s, FULL_S))
