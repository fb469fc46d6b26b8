"""One socket of a daemon: drained without waiting, written without waiting, bounded both ways.

Reading takes message after message until nothing is left or this turn's share is used up. Frames
are taken one by one and each one's *more* flag is looked at: a message with a frame too many must
never shift the reader by one, or a peer could speak in another's name. Of an endless message only
the first frames are kept, and it is thrown away in instalments so that other links get their turn.

Writing never blocks. What libzmq does not take now waits in a bounded queue per peer; what finds no
peer, no room, or no taker in time is handed back as undelivered.

Not here: who polls (:mod:`propius.shell.runtime`), and what is in the frames.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

import zmq

from propius.core import SECOND_NS, Frames, Link
from propius.messages import INSIDE_PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX
from propius.shell.exit_codes import CANNOT_BIND, StartError

MESSAGES_PER_DRAIN_MAX: Final = 1_000  # of one link in one turn
FRAMES_PER_DRAIN_MAX: Final = 4_000  # and frames, for messages that have too many
BYTES_PER_DRAIN_MAX: Final = 16 << 20  # and bytes; at least one message is taken
FRAMES_KEPT_MAX: Final = 8  # of one message; a right one has two, and the routing id
RETRY_NS: Final = SECOND_NS // 100  # a ROUTER cannot be polled for one peer's room

_NOW: Final = int(zmq.NOBLOCK)
_NOW_AND_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)


class RawFrame(Protocol):
    """As much of zmq.Frame as is used."""

    @property
    def bytes(self) -> bytes: ...
    @property
    def more(self) -> bool: ...


class RawSocket(Protocol):
    """As much of zmq.Socket as is used; tests pass their own."""

    def recv(self, flags: int, copy: bool) -> Any: ...
    def send(self, data: Any, flags: int) -> Any: ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait for peers that take nothing now, and for how long."""

    messages_per_peer: int
    bytes_in_all: int
    age_ns: int


# A gateway may carry many devices, and one batch may answer all of them.
OUTSIDE: Final = QueueLimits(messages_per_peer=4_096, bytes_in_all=64 << 20, age_ns=10 * SECOND_NS)
# A peer that is silent for longer counts as dead, and what was meant for it is obsolete.
INSIDE: Final = QueueLimits(messages_per_peer=1_000, bytes_in_all=256 << 20, age_ns=2 * SECOND_NS)


@dataclass(slots=True)
class _Waiting:
    since_ns: int
    frames: Frames


class LinkSocket:
    """A link's socket with its queues and counters."""

    def __init__(self, link: Link, raw: RawSocket, limits: QueueLimits | None = None) -> None:
        self.link = link
        self.raw = raw
        self.limits = limits or (OUTSIDE if link.outside else INSIDE)
        self.received = self.sent = self.undelivered_count = self.endless_messages = 0
        self.queued_messages = self.queued_bytes = 0
        self.more_to_read = False  # the last drain stopped at a limit, not at the end
        self._ids = 1 if link.side == "bind" else 0  # frames of libzmq's own before ours
        self._kept: list[bytes] = []  # the message that is being taken apart
        self._frames = 0  # of it
        self._queues: dict[bytes, deque[_Waiting]] = {}
        self._undelivered: list[tuple[bytes, Frames]] = []
        self._retry_ns = 0

    # --- reading -----------------------------------------------------------------------------

    def drain(self) -> list[tuple[bytes, Frames]]:
        """Messages as (peer, frames): all that are there, or this turn's share of them."""
        messages: list[tuple[bytes, Frames]] = []
        recv, kept = self.raw.recv, self._kept
        size = 0
        self.more_to_read = True
        for _ in range(FRAMES_PER_DRAIN_MAX):
            try:
                frame: RawFrame = recv(_NOW, False)
            except zmq.Again:
                self.more_to_read = False
                break
            self._frames += 1
            if self._frames <= FRAMES_KEPT_MAX:
                data = frame.bytes
                size += len(data)
                kept.append(data)
            if frame.more:
                continue
            self._message(messages)
            if len(messages) >= MESSAGES_PER_DRAIN_MAX or size >= BYTES_PER_DRAIN_MAX:
                break
        return messages

    def _message(self, messages: list[tuple[bytes, Frames]]) -> None:
        """The message in hand is complete."""
        kept, ids = self._kept, self._ids
        if self._frames > FRAMES_KEPT_MAX:
            self.endless_messages += 1
        else:
            self.received += 1
            messages.append((kept[0] if ids else b"", tuple(kept[ids:])))
        kept.clear()
        self._frames = 0

    # --- writing -----------------------------------------------------------------------------

    def send(self, now_ns: int, peer: bytes, frames: Frames) -> None:
        """Send now, or queue, or give up at once (see :meth:`take_undelivered`)."""
        if peer not in self._queues:
            taken = self._try(peer, frames)
            if taken is None:
                self._queue(now_ns, peer, frames)
            elif not taken:
                self._give_up(peer, frames)
        else:
            self._queue(now_ns, peer, frames)  # behind what waits already

    def retry(self, now_ns: int) -> None:
        """Try again for the peers that took nothing before."""
        self._retry_ns = now_ns + RETRY_NS
        for peer in list(self._queues):
            self._retry_peer(now_ns, peer, self._queues[peer])

    def retry_due_ns(self) -> int | None:
        """When ``retry`` should be called; None if a poll for writing says it better."""
        return self._retry_ns if self._queues and self.link.side == "bind" else None

    @property
    def wants_writable(self) -> bool:
        """Whether to poll for room."""
        return bool(self._queues) and self.link.side == "dial"

    def take_undelivered(self) -> list[tuple[bytes, Frames]]:
        """What was given up since the last call."""
        undelivered, self._undelivered = self._undelivered, []
        return undelivered

    def _try(self, peer: bytes, frames: Frames) -> bool | None:
        """True: libzmq has it. None: no room now. False: there is no such peer.

        libzmq refuses a message at its first frame, or (a dealer's) takes back all of it.
        """
        send = self.raw.send
        try:
            if self._ids:
                send(peer, _NOW_AND_MORE)
            for frame in frames[:-1]:
                send(frame, _NOW_AND_MORE)
            send(frames[-1], _NOW)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        self.sent += 1
        return True

    def _queue(self, now_ns: int, peer: bytes, frames: Frames) -> None:
        queue = self._queues.get(peer)
        waiting = len(queue) if queue is not None else 0
        size = sum(map(len, frames))
        limits = self.limits
        if waiting >= limits.messages_per_peer or self.queued_bytes + size > limits.bytes_in_all:
            self._give_up(peer, frames)
            return
        if queue is None:
            if not self._queues:
                self._retry_ns = now_ns + RETRY_NS
            queue = self._queues[peer] = deque()
        queue.append(_Waiting(now_ns, frames))
        self.queued_messages += 1
        self.queued_bytes += size

    def _retry_peer(self, now_ns: int, peer: bytes, queue: deque[_Waiting]) -> None:
        while queue:
            taken = self._try(peer, queue[0].frames)
            if taken is None and now_ns - queue[0].since_ns < self.limits.age_ns:
                return
            waiting = queue.popleft()
            self.queued_messages -= 1
            self.queued_bytes -= sum(map(len, waiting.frames))
            if not taken:
                self._give_up(peer, waiting.frames)
        del self._queues[peer]

    def _give_up(self, peer: bytes, frames: Frames) -> None:
        self.undelivered_count += 1
        self._undelivered.append((peer, frames))


