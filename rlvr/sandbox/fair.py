"""A queue that serves several runs in turn, however many entries each has put in."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out within a run; round-robin between runs. Not thread-safe: its owner holds a lock.

    >>> queue = FairQueue()
    >>> for run, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4)]:
    ...     queue.put(run, item)
    >>> [queue.take() for _ in range(len(queue))]
    [1, 4, 2, 3]
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, run: str, item: T) -> None:
        self._runs.setdefault(run, deque()).append(item)
        self._count += 1

    def take(self) -> T:
        """The next entry. Raises IndexError where there is none."""
        if not self._runs:
            raise IndexError("the queue is empty")
        run, items = self._runs.popitem(last=False)
        item = items.popleft()
        if items:
            self._runs[run] = items  # behind the other runs
        self._count -= 1
        return item

    def discard(self, run: str, item: T) -> bool:
        """Take out an entry that no longer waits; False where it is not in here."""
        items = self._runs.get(run)
        if items is None or item not in items:
            return False
        items.remove(item)
        self._count -= 1
        if not items:
            del self._runs[run]
        return True
