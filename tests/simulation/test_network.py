from __future__ import annotations

from random import Random

import pytest

from propius.messages import Header, Heartbeat, encode
from tests.simulation.clock import SECOND_NS, Clock
from tests.simulation.faults import Fault, Faults
from tests.simulation.network import Network
from tests.simulation.trace import Trace


class Box:
    """A process that keeps what it receives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections = 0
        self.received: list[tuple[str, bytes, tuple[bytes, ...]]] = []

    def deliver(self, link: str, peer: bytes, frames: tuple[bytes, ...]) -> None:
        self.received.append((link, peer, frames))

    def connected(self, link: str) -> None:
        self.connections += 1

    def texts(self) -> list[bytes]:
        return [frames[-1] for _link, _peer, frames in self.received]


class Pair:
    """A server that binds and a client that dials, both up and connected."""

    def __init__(self, rates: dict[Fault, float] | None = None, seed: int = 1) -> None:
        self.clock = Clock()
        faults = Faults(Random(seed), rates or {}, {}, active=bool(rates))
        self.network = Network(self.clock, faults, Trace(), [b"secret"])
        self.faults = faults
        self.server, self.client = Box("server"), Box("client")
        self.network.bind(self.server, "in")
        self.network.dial(self.client, "out", self.server, "in")
        for process in (self.server, self.client):
            self.network.up(process)
        self.wait()

    def wait(self, seconds: float = 10.0) -> None:
        self.clock.run(self.clock.now_ns + int(seconds * SECOND_NS))

    def say(self, text: bytes) -> None:
        assert self.network.send(self.client, "out", b"", (b"h", text))

    def peer(self) -> bytes:
        return self.server.received[-1][1]


def test_a_connection_keeps_the_order() -> None:
    """Without faults messages arrive once, in order, under one peer id; replies find their way."""
    pair = Pair()
    for number in range(50):
        pair.say(b"%d" % number)
    pair.wait()
    assert pair.server.texts() == [b"%d" % number for number in range(50)]
    assert len({peer for _link, peer, _frames in pair.server.received}) == 1
    assert pair.network.send(pair.server, "in", pair.peer(), (b"h", b"reply"))
    pair.wait()
    assert pair.client.received == [("out", b"", (b"h", b"reply"))]


def test_a_dialler_that_died_is_undeliverable_and_comes_back_as_another_peer() -> None:
    """After a crash the old peer id leads nowhere, and the same process has a new one."""
    pair = Pair()
    pair.say(b"1")
    pair.wait()
    old = pair.peer()
    pair.network.down(pair.client)
    pair.wait()
    assert not pair.network.send(pair.server, "in", old, (b"h", b"reply"))
    pair.network.up(pair.client)
    pair.wait()
    pair.say(b"2")
    pair.wait()
    assert pair.peer() != old
    assert pair.client.received == []


def test_a_dialler_keeps_its_messages_until_the_server_is_back() -> None:
    """What is said while nobody listens waits, and what was under way at the crash is lost."""
    pair = Pair()
    pair.say(b"under way")
    pair.network.down(pair.server)
    pair.say(b"waits")
    pair.wait()
    assert pair.server.received == []
    pair.network.up(pair.server)
    pair.wait()
    assert pair.server.texts() == [b"waits"]


@pytest.mark.parametrize("cut", [False, True])
def test_a_partition_stalls_or_cuts(cut: bool) -> None:
    """A stalled partition delivers when it heals, in order; a cut one makes a new connection."""
    pair = Pair()
    pair.network.partition("client", "server", cut=cut)
    pair.say(b"1")
    pair.say(b"2")
    pair.wait()
    assert pair.server.received == []
    pair.network.heal("client", "server")
    pair.wait()
    assert pair.server.texts() == [b"1", b"2"]


@pytest.mark.parametrize(
    "kind", [Fault.DROP, Fault.DUPLICATE, Fault.REORDER, Fault.DELAY, Fault.TEAR]
)
def test_each_fault_of_a_message_does_what_it_says(kind: Fault) -> None:
    """With one kind of fault always on, the messages show that kind and are counted."""
    pair = Pair({kind: 1.0})
    header = Header(kind="heartbeat", sender="s", session=1, request=1)
    frames = encode(header, Heartbeat(job=1, secret=b""))
    sent = [(frames[0], frames[1] + bytes([number])) for number in range(40)]
    for message in sent:
        pair.network.send(pair.client, "out", b"", message)
    pair.wait()
    received = [message for _link, _peer, message in pair.server.received]
    match kind:
        case Fault.DROP:
            assert received == []
        case Fault.DUPLICATE:
            assert sorted(received) == sorted(sent * 2)
        case Fault.REORDER:
            assert received != sent
            assert sorted(received) == sorted(sent)
        case Fault.DELAY:
            assert received == sent
        case _:
            assert not set(received) & set(sent)
    assert pair.faults.counts == {kind: 40}
    assert pair.faults.coverage == {("heartbeat", kind): 40}


def test_a_private_spec_on_the_wire_is_seen() -> None:
    """A frame that contains the marker is reported with its sender."""
    pair = Pair()
    seen: list[str] = []
    pair.network.leaked = lambda sender, _frames: seen.append(sender)
    pair.say(b"harmless")
    pair.say(b"my secret is out")
    assert seen == ["client"]
