"""Random lives of the requests on one connection, against a model that is a list of askers.

Two job servers and a device share it. Their requests are answered in any order, late, twice,
unreadably or not at all, put off, cancelled and timed out; connections break, the socket fills, the
schema changes. The model says what each caller must get, when, and what may be on the wire.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from propius import errors, messages
from propius.calls import Call, Calls
from propius.core import SECOND_NS
from propius.fence import Fence
from propius.messages import Error, ErrorCode, Header, Message, decode_header, decode_payload
from propius.session import UNREADABLE_MAX, Session
from tests.propius.virtual_server import SECRET, TIMEOUT_S, Frames, answer, client, job

VERBS = ("start", "beat", "watch", "check_in")
WAIT_S = {"watch": 20.0, "check_in": 20.0}
Key = tuple[int, int]


@dataclass
class Asker:
    """One caller, and what is known of what it waits for."""

    call: Call[Any]
    verb: str
    session: Session
    began_ns: int
    key: Key | None = None  # as first seen on its way
    frames: Frames = ()
    sent: int = 0  # how often it was on the wire
    quiet_until_ns: int = 0  # the server said: not before
    unreadable: int = 0
    put_off: bool = False
    schema_changes: int = 0
    due: bool = False  # the connection came back: it must be said again at once
    moved: bool = False  # … and its deadline may have been moved by that


@dataclass
class Numbers:
    """What the next number of a session must be."""

    last: int = 0
    unanswered: str = ""


@dataclass
class Wire:
    """What was sent and answered so far."""

    kinds: dict[Key, Frames] = field(default_factory=dict)
    answered: list[Frames] = field(default_factory=list)


class SdkMachine(RuleBasedStateMachine):
    """The calls of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 5 * SECOND_NS
        self.calls = Calls()
        self.jobs = [job(sender=f"job-{n}") for n in range(2)]
        self.device = client()
        sessions: list[Session] = [*self.jobs, self.device]
        for number, session in enumerate(sessions):
            session.dice = random.Random(number)
            session.lane = type(session.lane)(session.dice)
            session.cell = sessions[0].cell
        for each in self.jobs:
            each.fence = Fence(7, SECRET, 0)
        self.numbers = {id(session): Numbers() for session in sessions}
        self.askers: list[Asker] = []
        self.wire = Wire()
        self.schema_no = 0
        self.unique = 0

    # --- callers ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.askers) < 6)
    @rule(verb=st.sampled_from(VERBS), who=st.integers(0, 1))
    def ask(self, verb: str, who: int) -> None:
        """Somebody asks for something; a device for one thing at a time."""
        if verb == "check_in":
            if any(asker.verb == verb for asker in self.askers):
                return
            session: Session = self.device
            talk: Any = self.device.check_in(WAIT_S[verb])
        else:
            one = self.jobs[who]
            session = one
            verbs: dict[str, Any] = {
                "start": one.start_request,
                "beat": one.heartbeat,
                "watch": lambda: one.watch_round(0, wait_s=WAIT_S["watch"]),
            }
            talk = verbs[verb]()
        call = self.calls.start(self.now_ns, talk)
        self.askers.append(Asker(call, verb, session, self.now_ns))
        self.look_at_outbox()

    @precondition(lambda self: self.askers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A caller does not want to wait: nothing of its own is said any more."""
        asker = data.draw(st.sampled_from(self.askers))
        self.calls.cancel(asker.call)
        self.ends(asker, errors.SessionClosedError, left=True)

    # --- the server ------------------------------------------------------------------------------

    @precondition(lambda self: self.heard_of())
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """One of those that were heard gets its answer; nobody else does."""
        asker = data.draw(st.sampled_from(self.heard_of()))
        self.unique += 1
        assert asker.key is not None
        kind = decode_header(asker.frames[0]).kind
        reply = self.reply_to(asker, kind)
        self.deliver(asker.key, reply)
        if kind == "get_schema":
            self.look_at_outbox(asker)
            return
        assert asker.call.done, f"{asker.verb} does not notice its answer"
        got = asker.call.result()
        if asker.verb == "start":
            assert got == self.unique, "the answer of another"
        elif asker.verb == "watch":
            assert got.version == self.unique, "the answer of another"
        elif asker.verb == "check_in":
            assert got.plan_version == self.unique, "the answer of another"
        self.ends(asker, None, left=False)

    @precondition(lambda self: self.wire.answered)
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        """An answer comes once more, however late: it is nobody's."""
        frames = data.draw(st.sampled_from(self.wire.answered))
        header = decode_header(frames[0])
        if any(asker.key == (header.session, header.request) for asker in self.askers):
            return
        dropped = self.calls.dropped
        self.calls.receive(self.now_ns, frames)
        assert self.calls.dropped == dropped + 1
        self.look_at_outbox()

    @precondition(lambda self: self.heard_of())
    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 1.0, 5.0, 1_000.0]))
    def put_off(self, data: st.DataObject, wait_s: float) -> None:
        """The server is busy; who is not told what the time-out cannot hold asks again later."""
        asker = data.draw(st.sampled_from(self.heard_of()))
        assert asker.key is not None
        self.deliver(asker.key, Error(code=ErrorCode.BUSY, text="no", retry_after_s=wait_s), False)
        if wait_s == 1_000.0:
            return self.ends(asker, errors.BusyError, left=True)
        if asker.call.done:  # too late for that
            assert self.now_ns + (wait_s + 1) * SECOND_NS >= self.deadlines(asker)[0]
            return self.ends(asker, errors.BusyError, left=True)
        asker.put_off, asker.due = True, False
        asker.quiet_until_ns = self.now_ns + int(wait_s * SECOND_NS)
        assert asker.key not in self.calls.outbox, "busy is not obeyed"
        return None

    @precondition(lambda self: self.heard_of())
    @rule(data=st.data())
    def garble(self, data: st.DataObject) -> None:
        """An answer that cannot be read is asked for again, a few times."""
        asker = data.draw(st.sampled_from(self.heard_of()))
        assert asker.key is not None
        to = Header(kind="ok", sender="s", session=asker.key[0], request=asker.key[1])
        self.calls.receive(self.now_ns, (answer(to, messages.Ok())[0], b"\x81\xa1x\x01"))
        asker.unreadable, asker.due = asker.unreadable + 1, False
        if asker.unreadable >= UNREADABLE_MAX or asker.call.done:
            return self.ends(asker, errors.ProtocolError, left=True)
        asker.quiet_until_ns = self.now_ns
        return None

    @rule()
    def change_schema(self) -> None:
        """The operator has another schema: a check-in under way is refused for it."""
        self.schema_no += 1
        for asker in self.heard_of():
            if decode_header(asker.frames[0]).kind != "check_in":
                continue
            assert asker.key is not None
            refusal = Error(code=ErrorCode.SCHEMA_CHANGED, text="now another")
            self.deliver(asker.key, refusal, False)
            asker.schema_changes += 1
            self.numbers[id(asker.session)].unanswered = ""
            if asker.schema_changes == 3:
                self.ends(asker, errors.SchemaChangedError, left=False)
            else:
                asker.key = None
                self.look_at_outbox(asker)
                assert decode_header(asker.frames[0]).kind == "get_schema"

    # --- the network and the time ----------------------------------------------------------------

    @rule(most=st.integers(1, 6))
    def send(self, most: int) -> None:
        """The socket takes so much."""
        for key in list(self.calls.outbox)[:most]:
            frames = self.calls.outbox.pop(key)
            asker = next((each for each in self.askers if each.key == key), None)
            assert asker is not None, "nobody waits for an answer to this"
            asker.sent, asker.due = asker.sent + 1, False
            assert self.wire.kinds.setdefault(key, frames) == frames, "one number, two bodies"

    @rule()
    def reconnect(self) -> None:
        """A connection breaks and stands again: what it may have lost is said again at once."""
        quiet = [each.key for each in self.askers if each.quiet_until_ns]
        lost = self.calls.sent()
        self.calls.reconnected(self.now_ns, lost)
        for asker in self.askers:
            if asker.key in lost and asker.key not in quiet:
                asker.due = asker.moved = True
            elif asker.key in lost:
                assert asker.key not in self.calls.outbox, "busy is not obeyed"

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 8.0, 40.0]))
    def advance(self, seconds: float) -> None:
        """Time passes; those whose time is over are told so, and no other."""
        end_ns = self.now_ns + int(seconds * SECOND_NS)
        while (due_ns := self.calls.due_ns()) is not None and due_ns <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            before = set(self.calls.outbox)
            self.calls.tick(self.now_ns)
            self.look_at_outbox()
            for asker in list(self.askers):
                if asker.call.done:
                    first_ns, last_ns = self.deadlines(asker)
                    assert first_ns <= self.now_ns <= last_ns, "given up too soon or too late"
                    expected = errors.BusyError if asker.put_off else errors.RequestTimeoutError
                    self.ends(asker, expected, left=True)
                elif asker.key in self.calls.outbox and asker.key not in before:
                    assert self.now_ns >= asker.quiet_until_ns, "busy is not obeyed"
                    asker.quiet_until_ns = 0
        self.now_ns = end_ns

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def nobody_waits_too_long(self) -> None:
        """Each caller is told in the time that it gave; nothing is left of those that were."""
        for asker in self.askers:
            assert not asker.call.done, f"{asker.verb} is over, and nobody knows why"
            assert self.now_ns <= self.deadlines(asker)[1], f"{asker.verb} waits too long"
            assert not asker.due or asker.key in self.calls.outbox, "not said again at once"
        assert len(self.calls) == len(self.askers)
        assert set(self.calls.outbox) <= {asker.key for asker in self.askers}

    @invariant()
    def silence_is_noticed(self) -> None:
        """Who waits is in the outbox, or will be woken in bounded time."""
        due_ns = self.calls.due_ns()
        assert (due_ns is None) == (not self.askers)
        if due_ns is not None:
            assert due_ns <= self.now_ns + (TIMEOUT_S + 2 * 20.0) * SECOND_NS

    def teardown(self) -> None:
        """The connection is closed: whoever waits is told."""
        self.calls.close()
        for asker in list(self.askers):
            self.ends(asker, errors.SessionClosedError, left=True)
        assert self.calls.due_ns() is None

    # --- the model -------------------------------------------------------------------------------

    def heard_of(self) -> list[Asker]:
        """Those whose request, in its present form, has been on the wire."""
        return [asker for asker in self.askers if asker.key in self.wire.kinds]

    def deadlines(self, asker: Asker) -> tuple[int, int]:
        """When it may be told that its time is over, and when it must have been."""
        hold_s = WAIT_S.get(asker.verb, 0.0)
        if decode_header(asker.frames[0]).kind == "get_schema":
            hold_s = 0.0
        last_s = TIMEOUT_S + hold_s * (2 if asker.moved else 1)
        first_ns = asker.began_ns + int((TIMEOUT_S + hold_s) * SECOND_NS)
        return first_ns, asker.began_ns + int(last_s * SECOND_NS)

    def reply_to(self, asker: Asker, kind: str) -> Message:
        """An answer that no other request gets."""
        match kind:
            case "get_schema":
                return messages.Schema(
                    schema=f"schema-{self.schema_no}", attributes=[("ram", 16.0)]
                )
            case "start_request":
                return messages.RequestStarted(job=7, round=self.unique)
            case "watch_round":
                return messages.RoundStatus(
                    job=7, round=0, version=self.unique, state="open", demand=3, allocated=0,
                    held=0, completed=0, failed=0, expired=0, reports_min=3, filled_after_s=-1.0,
                    ended_after_s=-1.0, lost=[],
                )  # fmt: skip
            case "check_in":
                payload = decode_payload(kind, asker.frames[1])
                assert isinstance(payload, messages.CheckIn)
                return messages.Offer(tasks=[], plan_version=self.unique, retry_after_s=0.0)
        return messages.Ok()

    def deliver(self, key: Key, message: Message, final: bool = True) -> None:
        """An answer arrives; what is final may come again later."""
        frames = answer(Header(kind="x", sender="s", session=key[0], request=key[1]), message)
        if final:
            self.wire.answered.append(frames)
        self.calls.receive(self.now_ns, frames)

    def ends(self, asker: Asker, error: type[BaseException] | None, *, left: bool) -> None:
        """A caller has its answer; ``left``: the effect of its request is unknown."""
        assert asker.call.done
        self.askers.remove(asker)
        assert asker.key not in self.calls.outbox, "still said after it is over"
        got = asker.call._error
        assert got is None if error is None else isinstance(got, error), f"it got {got!r}"
        numbers = self.numbers[id(asker.session)]
        is_last = asker.key == (asker.session.lane.session, numbers.last)
        if left and is_last:
            numbers.unanswered = asker.verb

    def look_at_outbox(self, of: Asker | None = None) -> None:
        """What is new in it is the request of the last asker, or of this one."""
        for key, frames in self.calls.outbox.items():
            if any(asker.key == key for asker in self.askers):
                continue
            asker = of or self.askers[-1]
            kind = decode_header(frames[0]).kind
            asker.key, asker.frames, asker.put_off = key, frames, False
            asker.unreadable, asker.quiet_until_ns, asker.due = 0, 0, False
            if kind == "get_schema":
                assert asker.verb == "check_in"
                assert key[1] == 1
                assert key[0] != asker.session.lane.session
                continue
            numbers = self.numbers[id(asker.session)]
            again = numbers.unanswered == asker.verb and self.says_the_same(key, frames)
            assert key == (asker.session.lane.session, numbers.last + (not again)), "wrong number"
            numbers.last, numbers.unanswered = key[1], ""

    def says_the_same(self, key: Key, frames: Frames) -> bool:
        """Whether that number had these bytes, or was never sent."""
        return self.wire.kinds.get(key, frames) == frames


TestSdkMachine = SdkMachine.TestCase
TestSdkMachine.__doc__ = "Whatever happens on a connection, each caller gets what is its own."
TestSdkMachine.settings = settings(max_examples=150, stateful_step_count=40)
