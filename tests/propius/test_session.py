from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from propius import errors, messages
from propius.calls import Call, Calls
from propius.client_session import ClientSession, suits
from propius.core import SECOND_NS
from propius.fence import Fence
from propius.job_session import JobSession, JobTerms, OperatorSession
from propius.messages import (
    Assignment,
    Error,
    ErrorCode,
    Header,
    Message,
    Offer,
    Ok,
    Outcome,
    Schema,
    Task,
    decode_header,
    decode_payload,
    encode,
)
from propius.session import REPLY_S, Talk, to_exception
from propius.tokens import Lease, sign

Frames = tuple[bytes, ...]
Server = Callable[[Header, Message], Message | None]
DEVICE = "ab" * 16
SECRET = b"s" * 32
TIMEOUT_S = 30.0
SCHEMA = Schema(schema="one", attributes=[("cpu_f", 24.8), ("ram", 16.0)])
TERMS = JobTerms(name="job", requirement={"ram": 4.0}, demand=10)


class World:
    """A server, a network that does what the test wants, and a clock; all virtual."""

    def __init__(self, server: Server, *, delay_s: float = 0.01) -> None:
        self.server = server
        self.now_ns = 5 * SECOND_NS
        self.calls = Calls()
        self.delay_ns = int(delay_s * SECOND_NS)
        self.sent: list[tuple[float, Frames]] = []
        self.lose_requests: set[int] = set()  # by their place in `sent`
        self.lose_replies: set[int] = set()
        self.duplicate_replies = False
        self.arrivals: list[tuple[int, int, Frames]] = []

    @property
    def now_s(self) -> float:
        return self.now_ns / SECOND_NS

    @property
    def kinds(self) -> list[str]:
        """The kinds of what was sent."""
        return [decode_header(frames[0]).kind for _, frames in self.sent]

    def run(self, talk: Talk[Any]) -> Any:
        """Carry one talk out."""
        call = self.calls.start(self.now_ns, talk)
        self.run_until(lambda: call.done)
        return call.result()

    def start(self, talk: Talk[Any]) -> Call[Any]:
        """Begin a talk beside others."""
        return self.calls.start(self.now_ns, talk)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Let things happen in order of time."""
        for _ in range(10_000):
            self._send()
            if done():
                return
            due_ns = self.calls.due_ns()
            if self.arrivals and (due_ns is None or self.arrivals[0][0] <= due_ns):
                at_ns, _, frames = heapq.heappop(self.arrivals)
                self.now_ns = max(self.now_ns, at_ns)
                self.calls.receive(self.now_ns, frames)
            else:
                assert due_ns is not None
                assert due_ns >= self.now_ns
                self.now_ns = due_ns
            self.calls.tick(self.now_ns)
        raise AssertionError("this does not end")

    def arrive(self, frames: Frames, after_s: float = 0.0) -> None:
        """Something arrives at the session."""
        at_ns = self.now_ns + int(after_s * SECOND_NS)
        heapq.heappush(self.arrivals, (at_ns, len(self.arrivals) + id(frames) % 97, frames))

    def _send(self) -> None:
        while self.calls.outbox:
            frames = self.calls.outbox.pop(next(iter(self.calls.outbox)))
            place = len(self.sent)
            self.sent.append((self.now_s, frames))
            if place in self.lose_requests:
                continue
            header = decode_header(frames[0])
            reply = self.server(header, decode_payload(header.kind, frames[1]))
            if reply is None or place in self.lose_replies:
                continue
            for _ in range(1 + self.duplicate_replies):
                self.arrive(answer(header, reply), self.delay_ns / SECOND_NS)


def answer(to: Header, message: Message) -> Frames:
    """A reply as frames."""
    header = Header(kind=message.kind, sender="server", session=to.session, request=to.request)
    return encode(header, message)


def client(**changes: Any) -> ClientSession:
    """A client session with a seed."""
    given: dict[str, Any] = {"sender": DEVICE, "timeout_s": TIMEOUT_S, "spec": {"ram": 8.0}}
    return ClientSession(dice=random.Random(1), peer="lb", **{**given, **changes})


def job(**changes: Any) -> JobSession:
    """A job session with a seed."""
    given: dict[str, Any] = {"sender": "job", "timeout_s": TIMEOUT_S, "terms": TERMS}
    return JobSession(dice=random.Random(2), peer="jm", **{**given, **changes})


def registered_job() -> JobSession:
    """A job session that has its id."""
    session = job()
    session.fence = Fence(7, SECRET)
    return session


def polite(header: Header, message: Message) -> Message | None:
    """A server that says yes to everything."""
    match message:
        case messages.GetSchema():
            return SCHEMA
        case messages.Register():
            return messages.Registered(job=7, secret=SECRET)
        case messages.StartRequest():
            return messages.RequestStarted(job=7, round=0)
        case messages.CheckIn():
            return Offer(tasks=[Task(7, 0, {})], plan_version=1, retry_after_s=1.0)
        case messages.Accept(job=number, round=round_no):
            return Assignment(job=number, round=round_no, endpoint="e", lease_s=9.0, token=b"t")
    return Ok()


# --- one request ----------------------------------------------------------------------------------


def test_a_request_is_asked_once_when_all_is_well() -> None:
    """One question, one answer, and nothing is left behind."""
    world, session = World(polite), registered_job()
    world.run(session.heartbeat())
    assert world.kinds == ["heartbeat"]
    assert not world.calls.outbox
    assert len(world.calls) == 0


def test_a_lost_request_is_repeated_with_the_same_bytes() -> None:
    """After silence the same number and body go out again, and the caller sees only the answer."""
    world, session = World(polite), registered_job()
    world.lose_requests = {0, 1}
    assert world.run(session.start_request()) == 0
    assert len(world.sent) == 3
    assert len({frames for _, frames in world.sent}) == 1


def test_a_lost_reply_is_repeated_with_the_same_bytes() -> None:
    """The same holds when it was the answer that got lost."""
    world, session = World(polite), registered_job()
    world.lose_replies = {0}
    assert world.run(session.start_request()) == 0
    assert len({frames for _, frames in world.sent}) == 1
    assert world.sent[1][0] - world.sent[0][0] >= REPLY_S


def test_pauses_between_tries_are_jittered_and_grow() -> None:
    """Two sessions that lose the same server do not come back in step."""
    times = []
    for seed in (1, 2):
        world, session = World(lambda header, message: None), registered_job()
        session.dice = random.Random(seed)
        with pytest.raises(errors.RequestTimeoutError):
            world.run(session.heartbeat())
        times.append([at for at, _ in world.sent])
    assert times[0] != times[1]
    assert all(later - sooner >= REPLY_S for sooner, later in pairwise(times[0]))


def test_no_answer_is_a_timeout_that_says_what_where_and_how_often() -> None:
    """After the time-out, and not before, the caller learns that nobody answered."""
    world, session = World(lambda header, message: None), registered_job()
    began_s = world.now_s
    with pytest.raises(errors.RequestTimeoutError, match=r"heartbeat: no answer from jm .* 30 s"):
        world.run(session.heartbeat())
    assert world.now_s - began_s == pytest.approx(TIMEOUT_S)
    assert 3 <= len(world.sent) <= 14


def test_a_duplicate_reply_is_dropped() -> None:
    """The second copy of an answer reaches nobody, also not the next request."""
    world, session = World(polite), registered_job()
    world.duplicate_replies = True
    world.run(session.heartbeat())
    assert world.run(session.start_request()) == 0
    world.run(session.heartbeat())
    assert world.calls.dropped >= 2


def test_a_late_reply_is_dropped() -> None:
    """An answer that comes after the time-out is not taken for the answer to something else."""
    world, session = World(polite, delay_s=TIMEOUT_S + 1), registered_job()
    with pytest.raises(errors.RequestTimeoutError):
        world.run(session.heartbeat())
    world.delay_ns = 0
    world.run(session.end_request(0))
    assert world.kinds[-1] == "end_request"


def test_replies_of_other_sessions_are_not_mine() -> None:
    """Of two clients on one connection each gets its own answer, whatever the order."""
    world = World(polite)
    one, two = registered_job(), registered_job()
    two.lane.session += 1
    calls = [world.start(one.start_request()), world.start(two.heartbeat())]
    world.run_until(lambda: all(call.done for call in calls))
    assert [call.result() for call in calls] == [0, None]


def test_after_a_timeout_the_same_request_keeps_its_number() -> None:
    """A verb that timed out and is called again at once happens once, even if it got through."""
    started: dict[tuple[int, int], int] = {}

    def server(header: Header, message: Message) -> Message | None:
        key = (header.session, header.request)
        return messages.RequestStarted(job=7, round=started.setdefault(key, len(started)))

    world, session = World(server), registered_job()
    world.lose_replies = set(range(100))
    with pytest.raises(errors.RequestTimeoutError):
        world.run(session.start_request())
    world.lose_replies = set()
    assert world.run(session.start_request()) == 0
    assert world.run(session.start_request()) == 1
    assert len(started) == 2


def test_after_another_request_a_repeated_verb_is_a_new_one() -> None:
    """Once something else was said, the same words mean something new."""
    world, session = World(lambda header, message: None), registered_job()
    for talk in (session.pause_job(), session.resume(), session.pause_job()):
        with pytest.raises(errors.RequestTimeoutError):
            world.run(talk)
    numbers = {decode_header(frames[0]).request for _, frames in world.sent}
    assert numbers == {1, 2, 3}


def test_a_reconnect_repeats_what_was_sent_at_once() -> None:
    """When the connection comes back the request goes out again without waiting for silence."""
    world, session = World(polite), registered_job()
    world.lose_requests = {0}
    call = world.start(session.heartbeat())
    world.run_until(lambda: len(world.sent) == 1)
    world.calls.reconnected(world.now_ns)
    world.run_until(lambda: call.done)
    assert world.sent[1][0] == world.sent[0][0]


def test_a_watch_that_outlives_its_server_is_held_by_the_next_one() -> None:
    """A restart near the end of a held watch does not make it time out."""
    session = registered_job()
    began = World(lambda header, message: None)
    call = began.start(session.watch_round(0, wait_s=100.0))
    began.run_until(lambda: len(began.sent) == 1)
    began.now_ns += 95 * SECOND_NS
    began.server = lambda header, message: round_status(0, lost=[])
    began.delay_ns = 100 * SECOND_NS
    began.calls.reconnected(began.now_ns)
    began.run_until(lambda: call.done)
    assert call.result().round == 0


def test_a_reconnect_does_not_repeat_what_was_never_sent() -> None:
    """A request that still waits for a connection is sent once when that is there."""
    calls, session = Calls(), registered_job()
    calls.start(1, session.heartbeat())
    (frames,) = calls.outbox.values()
    calls.reconnected(2)
    assert list(calls.outbox.values()) == [frames]


def test_busy_is_obeyed_and_asked_again_under_the_same_number() -> None:
    """retry_after_s is waited for, and the bytes are the same."""
    replies = [Error(code=ErrorCode.BUSY, text="full", retry_after_s=4.0), Ok()]
    world, session = World(lambda header, message: replies.pop(0)), registered_job()
    world.run(session.heartbeat())
    assert world.sent[1][0] - world.sent[0][0] >= 4.0
    assert len({frames for _, frames in world.sent}) == 1


def test_busy_beyond_the_timeout_is_raised_at_once() -> None:
    """A wait that the time-out cannot hold is the caller's to decide."""
    reply = Error(code=ErrorCode.BUSY, text="disk full", retry_after_s=TIMEOUT_S)
    world, session = World(lambda header, message: reply), registered_job()
    with pytest.raises(errors.BusyError, match="disk full") as caught:
        world.run(session.heartbeat())
    assert caught.value.retry_after_s == TIMEOUT_S
    assert len(world.sent) == 1


