"""The requests that client managers have not answered yet: a bounded table, oldest first.

An entry lives from the request of a device to its answer, and no longer than the longest wait a
device may ask for. There is one for each device of a connection: when a device says something new,
its older entry is of no use to anybody and goes.

Not here: who answers (:mod:`daemons.load_balancer.core`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from propius.messages import Header


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
        return entry

    def remove(self, entry: Pending) -> None:
        """The request is answered, or given up."""
        del self._by_tag[entry.tag]
        del self._by_device[entry.peer, entry.header.sender]
        tags = self._by_manager[entry.manager]
        del tags[entry.tag]
        if not tags:
            del self._by_manager[entry.manager]

    def of_manager(self, manager: str) -> list[Pending]:
        """Everything that this manager has not answered, oldest first."""
        return [self._by_tag[tag] for tag in self._by_manager.get(manager, ())]

    def count_of_manager(self, manager: str) -> int:
        """How much this manager has not answered."""
        return len(self._by_manager.get(manager, ()))

    def managers(self) -> AbstractSet[str]:
        """The managers that have something to answer."""
        return self._by_manager.keys()

    def all(self) -> list[Pending]:
        """Everything, oldest first."""
        return list(self._by_tag.values())

    def oldest(self) -> Pending | None:
        """The request that waits longest."""
        return next(iter(self._by_tag.values()), None)

    def check(self) -> None:
        """The three indexes agree; raises AssertionError where not."""
        tags = set(self._by_tag)
        assert set(self._by_device.values()) == tags, "a device without its request"
        assert len(self._by_device) == len(tags), "two requests of one device"
        listed = [tag for tags_of in self._by_manager.values() for tag in tags_of]
        assert sorted(listed) == sorted(tags), "a manager's list differs from the table"
        assert all(self._by_manager.values()), "a manager with an empty list"
        times = [entry.since_ns for entry in self._by_tag.values()]
        assert times == sorted(times), "the table is not in order of time"
