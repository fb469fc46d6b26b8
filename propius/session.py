"""What every session of the SDK does, without a socket, a clock or a die of its own.

A *talk* is a generator: it yields a :class:`Step` (send this, wake me then) and is sent what was
:class:`Heard`. Each verb of a job or a client is written once, as a talk; the blocking and the
asyncio classes only carry talks out, so they cannot differ. :mod:`propius.calls` runs many talks
over one connection.

How one request is asked (:meth:`Session.ask`):

1. It is encoded and validated as the peer will check it; what no server would accept is the
   caller's exception and is never sent.
2. It gets the next number of its :class:`Lane`. Asking again, after silence or a reconnect, sends
   the same bytes under the same number, so that the effect is that of once.
3. ``busy`` and ``not_ready`` are obeyed: it is asked again after ``retry_after_s``. No server
   remembers those two as the answer, so the number stays the same here, too.
4. An answer that cannot be read is asked for again, under the same number, a few times.
5. Any other error becomes one exception of :mod:`propius.errors`.

If no answer came in time, the effect is unknown. The lane keeps that request: when the very next
one is the same verb with the same values, it goes out under the same number, and happens once.

Not here: what a job (:mod:`propius.job_session`) and a client (:mod:`propius.client_session`) say.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, TypeVar

from propius import errors, messages
from propius.core import SECOND_NS, Frames
from propius.messages import Error, ErrorCode, Header, Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Key: TypeAlias = tuple[int, int]
"""What a reply repeats: (session, request)."""

REPLY_S: Final = 2.0
"""How long a server may take for what it does not hold; silence beyond that is a loss."""
BACKOFF_S: Final = 0.5
"""Pauses between tries are drawn from [0, BACKOFF_S · 2^tries], and at most BACKOFF_MAX_S."""
BACKOFF_MAX_S: Final = 10.0
UNREADABLE_MAX: Final = 3
"""Answers to one request that cannot be read; the last one is the caller's error."""
SCHEMA_TRIES: Final = 3
"""An operator that changes the attribute schema faster than this is not served."""
SCHEMA_KEYS_SHOWN: Final = 20


class Dice(Protocol):
    """The part of ``random.Random`` that sessions use; it comes from outside, with its seed."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number between a and b."""

    def getrandbits(self, k: int, /) -> int:
        """A number of k bits."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a talk wants: put ``frames`` on the wire, if any, and be woken at ``until_ns``.

    It is woken earlier by an answer to ``key``.
    """

    key: Key | None
    frames: Frames | None
    until_ns: int


@dataclass(frozen=True, slots=True)
class Heard:
    """Why a talk is woken: an answer, a connection that came back, or else the time."""

    now_ns: int
    message: Message | errors.ProtocolError | None = None
    reconnected: bool = False


Talk: TypeAlias = Generator[Step, Heard, T]
NOW: Final = Step(None, None, 0)
"""Yielded to learn the time; whoever runs the talk goes on at once."""


def to_ns(seconds: float) -> int:
    """Seconds as integer nanoseconds."""
    return round(seconds * SECOND_NS)


class Lane:
    """One numbered sequence of requests: what a header's ``session`` and ``request`` are."""

    def __init__(self, dice: Dice) -> None:
        self.session = 1 + dice.getrandbits(62)  # 0 is what a server says to an unreadable header
        self.last = 0
        self._unanswered: tuple[str, bytes] | None = None

    def number(self, kind: str, payload: bytes) -> int:
        """The number for this request: a new one, unless it is the last one, unanswered, again."""
        if self._unanswered != (kind, payload):
            self.last += 1
        self._unanswered = None
        return self.last

    def left_unanswered(self, kind: str, payload: bytes, number: int) -> None:
        """Nobody knows whether this request had its effect."""
        if number == self.last:
            self._unanswered = (kind, payload)


@dataclass(slots=True)
class SchemaCell:
    """The attribute schema as last fetched; the sessions of one connection share it."""

    schema: messages.Schema | None = None