def test_a_server_that_is_never_ready_is_busy_in_the_end() -> None:
    """not_ready without a wait is asked again with pauses, a bounded number of times."""
    reply = Error(code=ErrorCode.NOT_READY, text="no plan yet")
    world, session = World(lambda header, message: reply), registered_job()
    began_s = world.now_s
    with pytest.raises(errors.BusyError, match="no plan yet"):
        world.run(session.heartbeat())
    assert world.now_s - began_s <= TIMEOUT_S + 1
    assert len(world.sent) < 60


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_is_an_exception_with_its_values(code: ErrorCode) -> None:
    """Each refusal becomes one class of the tree and says the request, the code and the reason."""
    error = to_exception(
        Error(code=code, text="because", field="spec[2]", retry_after_s=2.0), "check_in"
    )
    assert isinstance(error, errors.PropiusError)
    assert str(error) == f"check_in refused ({code.value}): because [field spec[2]]"
    if isinstance(error, errors.RefusedError):
        assert (error.code, error.field, error.retry_after_s) == (code, "spec[2]", 2.0)
    else:
        wanted = errors.StaleTokenError if code is ErrorCode.STALE_TOKEN else errors.ProtocolError
        assert isinstance(error, wanted)


def test_an_answer_of_the_wrong_kind_is_a_protocol_error() -> None:
    """A server that answers something else is not believed."""
    world = World(lambda header, message: SCHEMA)
    with pytest.raises(errors.ProtocolError, match="heartbeat: jm answered schema"):
        world.run(registered_job().heartbeat())


