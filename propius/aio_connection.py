"""Talks over a real socket, in asyncio: one :class:`AsyncConnection` carries many clients cheaply.

The DEALER's file descriptor is watched by the event loop and drained when it wakes; it is *edge*
triggered, and sending may use up an edge, so the socket is read again after every send. This costs
a tenth of what a future for each message does.

Not here: the same without asyncio (:mod:`propius.connection`).
"""

from __future__ import annotations

import asyncio
import time
import warnings
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq

from propius.calls import Calls
from propius.connection import BATCH_MAX
from propius.errors import SessionClosedError, UsageError
from propius.session import SchemaCell, Talk
from propius.wire import Wire

T = TypeVar("T")


class AsyncConnection:
    """A connection to one endpoint, used by asyncio jobs and clients of one event loop.

    Pass it as ``connection=`` to hundreds of them to share it; it must outlive them. It connects at
    the first request, reconnects by itself, and asks again what may have been lost.
    """

    def __init__(self, endpoint: str, *, context: zmq.Context[Any] | None = None) -> None:
        self.endpoint = endpoint
        self.cell = SchemaCell()
        self._context = context
        self._calls = Calls()
        self._closed = False
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drain_soon = False

    async def call(self, talk: Talk[T]) -> T:
        """Carry a talk out; returns or raises what it does."""
        self._open()
        over = asyncio.get_running_loop().create_future()

        def on_done() -> None:
            if not over.done():
                over.set_result(None)

        call = self._calls.start(time.monotonic_ns(), talk, on_done)
        self._send()
        try:
            await over
        finally:
            self._calls.cancel(call)
        return call.result()

    async def close(self) -> None:
        """Close the socket; requests under way fail with SessionClosedError."""
        self._closed = True
        self._calls.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wire is not None and self._loop is not None:
            if self._loop.is_closed():
                self._wire.close()
                return
            self._loop.remove_reader(self._wire.socket.fileno())
            self._loop.remove_reader(self._wire.monitor.fileno())
            self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._wire is not None and not self._closed:
            self._wire.close()
            text = f"unclosed {type(self).__name__} to {self.endpoint}: use `async with`"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def _open(self) -> None:
        if self._closed:
            raise SessionClosedError(f"the connection to {self.endpoint} is closed")
        loop = asyncio.get_running_loop()
        if self._wire is None:
            self._loop, self._wire = loop, Wire(self.endpoint, self._context)
            loop.add_reader(self._wire.socket.fileno(), self._drain)
            loop.add_reader(self._wire.monitor.fileno(), self._drain)
            self._read_soon()  # the edge may have come before the watch
        elif loop is not self._loop:
            raise UsageError("an AsyncConnection belongs to the event loop that first used it")

    def _send(self) -> None:
        """Send the outbox, and see to it that answers and timers are noticed."""
        if self._closed or self._wire is None or self._loop is None:
            return
        if self._calls.outbox:
            self._wire.send_all(self._calls)
            self._read_soon()
        self._set_timer()

    def _read_soon(self) -> None:
        if not self._drain_soon and self._loop is not None:
            self._drain_soon = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Read all that has arrived, up to a batch; then send what that led to."""
        self._drain_soon = False
        if self._closed or self._wire is None:
            return
        now_ns = time.monotonic_ns()
        self._wire.follow(self._calls, now_ns)
        for _ in range(BATCH_MAX):
            frames = self._wire.receive()
            if frames is None:
                break
            self._calls.receive(now_ns, frames)
        else:
            self._read_soon()  # the rest, after other tasks had their turn
        self._send()

    def _set_timer(self) -> None:
        """Be woken at the first due time; a timer that is too early just sets the next one."""
        due_ns = self._calls.due_ns()
        if due_ns is None or self._loop is None:
            return
        when_s = self._loop.time() + max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
        if self._timer is not None:
            if self._timer.when() <= when_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._calls.tick(time.monotonic_ns())
        self._send()