@dataclass(slots=True)
class Session:
    """Who asks, of whom, and how patiently."""

    sender: str
    dice: Dice
    timeout_s: float
    peer: str  # the endpoint; for error texts only
    cell: SchemaCell = field(default_factory=SchemaCell)
    lane: Lane = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= messages.DURATION_S_MAX:
            raise errors.InvalidValueError(f"timeout_s is {self.timeout_s}, must be above 0")
        self.lane = Lane(self.dice)

    def ask(
        self,
        message: Message,
        expect: type[M] | tuple[type[M], ...],
        *,
        hold_s: float = 0.0,
        lane: Lane | None = None,
        began_ns: int | None = None,
        deadline_ns: int | None = None,
        patient: frozenset[ErrorCode] = frozenset({ErrorCode.BUSY, ErrorCode.NOT_READY}),
    ) -> Talk[M]:
        """Ask until there is an answer of the expected class, for ``timeout_s`` + ``hold_s``.

        ``hold_s`` is how long the server was allowed to wait before it answers; it is added once
        more if the connection was made anew meanwhile. The time counts from ``began_ns`` (None:
        now), and is over at ``deadline_ns`` in any case. The errors in ``patient`` are waited out.
        An answer about another job or round is not believed. Raises what :mod:`propius.errors`
        says.
        """
        payload, _ = messages.validate(message)
        lane = lane or self.lane
        number = lane.number(message.kind, payload)
        header = Header(kind=message.kind, sender=self.sender, session=lane.session, request=number)
        request = _Request(self, header, messages.encode(header, message), hold_s, patient)
        try:
            reply = yield from request.carry_out(began_ns, deadline_ns)
        except (errors.RequestTimeoutError, errors.ProtocolError, GeneratorExit):
            lane.left_unanswered(message.kind, payload, number)
            raise
        except errors.RefusedError as error:
            if error.code in patient:  # that is no answer, either
                lane.left_unanswered(message.kind, payload, number)
            raise
        if not isinstance(reply, expect):
            raise errors.ProtocolError(f"{message.kind}: {self.peer} answered {reply.kind}")
        check_subject(message, reply, self.peer)
        return reply

    def schema(
        self, began_ns: int | None = None, deadline_ns: int | None = None
    ) -> Talk[messages.Schema]:
        """The operator's attribute schema, asked for once.

        It has a lane of its own: a job's own lane must begin with ``register`` or ``attach``.
        """
        if self.cell.schema is None:
            asked = self.ask(
                messages.GetSchema(),
                messages.Schema,
                lane=Lane(self.dice),
                began_ns=began_ns,
                deadline_ns=deadline_ns,
            )
            self.cell.schema = yield from asked
        return self.cell.schema

    def ask_with_schema(
        self,
        compose: Callable[[messages.Schema], Message],
        expect: type[M],
        *,
        hold_s: float = 0.0,
        deadline_ns: int | None = None,
        new_lane: bool = False,
    ) -> Talk[M]:
        """Ask what is encoded by the schema; if that has changed, encode and ask again.

        All of it together, the schema included, has the time of one request.
        ``new_lane``: the second try opens another session, for a request that must be its first.
        """
        began_ns = (yield NOW).now_ns
        for tries_left in reversed(range(SCHEMA_TRIES)):
            schema = yield from self.schema(began_ns, deadline_ns)
            try:
                asked = self.ask(
                    compose(schema),
                    expect,
                    hold_s=hold_s,
                    began_ns=began_ns,
                    deadline_ns=deadline_ns,
                )
                return (yield from asked)
            except errors.SchemaChangedError:
                if self.cell.schema is schema:  # else another session has fetched it already
                    self.cell.schema = None
                if new_lane:
                    self.lane = Lane(self.dice)
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def pause(self, seconds: float) -> Talk[int]:
        """Let time pass; returns the time after it."""
        now_ns = (yield NOW).now_ns
        until_ns = now_ns + to_ns(seconds)
        while now_ns < until_ns:
            now_ns = (yield Step(None, None, until_ns)).now_ns
        return now_ns

    def backoff_s(self, tries: int) -> float:
        """A pause after this many vain tries: full jitter under a doubling limit."""
        return self.dice.uniform(0.0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(tries, 10)))