def test_an_answer_that_cannot_be_read_is_a_protocol_error() -> None:
    """A broken payload under the right header does not hang the caller."""
    world, session = World(lambda header, message: None), registered_job()
    call = world.start(session.heartbeat())
    world.run_until(lambda: len(world.sent) == 1)
    header = decode_header(world.sent[0][1][0])
    world.arrive((answer(header, Ok())[0], b"\x81\xa1x\x01"))
    world.run_until(lambda: call.done)
    with pytest.raises(errors.ProtocolError, match="unknown field `x`"):
        call.result()


def test_a_server_of_another_version_is_named_instead_of_a_timeout() -> None:
    """Its headers cannot be matched to a request, so every caller learns the versions at once."""
    world, session = World(lambda header, message: None), registered_job()
    call = world.start(session.heartbeat())
    world.run_until(lambda: len(world.sent) == 1)
    world.arrive((b"\x95\x02\xa2ok\xa1s\x00\x00", b"\x80"))
    world.run_until(lambda: call.done)
    with pytest.raises(errors.ProtocolError, match="version 2 spoken, 1 understood"):
        call.result()


@pytest.mark.parametrize("frames", [(), (b"",), (b"x", b"y"), (b"", b"", b""), (b"\x95", b"\x80")])
def test_garbage_from_the_wire_is_counted_away(frames: Frames) -> None:
    """What is no message changes nothing."""
    world, session = World(polite), registered_job()
    call = world.start(session.heartbeat())
    world.arrive(frames)
    world.run_until(lambda: call.done)
    call.result()
    assert world.calls.dropped == 1


