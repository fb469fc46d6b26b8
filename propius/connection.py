"""Talks over a real socket, blocking: one :class:`Connection` may carry many jobs and clients.

Not here: the same for asyncio (:mod:`propius.aio_connection`).
"""

from __future__ import annotations

import random
import secrets
import threading
import time
import warnings
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import zmq

from propius.calls import Call, Calls
from propius.errors import SessionClosedError, UsageError
from propius.session import SchemaCell, Talk
from propius.wire import Wire

T = TypeVar("T")
BATCH_MAX: Final = 256
"""Messages read before timers and the outbox get their turn."""


class Connection:
    """A connection to one endpoint, used by blocking jobs and clients.

    Pass it as ``connection=`` to many of them to share it; it must outlive them. It reconnects by
    itself, and asks again what may have been lost. Threads may share it: their requests take turns.
    It connects at the first request.

    >>> with Connection("tcp://127.0.0.1:50002") as connection:
    ...     connection.endpoint
    'tcp://127.0.0.1:50002'
    """

    def __init__(self, endpoint: str, *, context: zmq.Context[Any] | None = None) -> None:
        self.endpoint = endpoint
        self.cell = SchemaCell()
        self._context = context
        self._calls = Calls()
        self._lock = threading.Lock()
        self._closed = False
        self._wire: Wire | None = None
        self._poller = zmq.Poller()

    def call(self, talk: Talk[T]) -> T:
        """Carry a talk out; returns or raises what it does."""
        with self._lock:
            wire = self._open_wire()
            call = self._calls.start(time.monotonic_ns(), talk)
            try:
                while not call.done:
                    self._turn(wire, call)
            finally:
                self._calls.cancel(call)
        return call.result()

    def close(self) -> None:
        """Close the socket; does nothing the second time."""
        with self._lock:
            self._closed = True
            self._calls.close()
            if self._wire is not None:
                self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._wire is not None and not self._closed:
            self._wire.close()
            text = f"unclosed {type(self).__name__} to {self.endpoint}: use `with`, or close()"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def _open_wire(self) -> Wire:
        if self._closed:
            raise SessionClosedError(f"the connection to {self.endpoint} is closed")
        if self._wire is None:
            self._wire = Wire(self.endpoint, self._context)
            self._poller.register(self._wire.monitor, zmq.POLLIN)
        return self._wire

    def _turn(self, wire: Wire, call: Call[Any]) -> None:
        """Send what can be sent, wait for what comes first, and deal with it."""
        wire.follow(self._calls, time.monotonic_ns())
        wire.send_all(self._calls)
        due_ns = self._calls.due_ns()
        assert due_ns is not None, "a call that is not over always has a time to be woken at"
        wait_ms = max(0, -((time.monotonic_ns() - due_ns) // 1_000_000))
        self._poller.register(wire.socket, zmq.POLLIN | (zmq.POLLOUT if self._calls.outbox else 0))
        self._poller.poll(wait_ms)
        now_ns = time.monotonic_ns()
        for _ in range(BATCH_MAX):
            frames = None if call.done else wire.receive()
            if frames is None:
                break
            self._calls.receive(now_ns, frames)
        self._calls.tick(now_ns)


def fresh_dice() -> random.Random:
    """Random numbers for one session, seeded by the operating system."""
    return random.Random(secrets.randbits(128))


def check_route(endpoint: str, connection: object | None) -> None:
    """Demand exactly one of the two."""
    if bool(endpoint) == (connection is not None):
        raise UsageError("give either an endpoint or connection=")