class _Request:
    """One request under way: sends it, sends it again, and judges the answers."""

    def __init__(
        self,
        session: Session,
        header: Header,
        frames: Frames,
        hold_s: float,
        patient: frozenset[ErrorCode],
    ) -> None:
        self.session = session
        self.kind = header.kind
        self.key = (header.session, header.request)
        self.frames = frames
        self.hold_s = hold_s
        self.patient = patient
        self.tries = 0
        self.unreadable = 0  # answers
        self.refusal: Error | None = None  # the last one that was waited out
        self.held_anew = False
        self.began_ns = 0
        self.deadline_ns = 0
        self.last_ns = 0  # how far the deadline may be moved

    def carry_out(self, began_ns: int | None, deadline_ns: int | None) -> Talk[Message]:
        """Send and listen until there is an answer that is not to be waited out."""
        now_ns = (yield NOW).now_ns
        self._set_deadlines(now_ns if began_ns is None else began_ns, deadline_ns)
        if now_ns >= self.deadline_ns:  # nobody would hear the answer: let it have no effect
            raise self._timed_out()
        again_ns, told_to_wait, send = self._send_again_ns(now_ns), False, True
        while True:
            until_ns = min(again_ns, self.deadline_ns)
            heard = yield Step(self.key, self.frames if send else None, until_ns)
            now_ns, send = heard.now_ns, False
            if isinstance(heard.message, errors.ProtocolError):
                again_ns, told_to_wait = self._ask_anew_or_raise(now_ns, heard.message), True
            elif isinstance(heard.message, Error):
                again_ns, told_to_wait = self._wait_or_raise(now_ns, heard.message), True
            elif heard.message is not None:
                return heard.message
            elif now_ns >= self.deadline_ns:
                raise self._timed_out()
            elif now_ns >= again_ns or (heard.reconnected and not told_to_wait):
                again_ns, told_to_wait, send = self._send_again_ns(now_ns), False, True
                if heard.reconnected:  # somebody is there, and begins to hold it only now
                    self.held_anew = self.hold_s > 0
                    held_ns = now_ns + to_ns(self.hold_s + REPLY_S)
                    self.deadline_ns = min(self.last_ns, max(self.deadline_ns, held_ns))

    def _set_deadlines(self, began_ns: int, deadline_ns: int | None) -> None:
        """The request is over at ``deadline_ns``, and at its own time-out, if nothing happens."""
        timeout_s = self.session.timeout_s
        self.began_ns = began_ns
        last_ns = began_ns + to_ns(timeout_s + 2 * self.hold_s)
        self.last_ns = last_ns if deadline_ns is None else min(last_ns, deadline_ns)
        self.deadline_ns = min(self.last_ns, began_ns + to_ns(timeout_s + self.hold_s))

    def _send_again_ns(self, now_ns: int) -> int:
        """It is sent now; when silence will mean that it was lost."""
        self.tries += 1
        silence_s = self.hold_s + REPLY_S + self.session.backoff_s(self.tries)
        return now_ns + to_ns(silence_s)

    def _wait_or_raise(self, now_ns: int, error: Error) -> int:
        """When to ask again after this refusal; raises it if that is not worth it, or too late."""
        wait_s = error.retry_after_s
        if error.code not in self.patient or now_ns + to_ns(wait_s) >= self.deadline_ns - 1:
            raise to_exception(error, self.kind)
        self.refusal = error
        again_ns = now_ns + to_ns(wait_s + self.session.backoff_s(self.tries))
        return min(again_ns, self.deadline_ns - 1)

    def _ask_anew_or_raise(self, now_ns: int, error: errors.ProtocolError) -> int:
        """When to ask again after an answer that cannot be read.

        What it answered was done and is remembered; so the same number gets the same answer, and
        the caller does not lose, say, a slot that it was given. It is raised if asking again does
        not help: a server that always answers so, or speaks another version.
        """
        self.unreadable += 1
        versions_differ = getattr(error, "code", None) is ErrorCode.VERSION
        again_ns = now_ns + to_ns(self.session.backoff_s(self.unreadable))
        if versions_differ or self.unreadable >= UNREADABLE_MAX or again_ns >= self.deadline_ns:
            raise error
        return again_ns

    def _timed_out(self) -> errors.PropiusError:
        if self.refusal is not None:
            return to_exception(self.refusal, self.kind)
        session, times = self.session, "once" if self.tries == 1 else f"{self.tries} times"
        waited_s = (self.deadline_ns - self.began_ns) / SECOND_NS
        return errors.RequestTimeoutError(
            f"{self.kind}: no answer from {session.peer} within {waited_s:g} s, asked {times}; "
            "is it running, and is this its outside port?",
            held_anew=self.held_anew,
        )


