"""The last request of each device and its answer, so that asking twice has the effect of once.

The rules, for a request of a device whose last one is remembered:

=====================  ==================================================================
same session           what happens
=====================  ==================================================================
lower number           ``stale_request``
same number and body   the same answer again; if there is none yet, it will go to the repeat
same number, new body  ``conflict``
higher number          a new request; what the last one left behind is let go
=====================  ==================================================================

Another session is another life of the device: its request is new, whatever the number. Refusals
that only time can mend (``busy`` …), and offers that lapsed, are no answers to remember: a repeat
of such a request is decided anew (:attr:`Stage.LAPSED`).

Bounded by age and by number; what is under way is never dropped, and is bounded by its owner.
"""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from propius.messages import Header


class Stage(enum.Enum):
    """How far a request has come."""

    HELD = "held"  # a check-in that waits for work
    ASKED = "asked"  # an accept or a report that the job manager has to answer
    ANSWERED = "answered"
    LAPSED = "lapsed"  # its answer is worth nothing any more


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    device: str
    session: int
    request: int
    kind: str
    digest: bytes
    tag: int  # where the answer goes; a repeat brings a newer one
    at_ns: int
    # The session whose check-in the present offer answers: only that one may accept it.
    offer_session: int
    stage: Stage = Stage.LAPSED
    reply: tuple[bytes, bytes] | None = None  # the frames, once answered

    @property
    def under_way(self) -> bool:
        """It still has to be answered."""
        return self.stage is Stage.HELD or self.stage is Stage.ASKED

    def is_for(self, session: int, request: int) -> bool:
        """Whether an answer to (session, request) is an answer to this."""
        return self.session == session and self.request == request


def digest_of(kind: str, payload: bytes) -> bytes:
    """What tells two bodies apart, 16 bytes.

    >>> digest_of("accept", b"x") == digest_of("decline", b"x")
    False
    """
    return hashlib.blake2b(payload, digest_size=16, key=kind.encode()[:64]).digest()


class Exchanges:
    """One exchange a device, the least recently used first."""

    def __init__(self, *, remembered_max: int, remember_ns: int) -> None:
        self._max = remembered_max
        self._remember_ns = remember_ns
        self._by_device: OrderedDict[str, Exchange] = OrderedDict()
        self._by_tag: dict[int, Exchange] = {}

    def __len__(self) -> int:
        return len(self._by_device)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._by_device.values())

    def get(self, device: str) -> Exchange | None:
        """The device's last request, if it is remembered."""
        return self._by_device.get(device)

    def by_tag(self, tag: int) -> Exchange | None:
        """The exchange whose answer goes, or went, to this tag."""
        return self._by_tag.get(tag)

    def begin(self, now_ns: int, tag: int, header: Header, digest: bytes) -> Exchange:
        """A new request; it replaces the device's last one."""
        known = self._by_device.pop(header.sender, None)
        session = header.session
        if known is not None:
            self._forget_tag(known)
            session = known.offer_session
        if header.kind == "check_in":
            session = header.session
        exchange = Exchange(
            header.sender, header.session, header.request, header.kind, digest, tag, now_ns, session
        )
        if known is None and header.kind != "check_in":
            exchange.offer_session = -1  # nothing was offered, as far as is known here
        self._by_device[header.sender] = exchange
        self._by_tag[tag] = exchange
        return exchange

    def repeat(self, now_ns: int, exchange: Exchange, tag: int) -> None:
        """The device asked again: from now on the answer goes to this tag."""
        self._forget_tag(exchange)
        exchange.tag, exchange.at_ns = tag, now_ns
        self._by_tag[tag] = exchange
        self._by_device.move_to_end(exchange.device)

    def settle(
        self, now_ns: int, exchange: Exchange, stage: Stage, reply: tuple[bytes, bytes] | None
    ) -> None:
        """It is answered; the time for which that is remembered begins now."""
        exchange.stage, exchange.reply, exchange.at_ns = stage, reply, now_ns
        if self._by_device.get(exchange.device) is exchange:
            self._by_device.move_to_end(exchange.device)

    def tidy(self, now_ns: int) -> None:
        """Forget what is too old or too much; what is under way stays."""
        for _ in range(len(self._by_device)):
            device, oldest = next(iter(self._by_device.items()))
            too_old = now_ns >= oldest.at_ns + self._remember_ns
            if not too_old and len(self._by_device) <= self._max:
                return
            if oldest.under_way:
                oldest.at_ns = now_ns
                self._by_device.move_to_end(device)
            else:
                del self._by_device[device]
                self._forget_tag(oldest)

    def check(self) -> None:
        """Tags and devices agree; raises AssertionError where not."""
        assert len(self._by_tag) <= len(self._by_device), "a tag outlived its exchange"
        for tag, exchange in self._by_tag.items():
            assert exchange.tag == tag, "a tag leads to an exchange that has another"
            assert self._by_device.get(exchange.device) is exchange, "a tag of a forgotten exchange"
        settled = sum(not exchange.under_way for exchange in self._by_device.values())
        assert settled <= self._max, "more is remembered than allowed"

    def in_stage(self, stage: Stage) -> list[Exchange]:
        """All in this stage; for drains and checks, not for the hot path."""
        return [exchange for exchange in self._by_device.values() if exchange.stage is stage]

    def _forget_tag(self, exchange: Exchange) -> None:
        if self._by_tag.get(exchange.tag) is exchange:
            del self._by_tag[exchange.tag]
