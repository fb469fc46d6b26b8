"""The one place where the SDK touches a ZeroMQ socket: a DEALER and its monitor.

Both drivers (:mod:`propius.connection`, :mod:`propius.aio_connection`) use it without ever
blocking in it. Not here: when to read or write, and what.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import zmq

from propius.calls import Calls
from propius.core import Frames
from propius.errors import UsageError
from propius.messages import PAYLOAD_BYTES_MAX
from propius.session import Key

QUEUE_MAX: Final = 10_000
"""Messages either way: more than the talks of one connection, which have one each under way."""
RECONNECT_MIN_MS: Final = 100
RECONNECT_MAX_MS: Final = 5_000  # doubled from the minimum by libzmq, with jitter
HEARTBEAT_MS: Final = 5_000
HEARTBEAT_SILENCE_MS: Final = 15_000  # then the connection is made anew


class Wire:
    """A DEALER to one endpoint that reconnects by itself and says when it did."""

    def __init__(self, endpoint: str, context: zmq.Context[Any] | None = None) -> None:
        context = context or zmq.Context.instance()
        self.socket = context.socket(zmq.DEALER)
        self._lost: set[Key] = set()  # sent over a connection that broke
        try:
            self._set_options()
            self.monitor = self.socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
            )
        except BaseException:
            self.socket.close(0)
            raise
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            text = f"endpoint {endpoint!r}: {error}; it looks like tcp://127.0.0.1:50001"
            raise UsageError(text) from error

    def send(self, frames: Frames) -> bool:
        """Hand one message to libzmq; False if it takes none now (no connection, full queue)."""
        header, payload = frames
        try:
            self.socket.send(header, zmq.SNDMORE | zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.socket.send(payload, zmq.NOBLOCK)  # never refused after its first part was taken
        return True

    def receive(self) -> Frames | None:
        """The next message that has arrived, whatever its number of frames; None if none has."""
        try:
            return tuple(self.socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return None

    def follow(self, calls: Calls, now_ns: int) -> None:
        """Notice broken and new connections; what went down with one is asked again by the next."""
        while True:
            try:
                event, _ = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if int.from_bytes(event[:2], sys.byteorder) == zmq.EVENT_DISCONNECTED:
                self._lost |= calls.sent()
            elif self._lost:
                calls.reconnected(now_ns, self._lost)
                self._lost.clear()

    def send_all(self, calls: Calls) -> None:
        """Send the outbox as far as the socket takes it."""
        outbox = calls.outbox
        while outbox:
            key, frames = next(iter(outbox.items()))
            if not self.send(frames):
                return
            del outbox[key]

    def close(self) -> None:
        """Close both sockets; what is unsent is lost."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close(0)

    def _set_options(self) -> None:
        socket = self.socket
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = QUEUE_MAX
        socket.setsockopt(zmq.MAXMSGSIZE, PAYLOAD_BYTES_MAX)
        # Nothing is queued for a connection that does not stand: the talk decides what to repeat.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MIN_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_SILENCE_MS)
