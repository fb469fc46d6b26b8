"""A small TCP proxy that misbehaves on request: cuts, holds, half-closes.

It runs in a thread with an event loop of its own, so a nemesis can order it about from a program
that blocks::

    with ProxyHost() as host:
        proxy = host.proxy("jobs", listen_port, target_port)
        proxy.cut()        # every connection is reset, and new ones are for as long as it lasts
        proxy.hold()       # nothing passes either way, connections stay
        proxy.half_close() # the target sees the end; the dialler sees nothing, and gets nothing
        proxy.heal()       # back to normal; connections that were half-closed are reset

Not here: when to do what (:mod:`tests.campaign.nemesis`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

T = TypeVar("T")
CHUNK_BYTES: Final = 1 << 16
STOP_S: Final = 10.0
Mode = Literal["pass", "cut", "hold", "half-close"]
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST


class _Pair:
    """One connection through the proxy: the dialler's side and the target's."""

    def __init__(self, dialler: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.dialler = dialler
        self.target = target
        self.torn = False  # half-closed: what comes from the dialler goes nowhere

    def reset(self) -> None:
        """Both ends see a reset."""
        for writer in (self.dialler, self.target):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """One listening port, and where its connections lead."""

    def __init__(self, host: ProxyHost, name: str, port: int, target_port: int) -> None:
        self.name = name
        self.port = port
        self.target_port = target_port
        self.mode: Mode = "pass"
        self.accepted = 0
        self._host = host
        self._pairs: set[_Pair] = set()
        self._open = asyncio.Event()  # bytes may pass
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many connections pass through it now."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset every connection, and each new one, until :meth:`heal`."""
        self._host.call(self._set_mode, "cut")

    def hold(self) -> None:
        """Let nothing pass, and close nothing, until :meth:`heal`."""
        self._host.call(self._set_mode, "hold")

    def half_close(self) -> None:
        """End each connection for the target only; the dialler hears nothing until :meth:`heal`."""
        self._host.call(self._set_mode, "half-close")

    def heal(self) -> None:
        """Pass everything again."""
        self._host.call(self._set_mode, "pass")

    # --- in the loop's thread --------------------------------------------------------------------

    async def listen(self) -> None:
        """Begin to accept."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self._set_mode("cut")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _set_mode(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "hold":
            self._open.clear()
            return
        self._open.set()
        for pair in list(self._pairs):
            if mode == "cut" or pair.torn:
                pair.reset()
            elif mode == "half-close":
                pair.torn = True
                pair.target.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the other side is gone, or we are being stopped: the connection ends
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            _Pair(writer, writer).reset()
            return
        await self._open.wait()
        answers, target = await asyncio.open_connection("127.0.0.1", self.target_port)
        pair = _Pair(writer, target)
        self._pairs.add(pair)
        ends = [
            asyncio.ensure_future(self._pump(pair, reader, target, from_dialler=True)),
            asyncio.ensure_future(self._pump(pair, answers, writer, from_dialler=False)),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            while pair.torn and self.mode == "half-close" and not ends[0].done():
                await asyncio.wait(ends[:1])
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            self._pairs.discard(pair)
            pair.reset()

    async def _pump(
        self,
        pair: _Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        from_dialler: bool,
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._open.wait()
            if pair.torn:
                if from_dialler:
                    continue
                return
            writer.write(data)
            await writer.drain()


class ProxyHost:
    """The thread and loop of any number of proxies."""

    def __init__(self) -> None:
        self.proxies: list[Proxy] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)

    def proxy(self, name: str, port: int, target_port: int) -> Proxy:
        """One more proxy; it listens when this returns."""
        proxy = Proxy(self, name, port, target_port)
        self.proxies.append(proxy)
        self._run(proxy.listen())
        return proxy

    def call(self, function: Callable[..., T], *values: Any) -> T:
        """Call in the loop's thread, and wait for what it returns."""

        async def called() -> T:
            return function(*values)

        return self._run(called())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for proxy in self.proxies:
            self._run(proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(STOP_S)
