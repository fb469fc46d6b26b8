"""Requests that come twice: lost replies, duplicates, other bodies, old ones, restarts between."""

from __future__ import annotations

import pytest

from daemons.job_manager.answers import ANSWERS_PER_SESSION, SESSIONS_PER_JOB
from propius.messages import (
    Attach,
    Cancel,
    CompleteJob,
    EndRequest,
    Error,
    ErrorCode,
    Ok,
    Outcome,
    Pause,
    Registered,
    RequestStarted,
    Resume,
    StartRequest,
)
from tests.daemons.job_manager.rig import JobServer, Rig, code_of, device, registration


@pytest.fixture(params=[False, True], ids=["same process", "restart between"])
def restart(request: pytest.FixtureRequest) -> bool:
    """Whether the job manager dies between a request and its repeat."""
    return bool(request.param)


def test_register_twice_is_one_job(rig: Rig, restart: bool) -> None:
    """The repeat of a register gets the same job and secret."""
    server = JobServer(rig)
    first = server.ask(registration())
    if restart:
        rig.start()
    assert server.ask(registration(), request=1) == first
    assert list(rig.core.book.jobs) == [1]


def test_every_verb_twice_is_once(rig: Rig, restart: bool) -> None:
    """Each answer, refusals included, is given again word for word, though the state moved on."""
    server = JobServer.registered(rig)
    script = [
        server.about(StartRequest, demand=1),
        server.about(StartRequest, demand=1),
        server.about(Pause),
        server.about(Resume),
        server.about(EndRequest, round=5),
        server.about(EndRequest, round=0),
        server.about(StartRequest, demand=3),
        server.about(CompleteJob),
        server.about(Pause),
        server.about(Cancel),
    ]
    answers = [server.ask(message) for message in script]
    assert [isinstance(answer, Error) for answer in answers] == [
        False, True, False, False, True, False, False, False, True, True,
    ]  # fmt: skip
    if restart:
        rig.start()
    for request, (message, answer) in enumerate(zip(script, answers, strict=True), start=2):
        assert server.ask(message, request=request) == answer
    assert rig.job().round == 1


def test_another_body_is_a_conflict(rig: Rig, restart: bool) -> None:
    """A request number stands for one body; another verb or another value is refused."""
    server = JobServer.registered(rig)
    assert server.start(2) == 0
    if restart:
        rig.start()
    for message in (server.about(StartRequest, demand=3), server.about(CompleteJob)):
        assert code_of(server.ask(message, request=2)) is ErrorCode.CONFLICT
    again = server.ask(server.about(StartRequest, demand=2), request=2)
    assert again == RequestStarted(job=1, round=0)
    other = JobServer(rig)
    assert code_of(other.ask(registration(demand=9), request=1)) is ErrorCode.CONFLICT


def test_too_old_to_be_known(rig: Rig, restart: bool) -> None:
    """A repeat of a request that is not remembered any more changes nothing."""
    server = JobServer.registered(rig)
    assert server.do(Pause) == Ok()
    for _ in range(ANSWERS_PER_SESSION):
        assert server.do(Resume) == Ok()
    if restart:
        rig.start()
    assert code_of(server.ask(server.about(Pause), request=2)) is ErrorCode.STALE_REQUEST
    assert code_of(server.ask(registration(), request=1)) is ErrorCode.STALE_REQUEST
    assert not rig.job().paused
    assert server.ask(server.about(Resume), request=3) == Ok()


def test_requests_may_overtake_each_other(rig: Rig) -> None:
    """A request that arrives after a later one is new, not old, while that can be told."""
    server = JobServer.registered(rig)
    assert server.ask(server.about(Pause), request=9) == Ok()
    assert server.ask(server.about(Resume), request=8) == Ok()
    assert not rig.job().paused


def test_nothing_from_before_the_session_began(rig: Rig, restart: bool) -> None:
    """A request below the one that opened the session is too old."""
    server = JobServer.registered(rig)
    again = JobServer(rig, session=12)
    again.number, again.secret = server.number, server.secret
    assert again.ask(again.about(Attach), request=5) == Ok()
    if restart:
        rig.start()
    assert code_of(again.ask(again.about(Pause), request=4)) is ErrorCode.STALE_REQUEST


def test_sessions_of_a_job_are_limited(rig: Rig, restart: bool) -> None:
    """The oldest session gives way, must attach again, and has no second effect."""
    server = JobServer.registered(rig)
    for session in range(20, 20 + SESSIONS_PER_JOB):
        server.attached(session)
    if restart:
        rig.start()
    assert server.refused(Pause) is ErrorCode.UNKNOWN_SESSION
    assert len(rig.core.book.sessions) == SESSIONS_PER_JOB
    stored = rig.store.load()
    assert len(stored["sessions"]) == SESSIONS_PER_JOB
    assert len(stored["job_answers"]) == SESSIONS_PER_JOB