def test_a_value_that_no_server_accepts_is_never_sent() -> None:
    """A wrong argument is InvalidValueError, and nothing is on the wire."""
    world, session = World(polite), registered_job()
    for talk in (
        session.start_request(0),
        session.start_request(10**12),
        session.start_request(5, deadline_s=float("nan")),
        session.watch_round(-1),
        session.watch_round(0, wait_s=1e9),
        session.cancel("x" * 2_000),
    ):
        with pytest.raises(errors.InvalidValueError):
            world.run(talk)
    assert not world.sent


# --- the schema -----------------------------------------------------------------------------------


def test_the_schema_is_fetched_once_and_orders_the_vector() -> None:
    """Two check-ins ask for the schema once, in a session of its own, and follow its order."""
    world, session = World(polite), client(spec={"ram": 8.0, "cpu_f": 2.0})
    world.run(session.check_in(0.0))
    world.run(session.check_in(0.0))
    assert world.kinds == ["get_schema", "check_in", "check_in"]
    sent = decode_payload("check_in", world.sent[1][1][1])
    assert isinstance(sent, messages.CheckIn)
    assert sent.spec == [2.0, 8.0]
    sessions = [decode_header(frames[0]).session for _, frames in world.sent]
    assert sessions[0] != sessions[1] == sessions[2]


