"""What may leave only when the store has what it depends on.

Everything that a batch says is kept until the batch's commit is durable, reads included: nobody
ever learns what a crash could take back. Order is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from propius.core import Record
from propius.messages import ClaimResults, Header, JobEvents, Message, Snapshot


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a job server."""

    peer: bytes
    header: Header
    message: Message


@dataclass(frozen=True, slots=True)
class ToManager:
    """Answers for a client manager, unless it was replaced meanwhile."""

    name: str
    incarnation: int
    message: ClaimResults


@dataclass(frozen=True, slots=True)
class ToScheduler:
    """News for the scheduler, unless the peering was made anew meanwhile."""

    peering: int
    message: Snapshot | JobEvents


Staged: TypeAlias = Reply | ToManager | ToScheduler | Record


class Outbox:
    """A queue of what was said, by the commit that it waits for."""

    def __init__(self) -> None:
        self._batch: list[Staged] = []
        self._waiting: deque[tuple[int, Staged]] = deque()

    def __len__(self) -> int:
        return len(self._batch) + len(self._waiting)

    def add(self, item: Staged) -> None:
        """The present batch says this."""
        self._batch.append(item)

    def close_batch(self, commit: int) -> None:
        """The batch is over; what it said waits for this commit."""
        self._waiting.extend((commit, item) for item in self._batch)
        self._batch.clear()

    def ready(self, committed: int) -> Iterator[Staged]:
        """What may leave now that this commit, and all before it, are durable."""
        while self._waiting and self._waiting[0][0] <= committed:
            yield self._waiting.popleft()[1]
