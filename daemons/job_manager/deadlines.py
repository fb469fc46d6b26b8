"""Due times by key: the next one at hand, changed and dropped in O(log n), in bounded memory.

>>> due: Deadlines[int] = Deadlines()
>>> due.set(7, 500)
>>> due.set(8, 300)
>>> due.set(7, 100)
>>> due.pop(now_ns=200), due.pop(now_ns=200), due.next_ns()
(7, None, 300)
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class Deadlines(Generic[KeyT]):
    """A heap with lazy deletion; keys are orderable, so that ties fall the same way anywhere."""

    def __init__(self) -> None:
        self._due: dict[KeyT, int] = {}
        self._heap: list[tuple[int, KeyT]] = []

    def __len__(self) -> int:
        return len(self._due)

    def get(self, key: KeyT) -> int | None:
        """When the key is due, if it is."""
        return self._due.get(key)

    def set(self, key: KeyT, due_ns: int) -> None:
        """The key is due then, and not at an earlier set time."""
        self._due[key] = due_ns
        heappush(self._heap, (due_ns, key))
        if len(self._heap) > 2 * len(self._due) + 64:  # dropped and moved entries went unseen
            self._heap = [(due, kept) for kept, due in self._due.items()]
            heapify(self._heap)

    def drop(self, key: KeyT) -> None:
        """The key is not due at all; unknown keys are fine."""
        self._due.pop(key, None)

    def next_ns(self) -> int | None:
        """When the first key is due."""
        while self._heap:
            due_ns, key = self._heap[0]
            if self._due.get(key) == due_ns:
                return due_ns
            heappop(self._heap)
        return None

    def pop(self, now_ns: int) -> KeyT | None:
        """The first key that is due by now, dropped; None if there is none."""
        due_ns = self.next_ns()
        if due_ns is None or due_ns > now_ns:
            return None
        _, key = heappop(self._heap)
        del self._due[key]
        return key