def test_a_changed_schema_is_fetched_and_the_vector_encoded_again() -> None:
    """schema_changed costs one more round trip, and the caller does not notice."""
    schemas = [SCHEMA, Schema(schema="two", attributes=[("ram", 16.0), ("gpu", 1.0)])]
    seen: list[messages.CheckIn] = []

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.GetSchema):
            return schemas.pop(0)
        assert isinstance(message, messages.CheckIn)
        seen.append(message)
        if message.schema == "one":
            return Error(code=ErrorCode.SCHEMA_CHANGED, text="now two")
        return Offer(tasks=[], plan_version=0, retry_after_s=1.0)

    world = World(server)
    world.run(client().check_in(0.0))
    assert [each.spec for each in seen] == [[0.0, 8.0], [8.0, 0.0]]


def test_a_registration_after_a_changed_schema_opens_another_session() -> None:
    """Register must be the first request of its session, so the second try has a new one."""

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.Register) and len(registrations) < 1:
            registrations.append(header)
            return Error(code=ErrorCode.SCHEMA_CHANGED, text="now two")
        if isinstance(message, messages.Register):
            registrations.append(header)
        return polite(header, message)

    registrations: list[Header] = []
    world = World(server)
    assert world.run(job().register()) == 7
    assert [header.request for header in registrations] == [1, 1]
    assert registrations[0].session != registrations[1].session


def test_a_schema_that_changes_for_ever_is_given_up() -> None:
    """After a few tries the caller gets SchemaChangedError."""

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.GetSchema):
            return SCHEMA
        return Error(code=ErrorCode.SCHEMA_CHANGED, text="again")

    world = World(server)
    with pytest.raises(errors.SchemaChangedError):
        world.run(client().check_in(0.0))
    assert world.kinds.count("check_in") == 3


def test_an_attribute_that_the_operator_does_not_have_is_named() -> None:
    """A misspelt attribute is the caller's error, with the names that exist."""
    world = World(polite)
    with pytest.raises(errors.InvalidValueError, match=r"spec\['rom'\].*cpu_f, ram"):
        world.run(client(spec={"rom": 1.0}).check_in(0.0))
    assert "check_in" not in world.kinds


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, True, "4", None, 1e16])
def test_a_wrong_spec_or_requirement_is_refused_when_it_is_made(value: Any) -> None:
    """NaN, negative, infinite and non-numbers are refused by name before there is a connection."""
    with pytest.raises(errors.InvalidValueError, match=r"spec\['ram'\]"):
        client(spec={"ram": value})
    with pytest.raises(errors.InvalidValueError, match=r"requirement\['ram'\]"):
        JobTerms(name="j", requirement={"ram": value}, demand=1)


@pytest.mark.parametrize(
    "terms, field",
    [
        ({"demand": 0}, "demand"),
        ({"demand": 10**12}, "demand"),
        ({"name": ""}, "name"),
        ({"rounds": -1}, "rounds"),
        ({"private_constraint": {"a": float("nan")}}, "private_constraint"),
        ({"server_endpoint": "x" * 300}, "endpoint"),
    ],
)
def test_wrong_terms_are_refused_when_they_are_made(terms: dict[str, Any], field: str) -> None:
    """A job with impossible terms is refused with the field's name before anything is sent."""
    good: dict[str, Any] = {"name": "j", "requirement": {}, "demand": 1}
    with pytest.raises(errors.InvalidValueError, match=field):
        JobTerms(**{**good, **terms})


# --- a job ----------------------------------------------------------------------------------------


def test_register_is_the_first_request_and_happens_once() -> None:
    """The job's own session begins with register; registering again changes nothing."""
    world, session = World(polite), job()
    assert world.run(session.register()) == 7
    assert world.run(session.register()) == 7
    assert world.kinds == ["get_schema", "register"]
    assert decode_header(world.sent[1][1][0]).request == 1
    assert (session.id, session.secret) == (7, SECRET)


