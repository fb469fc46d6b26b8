"""A small world for the tests of cores: peers that speak the protocol, on a virtual clock.

:class:`Driver` does for one core what the shell does (:mod:`propius.core`), and checks the core's
invariants after every step. What the core sends is kept until a test reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from propius.core import Core, Record, Say, Send
from propius.messages import Beat, Header, Hello, Message, Schema, decode_payload, encode
from propius.peering import BEAT_NS

M = TypeVar("M", bound=Message)

SECOND = 1_000_000_000
VERSION = "0.1.0"
SCHEMA = Schema(schema="s1", attributes=[("cpu", 10.0), ("ram", 16.0)])


def device_id(number: int) -> str:
    """A device id that is easy to recognise."""
    return f"{number:032x}"


@dataclass
class Sent:
    """One message that a core sent."""

    link: str
    peer: bytes
    header: Header
    message: Any


@dataclass
class Driver:
    """Runs a core step by step: one batch a call, with the clock where the test puts it."""

    core: Any
    now_ns: int = 1_000 * SECOND
    sent: list[Sent] = field(default_factory=list)
    events: list[Message] = field(default_factory=list)
    said: list[Say] = field(default_factory=list)

    def start(self) -> None:
        self.core.start(self.now_ns)
        self._end_batch()

    def receive(self, link: str, peer: bytes, *frames: bytes) -> None:
        """One batch of one message, as raw frames."""
        self.core.receive(self.now_ns, link, peer, frames)
        self._end_batch()

    def hear(
        self,
        link: str,
        peer: bytes,
        message: Message,
        *,
        sender: str,
        session: int,
        request: int = 0,
    ) -> None:
        """One batch of one message."""
        header = Header(kind=message.kind, sender=sender, session=session, request=request)
        self.receive(link, peer, *encode(header, message))

    def undeliverable(self, sent: Sent) -> None:
        """Something that was sent could not be delivered."""
        frames = encode(sent.header, sent.message)
        self.core.undeliverable(self.now_ns, sent.link, sent.peer, frames)
        self._end_batch()

    def advance(self, seconds: float) -> None:
        """Let time pass, with every wake-up that the core wants."""
        until_ns = self.now_ns + int(seconds * SECOND)
        for _ in range(100_000):
            due_ns = self.core.due_ns()
            if due_ns is None or due_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, due_ns)
            self.core.tick(self.now_ns)
            self._end_batch()
        else:
            raise AssertionError("the core wants to be woken for ever")
        self.now_ns = until_ns

    def take(self, kind: type[M], link: str | None = None) -> list[M]:
        """The messages of one kind that were sent since they were last taken."""
        return [sent.message for sent in self.take_sent(kind, link)]

    def take_sent(self, kind: type[Message], link: str | None = None) -> list[Sent]:
        """The same, with their headers and peers."""

        def wanted(sent: Sent) -> bool:
            return isinstance(sent.message, kind) and link in {None, sent.link}

        taken = [sent for sent in self.sent if wanted(sent)]
        self.sent = [sent for sent in self.sent if not wanted(sent)]
        return taken

    def one(self, kind: type[M], link: str | None = None) -> M:
        """The only message of this kind."""
        (message,) = self.take(kind, link)
        return message

    def take_events(self) -> list[Message]:
        events, self.events = self.events, []
        return events

    def _end_batch(self) -> None:
        core: Core = self.core
        core.flush(self.now_ns)
        for effect in core.take_effects():
            match effect:
                case Send(link, peer, frames):
                    header = _header(frames[0])
                    message = decode_payload(header.kind, frames[1], bytes_max=1 << 30)
                    self.sent.append(Sent(link, peer, header, message))
                case Record(event=event):
                    self.events.append(event)
                case Say():
                    self.said.append(effect)
        self.core.check_invariants()


@dataclass
class DiallingPeer:
    """A daemon that dials the core under test: says hello, beats, sends."""

    driver: Driver
    link: str
    role: str
    name: str
    manager: int = 0
    incarnation: int = 1
    address: bytes = b""
    version: str = VERSION
    schema: str = "s1"

    def hello(self) -> None:
        self.say(
            Hello(
                role=self.role,
                manager=self.manager,
                package_version=self.version,
                schema=self.schema,
            )
        )

    def say(self, message: Message) -> None:
        self.driver.hear(
            self.link,
            self.address or self.name.encode(),
            message,
            sender=self.name,
            session=self.incarnation,
        )


def keep_alive(driver: Driver, seconds: float, *peers: Any, **beat: Any) -> None:
    """Let time pass while these peers beat."""
    steps = max(1, int(seconds * SECOND / BEAT_NS))
    for _ in range(steps):
        driver.advance(seconds / steps)
        for peer in peers:
            peer.say(Beat(**beat))


def _header(frame: bytes) -> Header:
    from propius.messages import decode_header

    return decode_header(frame)