_EXCEPTIONS: Final[dict[ErrorCode, type[errors.RefusedError]]] = {
    ErrorCode.INVALID: errors.RefusedError,
    ErrorCode.TOO_LARGE: errors.RefusedError,
    ErrorCode.BUSY: errors.BusyError,
    ErrorCode.NOT_READY: errors.BusyError,
    ErrorCode.CHECK_IN_AGAIN: errors.CheckInAgainError,
    ErrorCode.SCHEMA_CHANGED: errors.SchemaChangedError,
    ErrorCode.UNKNOWN_JOB: errors.UnknownJobError,
    ErrorCode.WRONG_SECRET: errors.AuthenticationError,
    ErrorCode.WRONG_STATE: errors.InvalidStateError,
    ErrorCode.CONFLICT: errors.ConflictError,
    ErrorCode.STALE_REQUEST: errors.ConflictError,
    ErrorCode.UNKNOWN_SESSION: errors.ConflictError,
    ErrorCode.NOT_OFFERED: errors.InvalidStateError,
    ErrorCode.ROUND_FULL: errors.InvalidStateError,
    ErrorCode.ROUND_CLOSED: errors.InvalidStateError,
    ErrorCode.JOB_BACKS_OFF: errors.InvalidStateError,
    ErrorCode.ALREADY_SERVED: errors.InvalidStateError,
    ErrorCode.DEVICE_BUSY: errors.InvalidStateError,
    ErrorCode.LIMIT: errors.BusyError,
    ErrorCode.INTERNAL: errors.RefusedError,
}


def to_exception(error: Error, kind: str) -> errors.PropiusError:
    """The exception that an error reply to a request of this kind becomes."""
    text = f"{kind} refused ({error.code.value}): {error.text}"
    if error.field:
        text += f" [field {error.field}]"
    if error.code is ErrorCode.STALE_TOKEN:
        return errors.StaleTokenError(text)
    refused = _EXCEPTIONS.get(error.code)
    if refused is None:  # version, unknown_kind: the two ends do not speak the same protocol
        return errors.ProtocolError(text)
    return refused(
        text, code=error.code.value, field=error.field, retry_after_s=error.retry_after_s
    )


def check_subject(asked: Message, reply: Message, peer: str) -> None:
    """Raise ProtocolError if the answer names another job or round than the request did."""
    for name in ("job", "round"):
        wanted, got = getattr(asked, name, None), getattr(reply, name, None)
        if wanted is not None and got is not None and wanted != got:
            text = f"{asked.kind} of {name} {wanted}: {peer} answered about {name} {got}"
            raise errors.ProtocolError(text)


def check_values(values: Mapping[str, float], what: str, *, negative: bool = False) -> None:
    """Refuse names and numbers that no server would accept, before anything is sent.

    >>> check_values({"ram": float("nan")}, "spec")
    Traceback (most recent call last):
    propius.errors.InvalidValueError: spec['ram'] is nan, not a number between 0 and 1e+15
    """
    low, high = (-messages.VALUE_MAX if negative else 0.0), messages.VALUE_MAX
    for name, value in values.items():
        if not isinstance(name, str):
            raise errors.InvalidValueError(f"{what}: the name {name!r} is not text")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise errors.InvalidValueError(f"{what}[{name!r}] is {value!r}, not a number")
        if not low <= value <= high:
            text = f"{what}[{name!r}] is {value}, not a number between {low:g} and {high:g}"
            raise errors.InvalidValueError(text)


def to_requirement(schema: messages.Schema, values: Mapping[str, float]) -> list[float]:
    """Lower bounds on a spec as a vector; one that no device can meet is refused.

    >>> schema = messages.Schema(schema="s", attributes=[("cpu_f", 24.8), ("ram", 16.0)])
    >>> to_requirement(schema, {"ram": 20})
    Traceback (most recent call last):
    propius.errors.InvalidValueError: requirement['ram'] is 20, above the operator's maximum of 16
    """
    for name, maximum in schema.attributes:
        if values.get(name, 0.0) > maximum:
            text = (
                f"requirement[{name!r}] is {values[name]:.10g},"
                f" above the operator's maximum of {maximum:.10g}"
            )
            raise errors.InvalidValueError(text)
    return to_vector(schema, values, "requirement")


def to_vector(schema: messages.Schema, values: Mapping[str, float], what: str) -> list[float]:
    """The values in the schema's order, 0 where one is missing.

    >>> schema = messages.Schema(schema="s", attributes=[("cpu_f", 24.8), ("ram", 16.0)])
    >>> to_vector(schema, {"ram": 4}, "spec")
    [0.0, 4.0]
    >>> to_vector(schema, {"rom": 4}, "spec")
    Traceback (most recent call last):
    propius.errors.InvalidValueError: spec['rom']: no such attribute; the operator has cpu_f, ram
    """
    names = [name for name, _ in schema.attributes]
    unknown = sorted(set(values) - set(names))
    if unknown:
        has = ", ".join(names[:SCHEMA_KEYS_SHOWN]) + ("…" if len(names) > SCHEMA_KEYS_SHOWN else "")
        text = f"{what}[{unknown[0]!r}]: no such attribute; the operator has {has}"
        raise errors.InvalidValueError(text)
    return [float(values.get(name, 0.0)) for name in names]