def test_a_verb_before_register_says_what_to_do() -> None:
    """Without an id there is nothing to send."""
    world = World(polite)
    for talk in (job().start_request(), job().heartbeat(), job().show(), job().complete_job()):
        with pytest.raises(errors.UsageError, match="call register"):
            world.run(talk)
    assert not world.sent


def test_a_held_watch_waits_as_long_as_it_asked_for() -> None:
    """The time-out of a held request begins when the server should have answered."""
    world, session = World(lambda header, message: None), registered_job()
    began_s = world.now_s
    with pytest.raises(errors.RequestTimeoutError):
        world.run(session.watch_round(0, wait_s=100.0))
    assert world.now_s - began_s == pytest.approx(TIMEOUT_S + 100.0)


def test_the_fence_follows_the_rounds_and_the_lost_leases() -> None:
    """start_request moves the fence on, watch_round shuts out lost leases."""

    def server(header: Header, message: Message) -> Message | None:
        match message:
            case messages.StartRequest():
                return messages.RequestStarted(job=7, round=header.request - 1)
            case messages.WatchRound(round=number):
                return round_status(number, lost=[41])
        return Ok()

    def token(round_no: int, lease: int) -> bytes:
        return sign(SECRET, Lease(job=7, round=round_no, slot=0, lease=lease, device_id=DEVICE))

    world, session = World(server), registered_job()
    with pytest.raises(errors.StaleTokenError, match="current round -1"):
        session.admit(token(0, 41))
    world.run(session.start_request())
    assert session.admit(token(0, 41)).lease == 41
    world.run(session.watch_round(0))
    with pytest.raises(errors.StaleTokenError, match="failed or expired"):
        session.admit(token(0, 41))
    assert session.admit(token(0, 42)).lease == 42
    with pytest.raises(errors.StaleTokenError):
        session.admit("not bytes")  # type: ignore[arg-type]
    world.run(session.start_request())
    with pytest.raises(errors.StaleTokenError, match="current round 2"):
        session.admit(token(0, 42))


def round_status(number: int, lost: list[int]) -> messages.RoundStatus:
    """A round in which these leases were lost."""
    return messages.RoundStatus(
        job=7, round=number, version=2, state="open", demand=3, allocated=0, held=0, completed=0,
        failed=1, expired=0, reports_min=3, filled_after_s=-1.0, ended_after_s=-1.0, lost=lost,
    )  # fmt: skip


def test_an_operator_gets_all_pages_of_jobs() -> None:
    """list_jobs follows `more` by the last id, and ends."""
    status = messages.JobStatus(
        job=0, name="j", state="idle", reason="", requirement=[], requirement_id=0, demand=1,
        rounds=0, rounds_done=0, round=-1, round_state="", allocated=0, round_demand=0,
        devices_completed=0, devices_failed=0, devices_expired=0, registered_at_s=0.0, age_s=0.0,
        waiting_s=0.0, mean_scheduling_delay_s=-1.0, mean_response_s=-1.0, jct_s=-1.0,
    )  # fmt: skip

    def server(header: Header, message: Message) -> Message | None:
        assert isinstance(message, messages.ListJobs)
        numbers = [n for n in range(1, 8) if n > message.after][: message.limit]
        jobs = [msgspec.structs.replace(status, job=n) for n in numbers]
        return messages.JobList(jobs=jobs, more=numbers[-1] < 7)

    session = OperatorSession(
        sender="op", dice=random.Random(3), timeout_s=5.0, peer="jm", key=b"k" * 32
    )
    jobs = World(server).run(session.list_jobs(page=3))
    assert [each.job for each in jobs] == list(range(1, 8))


# --- a client -------------------------------------------------------------------------------------


def offer(*tasks: Task, retry_after_s: float = 0.1) -> Offer:
    """An offer of these tasks."""
    return Offer(tasks=list(tasks), plan_version=1, retry_after_s=retry_after_s)


