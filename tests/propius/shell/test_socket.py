"""A link's socket against a fake one: short drains, no room, no peer, too many frames."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import zmq

from propius.core import SECOND_NS, Link
from propius.messages import INSIDE_PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX
from propius.shell import socket as shell_socket
from propius.shell.exit_codes import CANNOT_BIND, StartError
from propius.shell.socket import Binding, LinkSocket, QueueLimits, open_socket

DOOR = Link("door", "bind", outside=True)
PEER = Link("peer", "dial", outside=False)
LIMITS = QueueLimits(messages_per_peer=3, bytes_in_all=100, age_ns=SECOND_NS)


@dataclass
class FakeFrame:
    bytes: bytes
    more: bool


class FakeSocket:
    """Frames to read are scripted, None stands for EAGAIN; sends may be refused per peer."""

    def __init__(self, *messages: Iterable[bytes] | None) -> None:
        self.frames: deque[FakeFrame | None] = deque()
        for message in messages:
            self.push(message)
        self.sent: list[bytes] = []
        self.full: set[bytes] = set()
        self.gone: set[bytes] = set()

    def push(self, message: Iterable[bytes] | None) -> None:
        if message is None:
            self.frames.append(None)
            return
        parts = list(message)
        last = len(parts) - 1
        self.frames.extend(FakeFrame(part, n < last) for n, part in enumerate(parts))

    def recv(self, flags: int, copy: bool) -> FakeFrame:
        assert flags & zmq.NOBLOCK
        assert copy is False
        frame = self.frames.popleft() if self.frames else None
        if frame is None:
            raise zmq.Again
        return frame

    def send(self, data: bytes, flags: int) -> None:
        assert flags & zmq.NOBLOCK
        if data in self.full:
            raise zmq.Again
        if data in self.gone:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        self.sent.append(data)


def test_drain_takes_all_messages_of_a_batch() -> None:
    """Messages come out in order, each with its peer and its frames."""
    link = LinkSocket(DOOR, FakeSocket([b"a", b"h1", b"p1"], [b"b", b"h2", b"p2"]))
    assert link.drain() == [(b"a", (b"h1", b"p1")), (b"b", (b"h2", b"p2"))]
    assert not link.more_to_read


def test_dialling_link_has_no_routing_ids() -> None:
    """A dealer's messages are all ours, and its peer is b""."""
    link = LinkSocket(PEER, FakeSocket([b"h", b"p"]))
    assert link.drain() == [(b"", (b"h", b"p"))]


def test_a_frame_too_many_does_not_shift_the_reader() -> None:
    """[id, header, forged id, payload] is one message of its sender, not somebody else's."""
    raw = FakeSocket([b"evil", b"h", b"victim", b"p"], [b"a", b"h", b"p"], [b"b"])
    assert LinkSocket(DOOR, raw).drain() == [
        (b"evil", (b"h", b"victim", b"p")),
        (b"a", (b"h", b"p")),
        (b"b", ()),
    ]


def test_drain_goes_on_where_eagain_cut_a_message() -> None:
    """A message of which only the first frames are there is completed by a later drain."""
    raw = FakeSocket()
    raw.frames.extend([FakeFrame(b"a", True), FakeFrame(b"h", True), None])
    link = LinkSocket(DOOR, raw)
    assert link.drain() == []
    raw.frames.append(FakeFrame(b"p", False))
    assert link.drain() == [(b"a", (b"h", b"p"))]


def test_drain_stops_at_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link with more than its share of messages lets the others have their turn."""
    monkeypatch.setattr(shell_socket, "MESSAGES_PER_DRAIN_MAX", 2)
    link = LinkSocket(DOOR, FakeSocket(*[[b"a", b"h", b"p"]] * 3))
    assert len(link.drain()) == 2
    assert link.more_to_read
    assert len(link.drain()) == 1


def test_drain_stops_at_its_share_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large messages use the share up sooner."""
    monkeypatch.setattr(shell_socket, "BYTES_PER_DRAIN_MAX", 100)
    link = LinkSocket(DOOR, FakeSocket(*[[b"a", b"h", b"p" * 99]] * 3))
    assert len(link.drain()) == 1