def test_two_senders_with_one_number(rig: Rig) -> None:
    """A session is known by sender and number together."""
    first, second = JobServer.registered(rig, "a"), JobServer.registered(rig, "b")
    assert (first.session, first.number, second.number) == (second.session, 1, 2)
    assert second.start(1) == 0
    assert rig.job(1).round == -1


def test_a_refused_register_stays_refused(restart: bool) -> None:
    """Its repeat makes no job behind the caller's back, even when there is room by now."""
    rig = Rig(jobs_max=1)
    first, second = JobServer.registered(rig, "a"), JobServer(rig, "b")
    assert code_of(second.ask(registration())) is ErrorCode.LIMIT
    assert first.do(CompleteJob) == Ok()
    if restart:
        rig.start()
    assert code_of(second.ask(registration(), request=1)) is ErrorCode.LIMIT
    assert list(rig.core.book.jobs) == [1]
    assert isinstance(second.ask(registration()), Registered)


def test_a_stranger_learns_and_uses_nothing(rig: Rig) -> None:
    """A wrong secret takes no request number from the one who has the right one."""
    server = JobServer.registered(rig)
    assert code_of(server.ask(server.about(Pause, secret=b"no"), request=2)) is (
        ErrorCode.WRONG_SECRET
    )
    assert server.ask(server.about(Pause), request=2) == Ok()


def test_a_claim_twice_is_one_lease(rig: Rig, restart: bool) -> None:
    """The repeat of an accept gets the same token, through whichever manager it comes."""
    JobServer.registered(rig).start(2)
    first = rig.claim(1, 1)
    if restart:
        rig.start()
    rig.hello(1)
    assert rig.claim(1, 1, manager=1) == first
    assert rig.claim(1, 1, look_up=True) == first
    assert rig.round().allocated == 1
    assert rig.claim(1, 1, body=b"other").error == ErrorCode.CONFLICT


def test_a_report_twice_is_one_report(rig: Rig, restart: bool) -> None:
    """The repeat of a report is answered ok and counted once."""
    JobServer.registered(rig).start(2)
    lease = rig.claim(1, 1)
    assert rig.report(1, 1, lease.token, Outcome.FAILED).error == ""
    if restart:
        rig.start()
    assert rig.report(1, 1, lease.token, Outcome.FAILED).error == ""
    assert rig.round().failed == 1
    assert rig.report(1, 1, lease.token, Outcome.COMPLETED, body=b"x").error == ErrorCode.CONFLICT
    assert rig.claim(1, 1, request=2).error == ErrorCode.CONFLICT
    assert rig.claim(1, 1, request=1).error == ErrorCode.STALE_REQUEST


def test_a_refused_claim_stays_refused(rig: Rig, restart: bool) -> None:
    """A repeat is not granted a slot that came free meanwhile: the device has gone on."""
    JobServer.registered(rig).start(1)
    lease = rig.claim(1, 1)
    assert rig.claim(2, 1).error == ErrorCode.ROUND_FULL
    assert rig.report(1, 1, lease.token, Outcome.FAILED).error == ""
    if restart:
        rig.start()
    assert rig.claim(2, 1).error == ErrorCode.ROUND_FULL
    assert rig.claim(2, 1, request=2).error == ""


def test_device_answers_are_kept_for_the_horizon(rig: Rig) -> None:
    """They are forgotten some seconds after the horizon, in the store as well, and not before."""
    JobServer.registered(rig).start(2)
    first = rig.claim(1, 1)
    rig.advance(rig.settings.answer_horizon_s - 1)
    assert rig.claim(1, 1) == first
    assert set(rig.store.load()["device_answers"]) == {device(1)}
    rig.advance(10)
    assert "device_answers" not in rig.store.load()
    assert rig.claim(1, 1).error == ErrorCode.DEVICE_BUSY


def test_device_answers_are_limited() -> None:
    """The device that was silent longest gives way."""
    rig = Rig(device_answers_max=2)
    JobServer.registered(rig).start(1)
    for who in (1, 2, 3):
        rig.claim(who, 99)
    assert set(rig.store.load()["device_answers"]) == {device(2), device(3)}


def test_a_purged_job_leaves_nothing(rig: Rig) -> None:
    """When a finished job is purged, its sessions, answers, rounds and leases go with it."""
    server = JobServer.registered(rig)
    server.start(3, lease_s=86_400.0)
    lease = rig.claim(1, 1)
    second = rig.claim(2, 1)
    rig.report(2, 1, second.token, Outcome.FAILED)
    assert server.do(CompleteJob) == Ok()
    rig.core.book.finished[1] -= int(rig.settings.keep_finished_s * 1e9)
    rig.advance(1)
    left = set(rig.store.load())
    assert left == {"meta", "clock", "device_answers"}
    assert rig.report(1, 1, lease.token, request=9).error == ErrorCode.UNKNOWN_JOB
    assert not rig.core.book.lease_of
    assert server.refused(Pause) is ErrorCode.UNKNOWN_JOB