def test_auto_assign_takes_the_first_task_that_suits() -> None:
    """Check in, skip what does not suit, accept the next; nothing else is said."""
    tasks = [Task(1, 0, {"images": 500.0}), Task(2, 5, {"images": 50.0}), Task(3, 0, {})]

    def server(header: Header, message: Message) -> Message | None:
        return offer(*tasks) if isinstance(message, messages.CheckIn) else polite(header, message)

    world = World(server)
    got = world.run(client().auto_assign(mine({"images": 120.0}), 60.0))
    assert (got.job, got.round) == (2, 5)
    assert world.kinds == ["get_schema", "check_in", "accept"]


def mine(private: dict[str, float]) -> Callable[[Any], list[Task]]:
    """The default rule for a private spec."""
    return lambda tasks: [task for task in tasks if suits(private, task)]


def test_auto_assign_declines_when_nothing_suits_and_checks_in_again() -> None:
    """All the offered rounds are declined in one message, and the next offer is awaited."""
    offers = [
        offer(Task(1, 0, {"images": 500.0}), Task(2, 5, {"texts": 1.0})),
        offer(Task(3, 0, {})),
    ]
    declined: list[Any] = []

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.Decline):
            declined.extend(message.rounds)
        return offers.pop(0) if isinstance(message, messages.CheckIn) else polite(header, message)

    world = World(server)
    got = world.run(client().auto_assign(mine({"images": 120.0}), 60.0))
    assert got.job == 3
    assert declined == [(1, 0), (2, 5)]


@pytest.mark.parametrize(
    "code", [ErrorCode.ROUND_FULL, ErrorCode.ROUND_CLOSED, ErrorCode.NOT_OFFERED]
)
def test_a_refused_accept_tries_the_next_task(code: ErrorCode) -> None:
    """A task that went to another is passed over; a device is not left without work for it."""

    def server(header: Header, message: Message) -> Message | None:
        match message:
            case messages.CheckIn():
                return offer(Task(1, 0, {}), Task(2, 0, {}))
            case messages.Accept(job=1):
                return Error(code=code, text="no")
        return polite(header, message)

    world = World(server)
    assert world.run(client().auto_assign(mine({}), 60.0)).job == 2
    assert "decline" not in world.kinds


def test_auto_assign_waits_out_a_lease_from_before() -> None:
    """A device that still holds a lease asks again until that is over."""
    busy = Error(code=ErrorCode.DEVICE_BUSY, text="holds a lease", retry_after_s=5.0)
    accepts = [busy, busy]

    def server(header: Header, message: Message) -> Message | None:
        match message:
            case messages.CheckIn():
                return offer(Task(1, 0, {}), Task(2, 0, {}))
            case messages.Accept() if accepts:
                return accepts.pop()
        return polite(header, message)

    world = World(server)
    began_s = world.now_s
    assert world.run(client().auto_assign(mine({}), 60.0)).job == 1
    assert world.now_s - began_s >= 10.0


def test_auto_assign_says_why_if_a_lease_from_before_never_ends() -> None:
    """When the wait is over, the refusal is raised: None would hide it."""

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.Accept):
            return Error(code=ErrorCode.DEVICE_BUSY, text="holds a lease", retry_after_s=5.0)
        return polite(header, message)

    with pytest.raises(errors.InvalidStateError, match="holds a lease"):
        World(server).run(client().auto_assign(mine({}), 20.0))


def test_auto_assign_without_work_is_none_in_time() -> None:
    """Empty offers are asked again after the server's pause, until the wait is over."""

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.CheckIn):
            return offer(retry_after_s=4.0)
        return polite(header, message)

    world = World(server)
    began_s = world.now_s
    assert world.run(client().auto_assign(mine({}), 30.0)) is None
    assert 20.0 <= world.now_s - began_s <= 31.0
    assert 5 <= world.kinds.count("check_in") <= 9


