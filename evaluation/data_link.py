"""Sockets of the data plane: a ROUTER thread for the job server, DEALER clients for devices.

:class:`ModelService` runs a :class:`~evaluation.data_plane.ModelServer` in one thread;
:class:`ModelClient` (blocking) and :class:`AsyncModelClient` (asyncio, many devices over one
connection) pull and push. Asking again is safe, so both repeat a request whose answer is late.

Bounds: ZMQ_MAXMSGSIZE on every frame, a fixed number of frames, bounded queues, a time-out on
every wait, and ROUTER_MANDATORY, so that an answer that cannot be delivered is counted, not lost.
Binds to loopback on a free port unless told otherwise. Messages are in
:mod:`evaluation.data_plane`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Self, TypeVar

import numpy as np
import zmq
import zmq.asyncio
from numpy.typing import NDArray

from evaluation.data_plane import (
    ARRAY_BYTES_MAX,
    FRAMES_MAX,
    Accepted,
    Model,
    ModelServer,
    Pull,
    Push,
    Received,
    Refused,
    decode,
    encode,
)
from evaluation.fedavg import FedAvg
from propius.errors import (
    BusyError,
    ProtocolError,
    RefusedError,
    RequestTimeoutError,
    SessionClosedError,
)

__all__ = ["AsyncModelClient", "ModelClient", "ModelService"]

QUEUE_MESSAGES: Final = 1_000
"""High-water mark of each peer, in either direction."""
BATCH_MESSAGES: Final = 256
"""Answered before the lock is given to the job server again."""
WAITING_MAX: Final = 10_000
"""Requests under way of one asyncio client."""
ATTEMPT_S: Final = 2.0
"""How long an answer may take before the request is repeated."""
TIMEOUT_S: Final = 20.0

Weights = Sequence[NDArray[Any]]
S = TypeVar("S", bound=zmq.Socket[Any])


class ModelService:
    """The job server's end, in a thread of its own; a context manager.

    ``admit`` is called in that thread. ``endpoint`` is what devices connect to.

    >>> with ModelService(job=1, admit=lambda token: None) as service:
    ...     service.open_round(0, [np.zeros(2)])
    ...     with ModelClient(service.endpoint) as client:
    ...         weights = client.pull(job=1, round_no=0, token=b"t")
    ...         client.push(job=1, round_no=0, token=b"t", samples=5, weights=[weights[0] + 1])
    ...     service.close_round().mean()[0].tolist()
    [1.0, 1.0]
    """

    def __init__(
        self, job: int, admit: Callable[[bytes], object], *, bind: str = "tcp://127.0.0.1:*"
    ):
        self._server = ModelServer(job, admit)
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closed = False
        self.undelivered = 0
        """Answers whose device was gone, or did not read them."""
        self._context = zmq.Context()
        self._router = _socket(self._context, zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self._router.bind(bind)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            message = f"data plane: cannot bind {bind}: {error}; choose another address"
            raise OSError(message) from error
        self.endpoint: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake_up, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"data-plane-{job}", daemon=True)
        self._thread.start()

    def serve(self, job: int) -> None:
        """Answer for this job: its id is known only once it has registered with this endpoint."""
        with self._changed:
            self._server.job = job

    def open_round(self, round_no: int, weights: Sequence[NDArray[np.float64]]) -> None:
        """Serve ``weights`` for this round; see :meth:`ModelServer.open_round`."""
        with self._changed:
            self._server.open_round(round_no, weights)

    def close_round(self) -> FedAvg:
        """End the round; what it gathered no longer changes."""
        with self._changed:
            return self._server.close_round()

    @property
    def updates(self) -> int:
        """Updates accepted in the open round, or in the last one."""
        with self._changed:
            return self._server.updates

    def wait_for_updates(self, count: int, timeout_s: float) -> int:
        """Wait until the round has ``count`` updates or the time is over; returns how many it has.

        Raises what ended the thread, if something did.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._server.updates >= count or self._failure is not None, timeout_s
            )
            if self._failure is not None:
                raise self._failure
            return self._server.updates

    def close(self) -> None:
        """Stop the thread and close the sockets; again is harmless."""
        if self._closed:
            return
        self._closed = True
        self._wake_up.close()
        self._thread.join()
        self._woken.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        woken = self._woken.fileno()
        while True:
            ready = dict(poller.poll())
            if woken in ready:
                return
            self._serve_batch()

    def _serve_batch(self) -> None:
        with self._changed:
            before = self._server.updates
            for _ in range(BATCH_MESSAGES):
                frames = _receive(self._router)
                if frames is None:
                    break
                peer, *message = frames
                self._deliver(peer, self._server.handle(message))
            if self._server.updates != before:
                self._changed.notify_all()

    def _deliver(self, peer: bytes, reply: list[bytes]) -> None:
        try:
            self._router.send_multipart([peer, *reply], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            self.undelivered += 1


class ModelClient:
    """One device's end, blocking; a context manager. Not for use by two threads."""

    def __init__(self, endpoint: str, *, timeout_s: float = TIMEOUT_S):
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._requests = itertools.count(1)
        self._context = zmq.Context()
        self._dealer = _socket(self._context, zmq.DEALER)
        self._dealer.connect(endpoint)

    def pull(self, *, job: int, round_no: int, token: bytes) -> list[NDArray[Any]]:
        """The weights of the round; raises RefusedError, or RequestTimeoutError (ask again)."""
        return _weights(self._ask(Pull(job=job, round=round_no, token=token), ()), round_no)

    def push(
        self, *, job: int, round_no: int, token: bytes, samples: int, weights: Weights
    ) -> None:
        """Hand in an update; returns when it counts. Raises as :meth:`pull` does."""
        push = Push(job=job, round=round_no, token=token, samples=samples)
        _expect_accepted(self._ask(push, weights))

    def close(self) -> None:
        """Close the connection; again is harmless."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: Pull | Push, arrays: Weights) -> Received:
        """Send, and send again when an answer is late or says "not yet", until the time is over."""
        request = next(self._requests)
        frames = encode(request, message, arrays)
        end_s = monotonic() + self.timeout_s
        while (left_s := end_s - monotonic()) > 0:
            _send(self._dealer, frames)
            received = self._answer(request, min(ATTEMPT_S, left_s))
            if received is None:
                continue
            retry_s = _retry_after(received)
            if not retry_s:
                return received
            self._answer(request, min(retry_s, max(0.0, end_s - monotonic())))
        raise _timed_out(message, self.endpoint, self.timeout_s)

    def _answer(self, request: int, wait_s: float) -> Received | None:
        """The next answer to ``request``, or None after ``wait_s``."""
        end_s = monotonic() + wait_s
        while self._dealer.poll(max(0, math.ceil((end_s - monotonic()) * 1000))):
            frames = _receive(self._dealer)
            received = decode(frames) if frames else None
            if received is not None and received.request == request:
                return received
        return None


class AsyncModelClient:
    """Many devices' end over one connection, for asyncio; an async context manager."""

    def __init__(self, endpoint: str, *, timeout_s: float = TIMEOUT_S):
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Received]] = {}
        self._context: zmq.asyncio.Context | None = None
        self._dealer: zmq.asyncio.Socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self.unreadable = 0
        """Answers that were no message of the data plane."""

    async def pull(self, *, job: int, round_no: int, token: bytes) -> list[NDArray[Any]]:
        """As :meth:`ModelClient.pull`."""
        return _weights(await self._ask(Pull(job=job, round=round_no, token=token), ()), round_no)

    async def push(
        self, *, job: int, round_no: int, token: bytes, samples: int, weights: Weights
    ) -> None:
        """As :meth:`ModelClient.push`."""
        push = Push(job=job, round=round_no, token=token, samples=samples)
        _expect_accepted(await self._ask(push, weights))

    async def close(self) -> None:
        """End the reader and close the connection; waiting requests raise SessionClosedError."""
        if self._reader is None or self._context is None:
            return
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SessionClosedError("data plane: the client was closed"))
        self._context.destroy(linger=0)
        self._reader = self._context = self._dealer = None

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._dealer = _socket(self._context, zmq.DEALER)
        self._dealer.connect(self.endpoint)
        self._reader = asyncio.create_task(self._read(self._dealer))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, message: Pull | Push, arrays: Weights) -> Received:
        """As :meth:`ModelClient._ask`, with a future for each request that waits."""
        if self._dealer is None:
            message_text = f"{message.kind}: the client is not open; use it in an async with block"
            raise SessionClosedError(message_text)
        if len(self._waiting) >= WAITING_MAX:
            message_text = f"{message.kind}: {WAITING_MAX} requests wait already; ask later"
            raise BusyError(message_text)
        request = next(self._requests)
        frames = encode(request, message, arrays)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._repeat(self._dealer, request, frames)
        except TimeoutError as error:
            raise _timed_out(message, self.endpoint, self.timeout_s) from error
        finally:
            self._waiting.pop(request, None)

    async def _repeat(
        self, dealer: zmq.asyncio.Socket, request: int, frames: list[bytes]
    ) -> Received:
        while True:
            answer = asyncio.get_running_loop().create_future()
            self._waiting[request] = answer
            await dealer.send_multipart(frames)
            # wait() and not wait_for(): a late answer is no error, the future is just replaced.
            await asyncio.wait([answer], timeout=ATTEMPT_S)
            if not answer.done():
                continue
            received: Received = answer.result()
            retry_s = _retry_after(received)
            if not retry_s:
                return received
            await asyncio.sleep(retry_s)

    async def _read(self, dealer: zmq.asyncio.Socket) -> None:
        while True:
            frames = await dealer.recv_multipart()
            try:
                received = decode(frames)
            except ProtocolError:
                self.unreadable += 1
                continue
            waiting = self._waiting.get(received.request)
            if waiting is not None and not waiting.done():
                waiting.set_result(received)


