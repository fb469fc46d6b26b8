"""The requests that client managers have not answered yet: a bounded table, oldest first.

An entry lives from the request of a device to its answer: a check-in no longer than the longest
wait a device may ask for, anything else a short while. There is one for each device of a
connection: when a device says something new, its older entry is of no use to anybody and goes.

Not here: who answers (:mod:`daemons.load_balancer.core`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Final

from propius.core import SECOND_NS
from propius.messages import WAIT_S_MAX, CheckIn, Header

HELD_NS: Final = int((WAIT_S_MAX + 30.0) * SECOND_NS)  # a check-in
BRIEF_NS: Final = 30 * SECOND_NS  # anything else; a client manager gives up sooner


@dataclass(frozen=True, slots=True)
class Pending:
    """One request under way; ``manager`` is the name of the client manager that has it."""

    tag: int
    peer: bytes  # the connection that the answer goes to
    header: Header
    manager: str
    since_ns: int


class PendingTable:
    """Requests by tag; tags grow from ``first_tag`` and are never used twice."""

    def __init__(self, first_tag: int) -> None:
        self._next_tag = first_tag
        self._by_tag: OrderedDict[int, Pending] = OrderedDict()  # in order of since_ns
        self._by_device: dict[tuple[bytes, str], int] = {}
        self._by_manager: dict[str, dict[int, None]] = {}
        self._by_peer: dict[bytes, int] = {}  # how many
        self._brief: dict[int, None] = {}  # tags that are no check-ins, in order of since_ns

    def __len__(self) -> int:
        return len(self._by_tag)

    def of_device(self, peer: bytes, device: str) -> Pending | None:
        """What this device is waiting for on this connection."""
        tag = self._by_device.get((peer, device))
        return None if tag is None else self._by_tag[tag]

    def get(self, tag: int) -> Pending | None:
        """The request with this tag, if it is not answered yet."""
        return self._by_tag.get(tag)

    def add(self, now_ns: int, peer: bytes, header: Header, manager: str) -> Pending:
        """Remember a request; the device must have no other on this connection."""
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        entry = Pending(tag, peer, header, manager, now_ns)
        self._by_tag[tag] = entry
        self._by_device[peer, header.sender] = tag
        self._by_manager.setdefault(manager, {})[tag] = None
        self._by_peer[peer] = self._by_peer.get(peer, 0) + 1
        if header.kind != CheckIn.kind:
            self._brief[tag] = None
        return entry

    def remove(self, entry: Pending) -> None:
        """The request is answered, or given up."""
        del self._by_tag[entry.tag]
        del self._by_device[entry.peer, entry.header.sender]
        self._brief.pop(entry.tag, None)
        left = self._by_peer.pop(entry.peer) - 1
        if left:
            self._by_peer[entry.peer] = left
        tags = self._by_manager[entry.manager]
        del tags[entry.tag]
        if not tags:
            del self._by_manager[entry.manager]

    def of_manager(self, manager: str) -> list[Pending]:
        """Everything that this manager has not answered, oldest first."""
        return [self._by_tag[tag] for tag in self._by_manager.get(manager, ())]

    def count_of_peer(self, peer: bytes) -> int:
        """How much is to be answered over this connection."""
        return self._by_peer.get(peer, 0)

    def count_of_manager(self, manager: str) -> int:
        """How much this manager has not answered."""
        return len(self._by_manager.get(manager, ()))

    def managers(self) -> AbstractSet[str]:
        """The managers that have something to answer."""
        return self._by_manager.keys()

    def all(self) -> list[Pending]:
        """Everything, oldest first."""
        return list(self._by_tag.values())

    def due_ns(self) -> int | None:
        """When a request has waited too long."""
        times = [entry.since_ns + most_ns for entry, most_ns in self._oldest()]
        return min(times, default=None)

    def overdue(self, now_ns: int) -> Pending | None:
        """A request that has waited too long."""
        for entry, most_ns in self._oldest():
            if now_ns >= entry.since_ns + most_ns:
                return entry
        return None

    def _oldest(self) -> Iterator[tuple[Pending, int]]:
        """The oldest of each kind, and how long it may wait."""
        for entry in islice(self._by_tag.values(), 1):
            yield entry, HELD_NS
        for tag in islice(self._brief, 1):
            yield self._by_tag[tag], BRIEF_NS

    def check(self) -> None:
        """The three indexes agree; raises AssertionError where not."""
        tags = set(self._by_tag)
        assert set(self._by_device.values()) == tags, "a device without its request"
        assert len(self._by_device) == len(tags), "two requests of one device"
        listed = [tag for tags_of in self._by_manager.values() for tag in tags_of]
        assert sorted(listed) == sorted(tags), "a manager's list differs from the table"
        assert all(self._by_manager.values()), "a manager with an empty list"
        by_peer = Counter(entry.peer for entry in self._by_tag.values())
        assert by_peer == self._by_peer, "a connection's count differs from the table"
        brief = [tag for tag, entry in self._by_tag.items() if entry.header.kind != CheckIn.kind]
        assert list(self._brief) == brief, "the brief requests differ from the table"
        times = [entry.since_ns for entry in self._by_tag.values()]
        assert times == sorted(times), "the table is not in order of time"