def test_a_lost_manager_means_a_new_check_in() -> None:
    """check_in_again makes a new check-in under a new number, without troubling the caller."""
    replies = [Error(code=ErrorCode.CHECK_IN_AGAIN, text="gone"), offer(Task(1, 0, {}))]

    def server(header: Header, message: Message) -> Message | None:
        return replies.pop(0) if isinstance(message, messages.CheckIn) else polite(header, message)

    world = World(server)
    assert world.run(client().check_in(30.0)).tasks
    numbers = [decode_header(f[0]).request for _, f in world.sent if b"check_in" in f[0]]
    assert numbers == [1, 2]


def test_an_accept_after_a_lost_manager_is_the_same_accept() -> None:
    """Its lease may have been granted, so it is looked up under the same number and body."""
    replies = [Error(code=ErrorCode.CHECK_IN_AGAIN, text="gone")]

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.Accept) and replies:
            return replies.pop()
        return polite(header, message)

    world = World(server)
    assert world.run(client().accept(7, 0)).token == b"t"
    assert len({frames for _, frames in world.sent}) == 1


def test_a_late_report_is_a_stale_token() -> None:
    """Reporting after the lease is over says so in its own exception."""
    world = World(lambda header, message: Error(code=ErrorCode.STALE_TOKEN, text="expired"))
    with pytest.raises(errors.StaleTokenError, match="expired"):
        world.run(client().report(1, 0, b"t", Outcome.COMPLETED))


def test_no_byte_of_a_private_spec_is_sent() -> None:
    """Neither a name nor a value of it is in any frame, whatever happens in the cycle."""
    private = {"hospital_images": 123456.789}
    tasks = [offer(Task(1, 0, {"hospital_images": 9e9})), offer(Task(2, 0, {}))]

    def server(header: Header, message: Message) -> Message | None:
        return tasks.pop(0) if isinstance(message, messages.CheckIn) else polite(header, message)

    world, session = World(server), client()
    got = world.run(session.auto_assign(mine(private), 60.0))
    world.run(session.report(got.job, got.round, got.token, Outcome.COMPLETED))
    wire = b"".join(part for _, frames in world.sent for part in frames)
    assert "decline" in world.kinds
    assert b"hospital" not in wire
    assert msgspec.msgpack.encode(123456.789) not in wire


@pytest.mark.parametrize("device", ["", "AB" * 16, "ab" * 15, "ab" * 16 + "\n", "device-1"])
def test_a_device_id_has_one_form(device: str) -> None:
    """Anything but 32 characters 0-9 a-f is refused when the client is made."""
    with pytest.raises(errors.InvalidValueError, match="device_id"):
        client(sender=device)


# --- many talks on one connection -----------------------------------------------------------------


def test_timers_do_not_pile_up() -> None:
    """A thousand requests that were answered early leave no thousand timers."""
    world, session = World(polite, delay_s=0.0), registered_job()
    for _ in range(1_000):
        world.run(session.heartbeat())
    assert len(world.calls._timers) < 100


def test_a_cancelled_call_is_forgotten_and_its_number_kept() -> None:
    """After a cancellation nothing is sent or awaited; the same verb again has the same number."""
    world, session = World(polite), registered_job()
    call = world.start(session.start_request())
    world.run_until(lambda: len(world.sent) == 1)
    world.calls.cancel(call)
    assert len(world.calls) == 0
    assert not world.calls.outbox
    world.run(session.start_request())
    assert len({frames for _, frames in world.sent}) == 1


def test_closing_fails_every_call() -> None:
    """Nobody waits for a connection that is closed."""
    world = World(lambda header, message: None)
    calls = [world.start(registered_job().heartbeat()) for _ in range(2)]
    world.calls.close()
    for call in calls:
        with pytest.raises(errors.SessionClosedError):
            call.result()


def test_the_same_seed_says_the_same_bytes() -> None:
    """A session is a function of its seed and of what it hears."""

    def story() -> list[tuple[float, Frames]]:
        world = World(polite)
        world.lose_requests, world.lose_replies = {0, 4}, {1, 5}
        session = client()
        world.run(session.auto_assign(mine({}), 60.0))
        return world.sent

    assert story() == story()
