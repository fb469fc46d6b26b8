from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest

from propius.core import SECOND_NS, Core, Link, Say, Send
from propius.messages import (
    Beat,
    Header,
    Hello,
    Message,
    NeedSnapshot,
    Reject,
    decode_header,
    decode_payload,
    encode,
)
from propius.peering import (
    BEAT_NS,
    HELLO_AGAIN_NS,
    SILENCE_NS,
    TAKEN_AGAIN_NS,
    Dialer,
    Listener,
    Peer,
)

Frames = tuple[bytes, ...]
VERSION = "0.1.0"


class Manager(Core):
    """A toy daemon that dials."""

    links = (Link("up", "dial", outside=False),)

    def __init__(
        self, incarnation: int, *, version: str = VERSION, schema: str = "s", role: str = "manager"
    ) -> None:
        super().__init__("manager-3", incarnation)
        hello = Hello(role=role, manager=3, package_version=version, schema=schema)
        self.dialer = Dialer(self, "up", hello)
        self.came_up = 0
        self.got: list[Message] = []

    def start(self, now_ns: int) -> None:
        self.dialer.start(now_ns)

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        message = decode_payload(header.kind, frames[1])
        self.came_up += self.dialer.heard(now_ns, header, message)
        if self.dialer.up and isinstance(message, NeedSnapshot):
            self.got.append(message)

    def due_ns(self) -> int:
        return self.dialer.due_ns()

    def tick(self, now_ns: int) -> None:
        self.dialer.tick(now_ns, Beat())


class Owner(Core):
    """A toy daemon that binds."""

    links = (Link("down", "bind", outside=False),)

    def __init__(self, incarnation: int) -> None:
        super().__init__("owner", incarnation)
        self.listener = Listener(
            self, "down", roles=frozenset({"manager"}), package_version=VERSION, schema="s"
        )
        self.fresh: list[Peer] = []
        self.lost: list[Peer] = []
        self.got: list[Message] = []
        self.ready = True

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        message = decode_payload(header.kind, frames[1])
        who, fresh = self.listener.heard(now_ns, peer, header, message)
        if who is not None and fresh:
            self.fresh.append(who)
        elif who is not None and isinstance(message, NeedSnapshot):
            self.got.append(message)

    def due_ns(self) -> int | None:
        return self.listener.due_ns()

    def tick(self, now_ns: int) -> None:
        self.lost += self.listener.tick(now_ns, Beat(ready=self.ready, seq=5))


@dataclass
class Wire:
    """One manager and one owner, a wire between them, and a clock."""

    manager: Manager
    owner: Owner
    address: bytes = b"a1"
    now_ns: int = SECOND_NS
    cut: bool = False
    said: list[Say] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager.start(self.now_ns)
        self.settle()

    def settle(self) -> None:
        """Deliver until nobody has anything to say at this time."""
        waiting: deque[tuple[Core, Send]] = deque()
        while True:
            for core in (self.manager, self.owner):
                for effect in core.take_effects():
                    if isinstance(effect, Say):
                        self.said.append(effect)
                    elif isinstance(effect, Send) and not self.cut:
                        waiting.append((core, effect))
            if not waiting:
                return
            speaker, send = waiting.popleft()
            self.kinds.append(decode_header(send.frames[0]).kind)
            if speaker is self.manager:
                self.owner.receive(self.now_ns, "down", self.address, send.frames)
            elif send.peer == self.address:
                self.manager.receive(self.now_ns, "up", b"", send.frames)

    def run(self, duration_ns: int) -> None:
        """Let time pass, from one due time to the next."""
        end_ns = self.now_ns + duration_ns
        while True:
            due = [core.due_ns() for core in (self.manager, self.owner)]
            next_ns = min((each for each in due if each is not None), default=end_ns)
            if next_ns > end_ns:
                self.now_ns = end_ns
                return
            self.now_ns = max(self.now_ns, next_ns)
            for core in (self.manager, self.owner):
                due_ns = core.due_ns()
                if due_ns is not None and due_ns <= self.now_ns:
                    core.tick(self.now_ns)
            self.settle()


@pytest.fixture
def wire() -> Wire:
    """A manager that has found its owner."""
    return Wire(Manager(11), Owner(22))


def test_a_hello_is_welcomed(wire: Wire) -> None:
    """One hello brings the peering up on both sides, once, with both incarnations known."""
    assert wire.kinds == ["hello", "welcome"]
    assert wire.manager.dialer.up
    assert wire.manager.came_up == 1
    assert wire.manager.dialer.incarnation == 22
    assert [(peer.name, peer.manager, peer.incarnation) for peer in wire.owner.fresh] == [
        ("manager-3", 3, 11)
    ]


