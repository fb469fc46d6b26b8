"""What the job manager has to answer: claims, or reports, one of a device, until it has.

An item goes out with the next batch, again after ``again_ns`` of silence, and again when the job
manager came back; it may, for the job manager remembers what it answered. After ``timeout_ns`` it
is given up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from propius.messages import Claim, ReportItem

Item = TypeVar("Item", Claim, ReportItem)


@dataclass(slots=True)
class Waiting(Generic[Item]):
    """An item under way since ``since_ns``."""

    item: Item
    since_ns: int


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How much, how soon again, and how long."""

    items_max: int
    again_ns: int
    timeout_ns: int


class Outbox(Generic[Item]):
    """Items by device, oldest first."""

    def __init__(self, limits: OutboxLimits) -> None:
        self._max = limits.items_max
        self._again_ns = limits.again_ns
        self._timeout_ns = limits.timeout_ns
        self._items: OrderedDict[str, Waiting[Item]] = OrderedDict()  # in order of since_ns
        self._unsent: dict[str, None] = {}
        self._sent: OrderedDict[str, int] = OrderedDict()  # device → when it was last sent

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return (waiting.item for waiting in self._items.values())

    def get(self, device: str) -> Item | None:
        """What this device waits for."""
        waiting = self._items.get(device)
        return None if waiting is None else waiting.item

    def add(self, now_ns: int, item: Item) -> bool:
        """Send this with the next batch, in place of an older one of the device; False: full."""
        if len(self._items) >= self._max and item.device_id not in self._items:
            return False
        self.remove(item.device_id)
        self._items[item.device_id] = Waiting(item, now_ns)
        self._unsent[item.device_id] = None
        return True

    def remove(self, device: str) -> Item | None:
        """It is answered, or given up."""
        waiting = self._items.pop(device, None)
        self._unsent.pop(device, None)
        self._sent.pop(device, None)
        return None if waiting is None else waiting.item

    def answered(self, device: str, session: int, request: int) -> Item | None:
        """Take the item that this answers; None if it answers nothing (any more)."""
        item = self.get(device)
        if item is None or (item.session, item.request) != (session, request):
            return None
        return self.remove(device)

    def take(self, now_ns: int) -> list[Item]:
        """What has to be sent now; it counts as sent."""
        while self._sent:
            device, sent_ns = next(iter(self._sent.items()))
            if now_ns < sent_ns + self._again_ns:
                break
            del self._sent[device]
            self._unsent[device] = None
        unsent, self._unsent = self._unsent, {}
        for device in unsent:
            self._sent[device] = now_ns
        return [self._items[device].item for device in unsent]

    def send_all_again(self) -> None:
        """Whatever was sent may be lost."""
        self._unsent = dict.fromkeys(self._items)
        self._sent.clear()

    def expire(self, now_ns: int) -> list[Item]:
        """Give up what waits too long."""
        given_up: list[Item] = []
        while self._items:
            device, waiting = next(iter(self._items.items()))
            if now_ns < waiting.since_ns + self._timeout_ns:
                break
            given_up.append(waiting.item)
            self.remove(device)
        return given_up

    def due_ns(self, *, sending: bool) -> int | None:
        """When there is something to send again (while ``sending`` is possible) or to give up."""
        if not self._items:
            return None
        due_ns = next(iter(self._items.values())).since_ns + self._timeout_ns
        if sending and self._sent:
            due_ns = min(due_ns, next(iter(self._sent.values())) + self._again_ns)
        return due_ns

    def check(self) -> None:
        """Each item is either sent or unsent; raises AssertionError where not."""
        assert len(self._items) <= self._max, "more under way than allowed"
        assert self._items.keys() == self._unsent.keys() | self._sent.keys(), "an item is lost"
        assert not self._unsent.keys() & self._sent.keys(), "an item is sent and unsent"