def test_endless_message_is_thrown_away_in_instalments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a message with very many frames a few are kept, and drains end long before it does."""
    monkeypatch.setattr(shell_socket, "FRAMES_PER_DRAIN_MAX", 100)
    link = LinkSocket(DOOR, FakeSocket([b"evil", *[b""] * 250], [b"a", b"h", b"p"]))
    assert link.drain() == []
    assert link.more_to_read
    assert len(link._kept) == shell_socket.FRAMES_KEPT_MAX
    assert link.drain() == []
    assert link.drain() == [(b"a", (b"h", b"p"))]
    assert link.endless_messages == 1


def test_send_puts_the_peer_first() -> None:
    """A router is told the peer, a dealer is not."""
    door, peer = FakeSocket(), FakeSocket()
    LinkSocket(DOOR, door).send(0, b"a", (b"h", b"p"))
    LinkSocket(PEER, peer).send(0, b"", (b"h", b"p"))
    assert door.sent == [b"a", b"h", b"p"]
    assert peer.sent == [b"h", b"p"]


def test_full_peer_is_queued_and_served_later_in_order() -> None:
    """EAGAIN in the middle of a batch: that peer waits, the others do not, nothing overtakes."""
    raw = FakeSocket()
    raw.full = {b"slow"}
    link = LinkSocket(DOOR, raw, LIMITS)
    link.send(0, b"slow", (b"h1", b"p"))
    link.send(0, b"fast", (b"h2", b"p"))
    assert link.retry_due_ns() == shell_socket.RETRY_NS
    raw.full = set()
    link.send(0, b"slow", (b"h3", b"p"))  # there would be room, but h1 goes first
    assert link.queued_messages == 2
    link.retry(1)
    assert [frame for frame in raw.sent if frame.startswith(b"h")] == [b"h2", b"h1", b"h3"]
    assert (link.queued_messages, link.queued_bytes, link.retry_due_ns()) == (0, 0, None)


def test_peer_that_never_reads_is_given_up() -> None:
    """What waited too long is undelivered, and so is what finds the queue full."""
    raw = FakeSocket()
    raw.full = {b"slow"}
    link = LinkSocket(DOOR, raw, LIMITS)
    for number in range(4):
        link.send(0, b"slow", (b"h%d" % number, b"p"))
    assert link.take_undelivered() == [(b"slow", (b"h3", b"p"))]
    link.retry(LIMITS.age_ns - 1)
    assert link.take_undelivered() == []
    link.retry(LIMITS.age_ns)
    assert len(link.take_undelivered()) == 3
    assert (link.queued_messages, link.queued_bytes, link.retry_due_ns()) == (0, 0, None)


def test_queues_share_a_limit_of_bytes() -> None:
    """Many slow peers together cannot hold more than the limit."""
    raw = FakeSocket()
    raw.full = {b"a", b"b"}
    link = LinkSocket(DOOR, raw, LIMITS)
    link.send(0, b"a", (b"h", b"p" * 60))
    link.send(0, b"b", (b"h", b"p" * 60))
    assert link.take_undelivered() == [(b"b", (b"h", b"p" * 60))]


def test_unknown_peer_is_undelivered_at_once() -> None:
    """EHOSTUNREACH comes back to the core, and does not disturb the others."""
    raw = FakeSocket()
    raw.gone = {b"gone"}
    link = LinkSocket(DOOR, raw, LIMITS)
    link.send(0, b"gone", (b"h", b"p"))
    link.send(0, b"here", (b"h", b"p"))
    assert link.take_undelivered() == [(b"gone", (b"h", b"p"))]
    assert raw.sent == [b"here", b"h", b"p"]
    assert link.undelivered_count == 1


def test_peer_that_leaves_while_it_is_queued_for() -> None:
    """Its whole queue is undelivered."""
    raw = FakeSocket()
    raw.full = {b"slow"}
    link = LinkSocket(DOOR, raw, LIMITS)
    link.send(0, b"slow", (b"h1", b"p"))
    link.send(0, b"slow", (b"h2", b"p"))
    raw.full, raw.gone = set(), {b"slow"}
    link.retry(1)
    assert [frames[0] for _, frames in link.take_undelivered()] == [b"h1", b"h2"]


def test_dialling_link_waits_for_room_by_polling() -> None:
    """A dealer can be polled for writing, so it has no retry timer."""
    raw = FakeSocket()
    raw.full = {b"h"}
    link = LinkSocket(PEER, raw, LIMITS)
    link.send(0, b"", (b"h", b"p"))
    assert link.wants_writable
    assert link.retry_due_ns() is None


# --- with real sockets ----------------------------------------------------------------------


def opened(context: zmq.Context[zmq.Socket[bytes]]) -> tuple[LinkSocket, zmq.Socket[bytes], str]:
    """An outside link on a free port: itself, its raw socket, its endpoint."""
    raw, endpoint = open_socket(context, Binding(DOOR, "tcp://127.0.0.1:0"))
    return LinkSocket(DOOR, raw), raw, endpoint


def test_oversize_frame_cuts_the_connection() -> None:
    """A frame above the limit never arrives; its sender is cut off, an honest peer is served."""
    with zmq.Context() as context:
        link, raw, endpoint = opened(context)
        with raw, context.socket(zmq.DEALER) as evil, context.socket(zmq.DEALER) as honest:
            for each in (evil, honest):
                each.linger = 0
                each.connect(endpoint)
            evil.send_multipart([b"h", bytes(PAYLOAD_BYTES_MAX + 1)])
            honest.send_multipart([b"h", bytes(PAYLOAD_BYTES_MAX)])
            assert raw.poll(5_000)
            assert [len(frames[1]) for _, frames in link.drain()] == [PAYLOAD_BYTES_MAX]


def test_a_link_may_carry_larger_frames() -> None:
    """A link that says so takes frames above what the daemons' messages may have, up to its own."""
    wide = Link("wide", "bind", outside=False, frame_bytes_max=INSIDE_PAYLOAD_BYTES_MAX + 1)
    with zmq.Context() as context:
        raw, endpoint = open_socket(context, Binding(wide, "tcp://127.0.0.1:0"))
        with raw, context.socket(zmq.DEALER) as sender:
            sender.linger = 0
            sender.connect(endpoint)
            sender.send_multipart([b"h", b"b", bytes(INSIDE_PAYLOAD_BYTES_MAX + 1)])
            assert raw.poll(5_000)
            ((_, frames),) = LinkSocket(wide, raw).drain()
    assert [len(frame) for frame in frames] == [1, 1, INSIDE_PAYLOAD_BYTES_MAX + 1]