def test_both_beat_when_there_is_nothing_to_say(wire: Wire) -> None:
    """A quiet peering stays up for ever, at a beat a side each interval, and carries readiness."""
    wire.owner.ready = False
    wire.run(60 * SECOND_NS)
    assert wire.manager.dialer.up
    assert not wire.manager.dialer.peer_ready
    assert not wire.owner.lost
    assert wire.manager.came_up == 1
    assert len(wire.owner.fresh) == 1
    beats = wire.kinds.count("beat")
    assert beats <= 2 * (60 * SECOND_NS // BEAT_NS + 1)


def test_hello_is_repeated_until_somebody_is_there() -> None:
    """A dialler that nobody hears keeps saying hello at its interval, and comes up when heard."""
    wire = Wire(Manager(11), Owner(22), cut=True)
    wire.run(10 * HELLO_AGAIN_NS)
    assert not wire.manager.dialer.up
    wire.cut = False
    wire.run(HELLO_AGAIN_NS)
    assert wire.manager.dialer.up


def test_silence_ends_the_peering_on_both_sides_and_hello_restores_it(wire: Wire) -> None:
    """A cut wire is noticed within the silence limit; afterwards each counts as new again."""
    wire.cut = True
    wire.run(SILENCE_NS + BEAT_NS)
    assert not wire.manager.dialer.up
    assert [peer.name for peer in wire.owner.lost] == ["manager-3"]
    assert not wire.owner.listener.peers
    wire.cut = False
    wire.run(SECOND_NS)
    assert wire.manager.dialer.up
    assert wire.manager.came_up == 2
    assert len(wire.owner.fresh) == 2


def test_a_replaced_owner_is_greeted_anew(wire: Wire) -> None:
    """A new incarnation that does not know the manager makes it say hello to it."""
    wire.owner = Owner(23)
    wire.run(SECOND_NS)
    assert wire.manager.dialer.incarnation == 23
    assert wire.manager.came_up == 2
    assert len(wire.owner.fresh) == 1


def second(wire: Wire, incarnation: int = 12) -> Manager:
    """Another process under the same name, at an address of its own; the first is cut off."""
    first, wire.manager, wire.address = wire.manager, Manager(incarnation), b"a2"
    wire.manager.start(wire.now_ns)
    wire.settle()
    return first


@pytest.mark.parametrize("unreachable", [True, False])
def test_a_restarted_manager_is_a_new_peer_under_the_same_name(
    wire: Wire, unreachable: bool
) -> None:
    """A new incarnation gets the name when the old one cannot be reached, or is silent."""
    if unreachable:
        wire.owner.listener.unreachable(wire.now_ns, b"a1")
    second(wire)
    assert wire.manager.dialer.up == unreachable
    wire.run(SECOND_NS)
    assert not wire.manager.dialer.taken
    wire.run(SILENCE_NS + TAKEN_AGAIN_NS - SECOND_NS)
    assert wire.manager.dialer.up
    assert not wire.manager.dialer.taken
    assert [peer.incarnation for peer in wire.owner.fresh] == [11, 12]
    assert len(wire.owner.listener.peers) == 1
    assert wire.owner.listener.peers["manager-3"].address == b"a2"


def test_a_second_process_of_one_name_is_refused_for_ever(wire: Wire) -> None:
    """While the first is heard, it keeps its peering; the second finds out that it must end."""
    first = second(wire)
    for _ in range(10):
        wire.run(BEAT_NS)
        beat = Header(kind="beat", sender=first.name, session=11, request=9)
        wire.owner.receive(wire.now_ns, "down", b"a1", encode(beat, Beat()))
    assert not wire.manager.dialer.up
    assert wire.manager.dialer.taken
    assert all(
        word in wire.manager.dialer.rejected for word in ("manager-3", "incarnation 11", "lives")
    )
    assert [peer.incarnation for peer in wire.owner.fresh] == [11]
    assert [say.event for say in wire.said] == ["peer_rejected_us"]


def test_being_refused_for_a_moment_is_not_being_taken(wire: Wire) -> None:
    """Rejections count from the last welcome: a name that was free in between is not taken."""
    second(wire)
    wire.run(SILENCE_NS + SECOND_NS)
    assert wire.manager.dialer.up
    wire.now_ns += 10 * SECOND_NS
    reject = Header(kind="reject", sender="owner", session=22, request=1)
    frames = encode(reject, Reject(text="taken by somebody", taken=True))
    wire.manager.receive(wire.now_ns, "up", b"", frames)
    assert not wire.manager.dialer.taken


def test_refusals_from_before_a_freeze_do_not_end_a_manager(wire: Wire) -> None:
    """Frozen while it was refused for a moment, it must not take that for three seconds of it."""
    second(wire)
    wire.run(TAKEN_AGAIN_NS)
    wire.now_ns += 4 * SECOND_NS
    reject = Header(kind="reject", sender="owner", session=22, request=1)
    frames = encode(reject, Reject(text="taken by somebody", taken=True))
    for _ in range(2):  # what lay in its socket when it woke up
        wire.manager.receive(wire.now_ns, "up", b"", frames)
    assert not wire.manager.dialer.taken


def test_what_was_said_before_a_freeze_is_not_heard_after_it(wire: Wire) -> None:
    """A manager that was frozen for longer than the silence limit starts with a hello."""
    wire.owner.listener.send(wire.now_ns, wire.owner.fresh[0], NeedSnapshot())
    (late,) = [each for each in wire.owner.take_effects() if isinstance(each, Send)]
    wire.now_ns += SILENCE_NS
    wire.manager.receive(wire.now_ns, "up", b"", late.frames)
    assert not wire.manager.got
    assert not wire.manager.dialer.up
    wire.settle()
    assert wire.manager.dialer.up
    assert wire.manager.came_up == 2


def test_a_peer_that_cannot_be_reached_is_lost_at_once(wire: Wire) -> None:
    """What finds no taker ends the peering at the next tick, unless the peer speaks before."""
    wire.owner.listener.unreachable(wire.now_ns, b"somebody else")
    wire.owner.listener.unreachable(wire.now_ns, b"a1")
    assert wire.owner.due_ns() == wire.now_ns
    wire.cut = True
    wire.run(0)
    assert [peer.name for peer in wire.owner.lost] == ["manager-3"]


def test_a_reconnected_manager_keeps_its_peering(wire: Wire) -> None:
    """The same incarnation at another address is asked for hello, and is not new."""
    wire.address = b"a2"
    wire.run(SECOND_NS)
    assert wire.manager.dialer.up
    assert len(wire.owner.fresh) == 1
    assert wire.owner.listener.peers["manager-3"].address == b"a2"


def test_a_stranger_is_told_to_say_hello_and_changes_nothing(wire: Wire) -> None:
    """A message of an unknown sender is answered unknown_session; it is not passed on."""
    frames = (
        b"\x95\x01\xadneed_snapshot\xa8stranger\x01\x01",
        b"\x80",
    )
    wire.owner.receive(wire.now_ns, "down", b"zz", frames)
    (reply,) = [each for each in wire.owner.take_effects() if isinstance(each, Send)]
    assert reply.peer == b"zz"
    assert b"unknown_session" in reply.frames[1]
    assert not wire.owner.got


def test_what_an_old_incarnation_says_is_not_passed_on(wire: Wire) -> None:
    """A message that was under way when its sender was replaced has no effect."""
    old = wire.manager
    old.dialer.send(wire.now_ns, NeedSnapshot())
    (late,) = [each for each in old.take_effects() if isinstance(each, Send)]
    wire.owner.listener.unreachable(wire.now_ns, wire.address)
    wire.manager = Manager(12)
    wire.manager.start(wire.now_ns)
    wire.settle()
    wire.owner.receive(wire.now_ns, "down", wire.address, late.frames)
    assert not wire.owner.got


def test_messages_flow_both_ways_once_up(wire: Wire) -> None:
    """What either side sends arrives at the other's core."""
    wire.manager.dialer.send(wire.now_ns, NeedSnapshot())
    wire.owner.listener.send(wire.now_ns, wire.owner.fresh[0], NeedSnapshot())
    wire.settle()
    assert wire.owner.got == [NeedSnapshot()]
    assert wire.manager.got == [NeedSnapshot()]


@pytest.mark.parametrize(
    "misfit, named",
    [
        ({"version": "9.9.9"}, ("0.1.0", "9.9.9")),
        ({"schema": "other"}, ("s", "other")),
        ({"role": "scheduler"}, ("manager", "scheduler")),
    ],
)
def test_a_misfit_is_rejected_with_both_sides_named(
    misfit: dict[str, str], named: tuple[str, str]
) -> None:
    """Another version, schema or role is never welcomed; one line says why, once."""
    wire = Wire(Manager(11, **misfit), Owner(22))
    wire.run(10 * SECOND_NS)
    assert not wire.manager.dialer.up
    assert not wire.owner.fresh
    assert all(name in wire.manager.dialer.rejected for name in named)
    assert [say.event for say in wire.said] == ["peer_rejected_us"]
    assert wire.owner.counters["refused_hellos"] >= 10


def test_a_repeated_hello_is_welcomed_and_not_new(wire: Wire) -> None:
    """A hello that was sent twice does not make the owner start over."""
    wire.manager.start(wire.now_ns)
    wire.settle()
    assert len(wire.owner.fresh) == 1
    assert wire.manager.came_up == 1
    assert wire.manager.dialer.up
