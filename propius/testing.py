"""A fake server for the tests of programs that use the SDK: no daemons, one process, real sockets.

By default it behaves like a very small Propius (:class:`TinyPropius`)::

    def test_my_device():
        with FakeServer() as server, Client(server.endpoint, spec={"ram": 8.0}) as client:
            server.tiny.open_round(demand=1)
            with client.auto_assign() as task:
                ...
        assert server.tiny.rounds[0].completed == 1

With a handler it says whatever the test wants to hear, or nothing::

    def handler(header, message):
        return Error(code=ErrorCode.BUSY, text="later", retry_after_s=0.1)

    with FakeServer(handler) as server:
        ...

Not here: plans, policies, a store; for those start the daemons.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

import zmq

from propius.messages import DecodeError, Header, Message, decode_header, decode_payload, encode
from propius.tiny_propius import REQUESTS_MAX, Answers, TinyJob, TinyPropius
from propius.tiny_rounds import TinyRound

__all__ = [
    "Answers",
    "FakeServer",
    "Handler",
    "Script",
    "TinyJob",
    "TinyPropius",
    "TinyRound",
]

Handler: TypeAlias = Callable[[Header, Message], Message | None]
CLOSE_MS: Final = 2_000
TICK_MS: Final = 20


class Script(Protocol):
    """What a :class:`FakeServer` can act out."""

    def receive(self, now_s: float, header: Header, message: Message) -> Answers:
        """Answer a request, and maybe others that were left open."""

    def tick(self, now_s: float) -> Answers:
        """Answer what has waited long enough."""


class FakeServer:
    """Listens on ``endpoint`` for jobs and clients alike, in a thread, until the block is left.

    ``script`` is a handler ``(header, message) -> reply``, where None says nothing, or a whole
    :class:`Script`; :class:`TinyPropius` if it is missing. What the handler raises is raised again
    when the block is left. ``requests`` are the last requests, in order of arrival, ``frames`` the
    same as they came.
    """

    def __init__(
        self, script: Handler | Script | None = None, *, endpoint: str = "tcp://127.0.0.1:*"
    ) -> None:
        self.requests: list[tuple[Header, Message]] = []
        self.frames: list[list[bytes]] = []
        self.tiny = TinyPropius()
        self._script: Script = _scripted(self.tiny if script is None else script)
        self._addresses: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError:
            self._socket.close()
            raise
        self.endpoint: str = self._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._thread = threading.Thread(target=self._serve, name="FakeServer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; raises what the handler raised."""
        self._stop.set()
        self._thread.join()
        if not self._socket.closed:
            self._unbind()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unbind(self) -> None:
        """Close the socket, and return when its port is free for the next server."""
        monitor = self._socket.get_monitor_socket(zmq.EVENT_CLOSED)
        self._socket.unbind(self.endpoint)
        if self.endpoint.startswith("tcp:"):
            monitor.poll(CLOSE_MS)
        self._socket.disable_monitor()
        monitor.close(0)
        self._socket.close(0)

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(TICK_MS):
                    self._receive(self._socket.recv_multipart())
                self._answer(self._script.tick(time.monotonic()))
        except Exception as error:  # noqa: BLE001 - raised again by close(), in the test's thread
            self._error = error

    def _receive(self, parts: list[bytes]) -> None:
        address, *frames = parts
        self.frames.append(frames)
        try:
            header = decode_header(frames[0])
            message = decode_payload(header.kind, frames[1])
        except DecodeError as error:
            header = Header(kind="error", sender="unknown", session=0, request=0)
            self._send(address, header, error.reply())
            return
        self.requests.append((header, message))
        key = (header.session, header.request)
        self._addresses[key] = address
        for memory in (self.requests, self.frames):
            del memory[:-REQUESTS_MAX]
        while len(self._addresses) > REQUESTS_MAX:
            self._addresses.popitem(last=False)
        self._answer(self._script.receive(time.monotonic(), header, message))

    def _answer(self, answers: Answers) -> None:
        for header, message in answers:
            address = self._addresses.get((header.session, header.request))
            if address is not None:
                self._send(address, header, message)

    def _send(self, address: bytes, to: Header, message: Message) -> None:
        header = Header(
            kind=message.kind, sender="fake_server", session=to.session, request=to.request
        )
        self._socket.send_multipart([address, *encode(header, message)])


class _HandlerScript:
    """A handler as a script."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def receive(self, now_s: float, header: Header, message: Message) -> Answers:
        reply = self._handler(header, message)
        return [] if reply is None else [(header, reply)]

    def tick(self, now_s: float) -> Answers:
        return []


def _scripted(script: Handler | Script) -> Script:
    return _HandlerScript(script) if callable(script) else script
