"""Between simulated clients and a job server: *start* and *hand in*, over ROUTER and DEALER.

A start says how fast the device is and for how long it is there, so that the job server can give it
as much of a task as it can do. The weights and samples of a simulated client are with the executor,
so nothing large travels here. A request carries the lease's token, which the job server checks. One
dispatcher has one connection to each job server for all its clients. A hand-in is answered when the
client's training is over, which may take as long as it takes; requests are told apart by number.

Bounds: the size of a message, the queues of each peer, and the requests that wait. Not here: what a
job server does (:mod:`evaluation.jobs.job_server`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final, Literal, Self

import msgspec
import zmq
import zmq.asyncio
from msgspec import Meta

from propius.errors import BusyError, RefusedError, RequestTimeoutError

__all__ = ["Answer", "Ask", "Here", "JobLink", "TaskLink"]

MESSAGE_BYTES_MAX: Final = 1 << 14
QUEUE_MESSAGES: Final = 10_000
WAITING_MAX: Final = 100_000


Positive = Annotated[float, Meta(gt=0.0, le=1e12)]


class Here(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """For how long a device is there, and how fast it computes (ms a sample) and transfers."""

    left_s: Annotated[float, Meta(ge=0.0, le=1e15)]
    speed_ms: Positive
    kbps: Positive


class Ask(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A client starts, or hands in. Who starts without ``here`` does a whole task."""

    request: int
    verb: Literal["start", "hand_in"]
    round: int
    token: bytes
    client: int
    here: Here | None = None


class Answer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``refused`` says why it was, "" if not. To a start: what its task costs."""

    request: int
    refused: str = ""
    samples: float = 0.0
    kbit: float = 0.0


_ASK = msgspec.msgpack.Decoder(Ask)
_ANSWER = msgspec.msgpack.Decoder(Answer)
_ENCODE = msgspec.msgpack.Encoder().encode


class JobLink:
    """The job server's end. ``take`` gets every request, and the way to answer it."""

    def __init__(self, take: Callable[[Ask, Callable[[Answer], None]], None]) -> None:
        self._take = take
        self._context = zmq.asyncio.Context()
        self._router = self._context.socket(zmq.ROUTER)
        _bound(self._router)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.bind("tcp://127.0.0.1:*")
        self.endpoint: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            frames = await self._router.recv_multipart()
            try:
                peer, text = frames
                ask = _ASK.decode(text)
            except (ValueError, msgspec.DecodeError):
                continue  # no request of ours; whoever asked will time out
            self._take(ask, partial(self._answer, peer))

    def _answer(self, peer: bytes, answer: Answer) -> None:
        sent = self._router.send_multipart([peer, _ENCODE(answer)], zmq.NOBLOCK)
        asyncio.ensure_future(sent).add_done_callback(_settled)

    async def close(self) -> None:
        """End the reader and the socket."""
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        self._context.destroy(linger=0)


class TaskLink:
    """The dispatcher's end, for all its clients; an async context manager.

    ``context`` is the caller's, who ends it after the links; without one it is the link's own.
    """

    def __init__(self, endpoint: str, context: zmq.asyncio.Context | None = None) -> None:
        self.endpoint = endpoint
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._context, self._owns_context = context or zmq.asyncio.Context(), context is None
        self._dealer = self._context.socket(zmq.DEALER)
        _bound(self._dealer)
        self._dealer.connect(endpoint)
        self._reader = asyncio.create_task(self._read())

    async def ask(
        self,
        verb: Literal["start", "hand_in"],
        *,
        round_no: int,
        token: bytes,
        client: int,
        timeout_s: float,
        here: Here | None = None,
    ) -> Answer:
        """Ask and wait; raises RefusedError, BusyError, or RequestTimeoutError."""
        if len(self._waiting) >= WAITING_MAX:
            raise BusyError(f"{verb}: {WAITING_MAX} requests wait for {self.endpoint} already")
        request = next(self._requests)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request] = answer
        try:
            async with asyncio.timeout(timeout_s):
                ask = Ask(request, verb, round_no, token, client, here)
                await self._dealer.send(_ENCODE(ask))
                got = await answer
        except TimeoutError as error:
            text = f"{verb}: no answer from {self.endpoint} within {timeout_s:g} s"
            raise RequestTimeoutError(text) from error
        finally:
            del self._waiting[request]
        if got.refused:
            raise RefusedError(f"{verb}: {got.refused}")
        return got

    async def _read(self) -> None:
        while True:
            try:
                got = _ANSWER.decode(await self._dealer.recv())
            except msgspec.DecodeError:
                continue  # of another protocol; whoever asked will time out
            waiting = self._waiting.get(got.request)
            if waiting is not None and not waiting.done():
                waiting.set_result(got)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        self._dealer.close(linger=0)
        if self._owns_context:
            self._context.term()


def _settled(sent: asyncio.Future[Any]) -> None:
    """An answer whose dispatcher is gone is lost, and nobody waits for it."""
    if not sent.cancelled():
        sent.exception()  # taken, so that it is not logged as one that nobody took


def _bound(socket: zmq.asyncio.Socket) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