class ConnectionMonitor:
    """Counts connections that ended and handshakes that failed, as libzmq itself sees them.

    A message over the size limit never reaches the program: libzmq cuts the connection.
    """

    EVENTS: Final = (
        zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    )

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        self.disconnected = self.handshakes_failed = 0
        address = f"inproc://monitor-{id(self)}"
        socket.monitor(address, self.EVENTS)
        self.raw = context.socket(zmq.PAIR)
        self.raw.linger = 0
        self.raw.rcvhwm = 0  # libzmq's I/O thread would block at a limit; events are tiny
        self.raw.connect(address)

    def drain(self) -> None:
        """Count what happened."""
        while True:
            try:
                event = self.raw.recv(_NOW)
            except zmq.Again:
                return
            if len(event) != struct.calcsize("=Hi"):
                continue  # the address that follows an event
            if struct.unpack("=Hi", event)[0] == zmq.EVENT_DISCONNECTED:
                self.disconnected += 1
            else:
                self.handshakes_failed += 1


@dataclass(frozen=True, slots=True)
class Binding:
    """A link and its address: ``tcp://HOST:PORT``, port 0 = any free one if it binds."""

    link: Link
    endpoint: str
    key: str = ""  # the configuration's name for it, for error messages


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], binding: Binding
) -> tuple[zmq.Socket[bytes], str]:
    """The socket, set up and bound or connecting, and its endpoint with the real port.

    Raises :class:`StartError`.
    """
    link = binding.link
    socket = context.socket(zmq.ROUTER if link.side == "bind" else zmq.DEALER)
    _set_options(socket, link)
    if "[" in binding.endpoint:
        socket.ipv6 = True
    try:
        if link.side == "dial":
            socket.connect(binding.endpoint)
            return socket, binding.endpoint
        socket.bind(
            binding.endpoint.replace(":0", ":*")
            if binding.endpoint.endswith(":0")
            else binding.endpoint
        )
    except zmq.ZMQError as error:
        socket.close(linger=0)
        dials = link.side == "dial"
        advice = "name tcp://HOST:PORT" if dials else "stop what uses it or choose another address"
        text = (
            f"cannot {'connect to' if dials else 'bind'} {binding.endpoint}"
            f" ({binding.key or link.name}): {error.strerror}; {advice}"
        )
        raise StartError(text, CANNOT_BIND) from None
    return socket, bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).decode().rstrip("\0")


def _set_options(socket: zmq.Socket[bytes], link: Link) -> None:
    socket.linger = 0
    socket.maxmsgsize = link.frame_bytes_max or (
        PAYLOAD_BYTES_MAX if link.outside else INSIDE_PAYLOAD_BYTES_MAX
    )
    socket.handshake_ivl = 5_000
    socket.heartbeat_ivl = 5_000
    socket.heartbeat_timeout = 15_000
    socket.heartbeat_ttl = 30_000
    socket.sndhwm = 1_000
    # What a stranger may make us hold unread: this many messages of the greatest size.
    socket.rcvhwm = 100 if link.outside else 1_000
    if link.side == "bind":
        socket.backlog = 4_096
        socket.router_mandatory = True
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    else:
        socket.immediate = True
        # Daemons are few: one that comes back is found at once, not when a long pause is over.
        socket.reconnect_ivl = 100
        socket.reconnect_ivl_max = 200