def _socket(context: zmq.Context[S], kind: int) -> S:
    """A socket with every bound of this module set, not yet bound or connected."""
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.MAXMSGSIZE, ARRAY_BYTES_MAX)
    made.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    made.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
    return made


def _receive(receiver: zmq.Socket[bytes]) -> list[bytes] | None:
    """The next message, or None; of one with too many frames only as many as show that."""
    try:
        frames = [receiver.recv(zmq.NOBLOCK)]
    except zmq.Again:
        return None
    while receiver.getsockopt(zmq.RCVMORE):
        frame = receiver.recv()
        if len(frames) <= FRAMES_MAX + 1:
            frames.append(frame)
    return frames


def _send(dealer: zmq.Socket[bytes], frames: list[bytes]) -> None:
    try:
        dealer.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again as error:
        message = "data plane: the send queue is full; the job server does not read"
        raise BusyError(message, retry_after_s=ATTEMPT_S) from error


def _retry_after(received: Received) -> float:
    match received.message:
        case Refused(retry_after_s=retry_after_s):
            return retry_after_s
        case _:
            return 0.0


def _weights(received: Received, round_no: int) -> list[NDArray[Any]]:
    match received.message:
        case Model(round=answered) if answered == round_no:
            return list(received.arrays())
        case other:
            raise _unexpected(other, f"the model of round {round_no}")


def _expect_accepted(received: Received) -> None:
    if not isinstance(received.message, Accepted):
        raise _unexpected(received.message, "accepted")


def _unexpected(message: object, expected: str) -> RefusedError | ProtocolError:
    if isinstance(message, Refused):
        return RefusedError(f"data plane: {message.reason}", retry_after_s=message.retry_after_s)
    return ProtocolError(f"data plane: the job server answered {message!r}, expected {expected}")


def _timed_out(message: Pull | Push, endpoint: str, timeout_s: float) -> RequestTimeoutError:
    return RequestTimeoutError(
        f"{message.kind}: no answer from {endpoint} within {timeout_s:g} s; asking again is safe"
    )
