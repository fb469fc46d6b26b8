from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from propius import errors, messages
from propius.core import SECOND_NS
from propius.job_session import OperatorSession
from propius.messages import (
    Error,
    ErrorCode,
    Header,
    Message,
    Ok,
    Outcome,
    Task,
    decode_header,
)
from propius.tokens import Lease, sign
from tests.propius.virtual_server import (
    DEVICE,
    SECRET,
    TIMEOUT_S,
    Frames,
    World,
    client,
    job,
    mine,
    offer,
    polite,
    registered_job,
    round_status,
)

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


def test_auto_assign_takes_the_first_task_that_suits() -> None:
    """Check in, skip what does not suit, accept the next; nothing else is said."""
    tasks = [Task(1, 0, {"images": 500.0}), Task(2, 5, {"images": 50.0}), Task(3, 0, {})]

    def server(header: Header, message: Message) -> Message | None:
        return offer(*tasks) if isinstance(message, messages.CheckIn) else polite(header, message)

    world = World(server)
    got = world.run(client().auto_assign(mine({"images": 120.0}), 60.0))
    assert (got.job, got.round) == (2, 5)
    assert world.kinds == ["get_schema", "check_in", "accept"]


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


# --- the worst network ----------------------------------------------------------------------------


class Storm(World):
    """A network that loses, doubles and delays at random, and breaks now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.answers: dict[tuple[int, int], Message] = {}
        self.opened = 0
        super().__init__(self.remember)
        self.lose_requests = {n for n in range(500) if self.random.random() < 0.3}
        self.lose_replies = {n for n in range(500) if self.random.random() < 0.3}

    def remember(self, header: Header, message: Message) -> Message:
        """Answer as a job manager: once for each request, the same again, or busy."""
        self.delay_ns = int(self.random.uniform(0.0, 6.0) * SECOND_NS)
        self.duplicate_replies = self.random.random() < 0.3
        key = (header.session, header.request)
        if key not in self.answers:
            if self.random.random() < 0.2:
                return Error(code=ErrorCode.BUSY, text="later", retry_after_s=0.5)
            self.answers[key] = messages.RequestStarted(job=7, round=self.opened)
            self.opened += 1
        if self.random.random() < 0.2:
            self.calls.reconnected(self.now_ns)
        return self.answers[key]


@pytest.mark.parametrize("seed", range(100))
def test_a_verb_that_is_called_until_it_returns_happens_once(seed: int) -> None:
    """Loss, duplicates, lateness, busy and reconnects: each call that returned had one effect."""
    world, session = Storm(seed), registered_job()
    session.dice = random.Random(seed)
    for wanted in range(5):
        got = -1
        while got < 0:
            with suppress(errors.RequestTimeoutError, errors.BusyError):
                got = world.run(session.start_request())
        assert got == wanted
    assert world.opened == 5


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
