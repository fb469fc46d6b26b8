from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from propius import errors, messages
from propius.calls import STEPS_MAX, Calls
from propius.core import SECOND_NS
from propius.job_session import JobTerms
from propius.messages import (
    Error,
    ErrorCode,
    Header,
    Message,
    Offer,
    Ok,
    Schema,
    decode_header,
    decode_payload,
)
from propius.session import REPLY_S, UNREADABLE_MAX, Heard, Step, Talk, to_exception
from tests.propius.virtual_server import (
    SCHEMA,
    TIMEOUT_S,
    Frames,
    World,
    answer,
    client,
    job,
    polite,
    registered_job,
    round_status,
)


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


def torn(header: Header) -> Frames:
    """An answer whose payload cannot be read."""
    return (answer(header, Ok())[0], b"\x81\xa1x\x01")


def test_an_answer_that_cannot_be_read_is_asked_for_again() -> None:
    """The same number gets the remembered answer; the round that it told of is not lost."""
    world, session = World(lambda header, message: None), registered_job()
    call = world.start(session.start_request())
    world.run_until(lambda: len(world.sent) == 1)
    world.server = polite
    world.arrive(torn(decode_header(world.sent[0][1][0])))
    world.run_until(lambda: call.done)
    assert call.result() == 0
    assert len(world.sent) == 2
    assert len({frames for _, frames in world.sent}) == 1


def test_an_accept_whose_answer_is_torn_gets_its_slot() -> None:
    """Without the second try the device would hold a lease that it does not know of."""
    given: list[Header] = []

    def server(header: Header, message: Message) -> Message | None:
        if not isinstance(message, messages.Accept):
            return polite(header, message)
        given.append(header)
        if len(given) == 1:
            return None
        assert (header.session, header.request) == (given[0].session, given[0].request)
        return polite(header, message)

    world = World(server)
    session = client()
    call = world.start(session.accept(7, 0))
    world.run_until(lambda: len(given) == 1)
    world.arrive(torn(given[0]))
    world.run_until(lambda: call.done)
    assert call.result().job == 7


def test_a_server_that_never_answers_readably_is_a_protocol_error() -> None:
    """After a few such answers the caller learns what was wrong with the last."""
    world, session = World(lambda header, message: None), registered_job()
    call = world.start(session.heartbeat())
    for number in range(1, UNREADABLE_MAX + 1):
        world.run_until(lambda number=number: len(world.sent) == number)  # type: ignore[misc]
        world.arrive(torn(decode_header(world.sent[-1][1][0])))
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


def test_a_talk_that_never_waits_is_ended() -> None:
    """A step that is always due would spin for ever; it is the bug's caller who gets the error."""
    steps: list[Heard] = []

    def restless() -> Talk[None]:
        while True:
            steps.append((yield Step(None, None, 0)))

    world, session = World(polite), registered_job()
    call = world.start(restless())
    with pytest.raises(RuntimeError, match="restless: a talk that never waits"):
        call.result()
    assert len(steps) <= STEPS_MAX
    world.run(session.heartbeat())


def test_a_talk_that_always_sends_does_not_stop_the_others() -> None:
    """Each tick is one step for each call, however overdue it is."""
    calls, steps = Calls(), []

    def chatty() -> Talk[None]:
        while True:
            steps.append((yield Step((1, 1), (b"h", b"p"), 0)))

    calls.start(10, chatty())
    other = calls.start(10, registered_job().pause(1.0))
    for now_ns in (11, 12, 10 + SECOND_NS):
        calls.tick(now_ns)
    assert len(steps) == 3
    assert other.done


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