def test_departed_peer_is_undelivered_with_a_real_router() -> None:
    """libzmq says at once that nobody has this routing id."""
    with zmq.Context() as context:
        link, raw, _ = opened(context)
        with raw:
            link.send(0, b"\0nobody", (b"h", b"p"))
            assert link.take_undelivered() == [(b"\0nobody", (b"h", b"p"))]


def test_endpoint_tells_the_port_that_was_found() -> None:
    """Port 0 becomes a real one."""
    with zmq.Context() as context:
        _, raw, endpoint = opened(context)
        with raw:
            assert int(endpoint.rpartition(":")[2]) > 0


def test_port_in_use_is_one_line_with_address_and_key() -> None:
    """The error names the address, the configuration's key, and says what to do."""
    with socket.socket() as holder, zmq.Context() as context:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        endpoint = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(StartError) as caught:
            open_socket(context, Binding(DOOR, endpoint, "load_balancer.port"))
        assert caught.value.exit_code == CANNOT_BIND
        assert endpoint in str(caught.value)
        assert "(load_balancer.port)" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_monitor_counts_failed_handshakes() -> None:
    """A peer that does not speak ZMTP is counted as a failed handshake."""
    with zmq.Context() as context:
        _, raw, endpoint = opened(context)
        monitor = shell_socket.ConnectionMonitor(context, raw)
        with raw, monitor.raw:
            host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
            with socket.create_connection((host, int(port))) as stranger:
                greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0")
                stranger.sendall(greeting + bytes(64 - len(greeting)))
                assert monitor.raw.poll(5_000)
            monitor.drain()
            raw.disable_monitor()
            assert monitor.handshakes_failed + monitor.disconnected >= 1
            assert struct.calcsize("=Hi") == 6
