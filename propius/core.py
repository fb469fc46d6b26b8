"""What a daemon's core is: events and a time go in, effects come out, and nothing else happens.

A core owns one daemon's decisions. It has no socket, clock, thread, file or hidden randomness, so
the same object runs under the shell (:mod:`propius.shell`, real sockets) and under the test
harness (virtual network and clock, faults from a seed).

The driver's loop, for any core::

    core.start(now_ns)
    while running:
        wait until a link is readable, a commit came back, or core.due_ns() has passed
        for each message of the batch:   core.receive(now_ns, link, peer, frames)
        for each finished commit:        core.committed(now_ns, number) or core.commit_failed(…)
        if core.due_ns() has passed:     core.tick(now_ns)
        core.flush(now_ns)               # once a batch
        carry out core.take_effects(), in order

Rules that both sides keep:

1. ``receive`` never raises on what a peer sent; it answers an error or counts a refusal.
2. Effects are complete and ordered: the driver does exactly these, and nothing on its own.
3. A reply that depends on a commit is emitted only in ``committed`` of that commit.
4. Times are integer nanoseconds of the machine's monotonic clock, the same for all daemons of a
   machine. Wall-clock time is only ever data for people.
5. ``peer`` is opaque to the core, valid only on its link, and never leaves the process.

Not here: the messages (:mod:`propius.messages`) and how daemons find each other again after one of
them died (:mod:`propius.peering`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from propius.messages import DecodeError, Header, Message, decode_header, encode

Frames: TypeAlias = tuple[bytes, ...]

SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Link:
    """One socket of a daemon: a ROUTER that binds, or a DEALER that dials (its peer is b"")."""

    name: str
    side: Literal["bind", "dial"]
    outside: bool  # strangers reach it: small messages, small queues, nothing trusted
    frame_bytes_max: int = 0  # of one frame; 0: what messages of the daemons may have


@dataclass(frozen=True, slots=True)
class Send:
    """Put these frames on the link, for this peer (b"" on a dialling link)."""

    link: str
    peer: bytes
    frames: Frames


@dataclass(frozen=True, slots=True)
class Put:
    """Store ``value`` under (table, key)."""

    table: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget (table, key)."""

    table: str
    key: str


Change: TypeAlias = Put | Delete


@dataclass(frozen=True, slots=True)
class Commit:
    """Make these changes durable, all or none, after the commits before; then say ``committed``."""

    number: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Append an event to the event log (dropped when the log is off)."""

    now_ns: int
    event: Message


@dataclass(frozen=True, slots=True)
class Say:
    """One line for the operator's log."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


Effect: TypeAlias = Send | Commit | Record | Say


class Core:
    """Base of the daemons' cores: collects effects, decodes headers, counts what it refuses."""

    links: tuple[Link, ...] = ()

    def __init__(self, name: str, incarnation: int) -> None:
        self.name = name  # the `sender` of everything this daemon says, e.g. "client_manager-1"
        self.incarnation = incarnation  # random, drawn by whoever starts the core
        self.counters: dict[str, int] = {}  # monotone; scraped by the shell as propius_<key>_total
        self._effects: list[Effect] = []

    # --- the driver's side -------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """What must be done now, in order; the core forgets it."""
        effects, self._effects = self._effects, []
        return effects

    def start(self, now_ns: int) -> None:
        """The first call: say hello to the peers, set the first timers."""

    def receive(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        """A message arrived. Two frames go to ``on_message``; anything else is counted away."""
        if len(frames) != 2:
            self.count("refused_frames")
            return
        try:
            header = decode_header(frames[0])
        except DecodeError as error:
            self.count("refused_headers")
            self.refuse(link, peer, None, error)
            return
        self.on_message(now_ns, link, peer, header, frames)

    def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        """A Send was dropped: the peer is gone, or takes nothing any more."""
        self.count("undeliverable")

    def committed(self, now_ns: int, number: int) -> None:
        """Commit ``number``, and all before it, are durable."""

    def commit_failed(self, now_ns: int, number: int, reason: str) -> None:
        """Commit ``number`` failed and will be tried again; acknowledge nothing until then."""

    def due_ns(self) -> int | None:
        """When ``tick`` wants to be called next, or None."""
        return None

    def tick(self, now_ns: int) -> None:
        """Do what is due."""

    def flush(self, now_ns: int) -> None:
        """The batch is over: emit what was gathered (one commit, one message per peer)."""

    def drain(self, now_ns: int) -> None:
        """SIGTERM: take no new work, answer what was promised."""

    def drained(self) -> bool:
        """Nothing promised is outstanding; the driver may stop (it also stops after a time-out)."""
        return True

    def not_ready(self) -> str:
        """Why this daemon cannot do its work now, in one line; "" when it can."""
        return ""

    def must_end(self) -> str:
        """Why this process must end and not be started again, in one line; "" as a rule."""
        return ""

    def peers(self) -> list[dict[str, str | int | float | bool]]:
        """Who is connected on the inside links, for people; bounded."""
        return []

    def gauges(self) -> dict[str, float]:
        """Present levels for /metrics, as propius_<key>; no per-client keys."""
        return {}

    # --- the core's side ---------------------------------------------------------------------

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        """Handle one message with a valid header; subclasses decode the payload and `match`."""
        raise NotImplementedError

    def count(self, key: str, by: int = 1) -> None:
        """Add to a counter."""
        self.counters[key] = self.counters.get(key, 0) + by

    def send(self, link: str, peer: bytes, header: Header, message: Message) -> None:
        """Emit a message."""
        self._effects.append(Send(link, peer, encode(header, message)))

    def reply(self, link: str, peer: bytes, to: Header, message: Message) -> None:
        """Answer a request: the reply repeats its session and request number."""
        self.send(link, peer, self.header_for(message, to), message)

    def refuse(self, link: str, peer: bytes, to: Header | None, error: DecodeError) -> None:
        """Answer what could not be decoded (request 0, session 0 if its header could not be)."""
        header = to or Header(kind="error", sender="unknown", session=0, request=0)
        self.reply(link, peer, header, error.reply())

    def header_for(self, message: Message, to: Header) -> Header:
        """The header of a reply to ``to``."""
        return Header(kind=message.kind, sender=self.name, session=to.session, request=to.request)

    def emit(self, effect: Effect) -> None:
        """Emit any effect."""
        self._effects.append(effect)

    def record(self, now_ns: int, event: Message) -> None:
        """Emit an event for the event log."""
        self._effects.append(Record(now_ns, event))

    def say(
        self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: object
    ) -> None:
        """Emit a log line."""
        self._effects.append(Say(level, event, fields))
