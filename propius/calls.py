"""Many talks over one connection: who waits for which answer, what is to be sent, what is due.

:class:`Calls` is sans-I/O like the talks themselves. Its driver owns the socket and the clock::

    call = calls.start(now_ns, talk)
    until call.done:
        send calls.outbox, taking out what the socket took
        wait until the socket is readable, or calls.due_ns() has passed
        for each message:                 calls.receive(now_ns, frames)
        when a connection came (back):    calls.reconnected(now_ns)
        calls.tick(now_ns)
    call.result()

Not here: the drivers (:mod:`propius.connection`, :mod:`propius.aio_connection`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar, cast

from propius.core import Frames
from propius.errors import SessionClosedError
from propius.messages import DecodeError, ErrorCode, decode_header, decode_payload
from propius.session import Heard, Key, Talk

T = TypeVar("T")
STEPS_MAX: Final = 1_000
"""What a talk may do without waiting; more is a bug in it, which must not stop the others."""
_SLACK: Final = 64  # stale timers that are tolerated beside two for each call


class Call(Generic[T]):
    """One talk that is being carried out."""

    def __init__(self, talk: Talk[T], on_done: Callable[[], None] | None) -> None:
        self.talk = talk
        self.key: Key | None = None
        self.until_ns = 0
        self.done = False
        self._on_done = on_done
        self._value: T | None = None
        self._error: BaseException | None = None

    def result(self) -> T:
        """What the talk returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def finish(self, value: T | None, error: BaseException | None) -> None:
        """The talk is over."""
        self.done, self._value, self._error = True, value, error
        if self._on_done is not None:
            self._on_done()


class Calls:
    """The talks of one connection."""

    def __init__(self) -> None:
        self.outbox: dict[Key, Frames] = {}  # to be sent, in order; at most one a call
        self.dropped = 0  # messages that answered nothing: late, twice, or garbage
        self._calls: set[Call[Any]] = set()
        self._by_key: dict[Key, Call[Any]] = {}
        self._timers: list[tuple[int, int, Call[Any]]] = []
        self._timers_made = 0

    def __len__(self) -> int:
        return len(self._calls)

    def start(
        self, now_ns: int, talk: Talk[T], on_done: Callable[[], None] | None = None
    ) -> Call[T]:
        """Begin a talk. ``on_done`` is called when it is over, maybe before this returns."""
        call = Call(talk, on_done)
        self._calls.add(call)
        self._go_on(call, now_ns, None)
        return call

    def receive(self, now_ns: int, frames: Frames) -> None:
        """A message arrived: wake the call that it answers, if there is one (still)."""
        if len(frames) != 2:
            self.dropped += 1
            return
        try:
            header = decode_header(frames[0])
        except DecodeError as error:
            self.dropped += 1
            if error.code is ErrorCode.VERSION:  # nothing that we ask will ever be understood
                self._wake(now_ns, list(self._by_key.values()), Heard(now_ns, error))
            return
        call = self._by_key.get((header.session, header.request))
        if call is None:
            self.dropped += 1
            return
        try:
            heard = Heard(now_ns, decode_payload(header.kind, frames[1]))
        except DecodeError as error:
            heard = Heard(now_ns, error)
        self._go_on(call, now_ns, heard)

    def sent(self) -> set[Key]:
        """What was sent and is not answered: all that a connection which breaks now may lose."""
        return self._by_key.keys() - self.outbox.keys()

    def reconnected(self, now_ns: int, lost: Iterable[Key] | None = None) -> None:
        """A connection stands again: ask again what an earlier one may have lost (None: all)."""
        lost = self.sent() if lost is None else lost
        calls = [self._by_key[key] for key in sorted(lost) if key in self._by_key]
        self._wake(now_ns, calls, Heard(now_ns, reconnected=True))

    def due_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        timers = self._timers
        while timers and self._is_stale(timers[0]):
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def tick(self, now_ns: int) -> None:
        """Wake the calls whose time has come."""
        due: list[Call[Any]] = []
        while (due_ns := self.due_ns()) is not None and due_ns <= now_ns:
            due.append(heapq.heappop(self._timers)[2])
        # Each once, or one that is always due would keep the others, and the socket, waiting.
        for call in dict.fromkeys(due):
            if not call.done and call.until_ns <= now_ns:
                self._go_on(call, now_ns, Heard(now_ns))

    def cancel(self, call: Call[Any]) -> None:
        """Forget a call; does nothing if it is over."""
        if not call.done:
            self._end(call)
            call.talk.close()
            call.finish(None, SessionClosedError("the request was cancelled"))

    def close(self) -> None:
        """Fail every call: the connection is closed."""
        for call in list(self._calls):
            self._end(call)
            call.talk.close()
            call.finish(None, SessionClosedError("the connection was closed during the request"))

    def _wake(self, now_ns: int, calls: list[Call[Any]], heard: Heard) -> None:
        for call in calls:
            if not call.done:
                self._go_on(call, now_ns, heard)

    def _go_on(self, call: Call[Any], now_ns: int, heard: Heard | None) -> None:
        """Let the talk run to its next step that has to wait."""
        try:
            step = call.talk.send(cast("Any", heard))  # a fresh generator is sent None
            for _ in range(STEPS_MAX):
                if step.until_ns > now_ns or step.frames is not None:
                    break
                step = call.talk.send(Heard(now_ns))
            else:
                name = getattr(call.talk, "__name__", "?")
                raise RuntimeError(f"{name}: a talk that never waits")
        except StopIteration as stop:
            self._end(call)
            call.finish(stop.value, None)
            return
        except Exception as error:  # noqa: BLE001 - raised again by Call.result, for the caller
            self._end(call)
            call.talk.close()
            call.finish(None, error)
            return
        if call.key != step.key:
            self._unkey(call)
            call.key = step.key
        if step.key is not None:
            self._by_key[step.key] = call
            if step.frames is not None:
                self.outbox[step.key] = step.frames
            elif heard is not None and heard.message is not None:
                self.outbox.pop(step.key, None)  # it was answered "later": not to be said again now
        call.until_ns = step.until_ns
        self._arm(call)

    def _arm(self, call: Call[Any]) -> None:
        self._timers_made += 1
        heapq.heappush(self._timers, (call.until_ns, self._timers_made, call))
        if len(self._timers) > 2 * len(self._calls) + _SLACK:
            # One answered early leaves its timer behind; two of one call and time are as good.
            self._timers = [timer for timer in self._timers if not self._is_stale(timer)]
            heapq.heapify(self._timers)

    def _is_stale(self, timer: tuple[int, int, Call[Any]]) -> bool:
        return timer[2].done or timer[2].until_ns != timer[0]

    def _end(self, call: Call[Any]) -> None:
        self._unkey(call)
        self._calls.discard(call)

    def _unkey(self, call: Call[Any]) -> None:
        if call.key is not None:
            self._by_key.pop(call.key, None)
            self.outbox.pop(call.key, None)
            call.key = None
