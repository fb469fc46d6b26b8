from __future__ import annotations

import pytest

from daemons.job_manager.states import JobState, RoundState
from daemons.job_manager.timers import WORK_MAX
from propius.core import SECOND_NS
from propius.messages import (
    Claim,
    CompleteJob,
    EndRequest,
    ErrorCode,
    Heartbeat,
    LeaseEnded,
    Ok,
    Outcome,
    Show,
)
from tests.daemons.job_manager.rig import JobServer, Rig, device


@pytest.fixture
def rig() -> Rig:
    """A job manager whose grace after the start is over."""
    rig = Rig()
    rig.advance(rig.settings.lease_grace_s)
    return rig


def ended(rig: Rig) -> list[tuple[int, Outcome]]:
    """The leases that ended, and how."""
    return [(event.lease, event.outcome) for event in rig.events if isinstance(event, LeaseEnded)]


def test_a_lease_expires_at_its_deadline(rig: Rig) -> None:
    """Its slot is offered again, its token is stale, and its device is free."""
    server = JobServer.registered(rig)
    server.start(1, lease_s=60.0, once_per_device=False)
    rig.advance(40)
    lease = rig.claim(1, 1)
    rig.advance(59.9)
    assert rig.round().state is RoundState.FILLED
    rig.advance(0.1)
    assert (rig.round().state, rig.round().expired) == (RoundState.OPEN, 1)
    assert ended(rig) == [(1, Outcome.EXPIRED)]
    assert rig.report(1, 1, lease.token).error == ErrorCode.STALE_TOKEN
    assert rig.claim(1, 1, request=3).error == ""


def test_a_lease_that_lapses_after_its_round(rig: Rig) -> None:
    """It is told apart from one that cost a live round a device."""
    server = JobServer.registered(rig)
    server.start(2, lease_s=60.0)
    rig.claim(1, 1)
    server.do(EndRequest, round=0)
    rig.advance(60)
    assert ended(rig) == [(1, Outcome.CANCELLED)]
    assert (rig.round().allocated, rig.round().state) == (0, RoundState.ENDED)


def test_a_report_stops_the_clock(rig: Rig) -> None:
    """A lease that was reported does not expire."""
    JobServer.registered(rig).start(2, lease_s=60.0)
    lease = rig.claim(1, 1)
    rig.report(1, 1, lease.token)
    rig.advance(120)
    assert rig.round().expired == 0


@pytest.mark.parametrize(
    "granted, reported, state",
    [
        (0, 0, RoundState.FAILED),
        (3, 1, RoundState.FAILED),
        (2, 2, RoundState.CLOSED),
        (3, 2, RoundState.COMPLETED),
    ],
)
def test_a_round_at_its_deadline(rig: Rig, granted: int, reported: int, state: RoundState) -> None:
    """With enough reports it is closed, with too few it failed; a done one is not touched."""
    server = JobServer.registered(rig)
    server.start(3, reports_min=2, deadline_s=30.0)
    leases = [rig.claim(who, 1) for who in range(granted)]
    for who in range(reported):
        rig.report(who, 1, leases[who].token)
    rig.advance(29.9)
    assert rig.round().state in {RoundState.OPEN, RoundState.FILLED, RoundState.COMPLETED}
    rig.advance(0.1)
    assert rig.round().state is state
    assert rig.job().rounds_done == int(state is not RoundState.FAILED)
    assert server.start(1) == 1


def test_a_silent_job_expires(rig: Rig) -> None:
    """Any request counts as a sign of life; without one the job ends with the reason on record."""
    server = JobServer.registered(rig)
    limit_s = rig.settings.job_silence_max_s
    server.start(1)
    for verb in (Heartbeat, Show, Heartbeat):
        rig.advance(limit_s - 1)
        server.do(verb)
    rig.advance(limit_s - 0.1)
    assert rig.job().state is JobState.REQUESTING
    rig.advance(0.1)
    assert rig.job().state is JobState.EXPIRED
    assert rig.job().reason == f"the job server was silent for {limit_s:.0f} s"
    assert rig.round().state is RoundState.ENDED


def test_an_operator_is_no_sign_of_life(rig: Rig) -> None:
    """Somebody who looks at a job with the operator's key does not keep it alive."""
    server = JobServer.registered(rig)
    rig.advance(rig.settings.job_silence_max_s - 1)
    server.do(Show, secret=rig.core.book.operator_key)
    rig.advance(1)
    assert rig.job().state is JobState.EXPIRED


def test_finished_jobs_are_kept_and_purged() -> None:
    """After their time, or above their number, the oldest first."""
    rig = Rig(keep_finished_s=100.0, keep_finished_max=2)
    for number in range(3):
        assert JobServer.registered(rig, f"server-{number}").do(CompleteJob) == Ok()
        rig.advance(1)
    assert list(rig.core.book.jobs) == [2, 3]
    rig.advance(97.9)
    assert list(rig.core.book.jobs) == [2, 3]
    rig.advance(0.1)
    assert list(rig.core.book.jobs) == [3]
    rig.advance(1)
    assert "jobs" not in rig.store.load()


def test_a_mass_expiry_is_worked_off_in_pieces(rig: Rig) -> None:
    """One tick does a bounded amount of work and says that more is due at once."""
    number = WORK_MAX + 10
    JobServer.registered(rig).start(number, lease_s=60.0)
    rig.claims([Claim(device(who), 1, 1, b"d", 1, 0, False) for who in range(number)])
    rig.now_ns += 61 * SECOND_NS
    rig.tick()
    assert len(rig.core.book.leases) == 10
    due_ns = rig.book_due_ns()
    assert due_ns is not None
    assert due_ns <= rig.now_ns
    rig.tick()
    assert not rig.core.book.leases


def test_answers_of_a_restart_are_forgotten_in_pieces(rig: Rig) -> None:
    """All that was restored is of one age; a tick forgets some, and the next one more."""
    number = WORK_MAX + 10
    JobServer.registered(rig).start(number)
    rig.claims([Claim(device(who), 1, 1, b"d", 1, 0, False) for who in range(number)])
    rig.start()
    rig.now_ns += int((rig.settings.answer_horizon_s + 10) * SECOND_NS)
    rig.tick()
    assert len(rig.core.book.device_answers) == 10
    due_ns = rig.book_due_ns()
    assert due_ns is not None
    assert due_ns <= rig.now_ns
    rig.tick()
    assert not len(rig.core.book.device_answers)


def test_finished_jobs_are_purged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with many rounds is much work; a tick stops when it has done enough."""
    monkeypatch.setattr("daemons.job_manager.timers.WORK_MAX", 6)
    rig = Rig(keep_finished_s=100.0)
    for number in range(4):
        server = JobServer.registered(rig, f"server-{number}")
        for _ in range(3):
            assert server.do(EndRequest, round=server.start(1)) == Ok()
        assert server.do(CompleteJob) == Ok()
    rig.now_ns += 101 * SECOND_NS
    rig.tick()
    assert list(rig.core.book.jobs) == [3, 4]
    rig.tick()
    assert not rig.core.book.jobs


def test_the_clock_is_saved_while_jobs_live(rig: Rig) -> None:
    """An idle job manager notes the time now and then, so that a reboot gives little back."""
    before = rig.store.load()["clock"]
    rig.advance(100)
    assert rig.store.load()["clock"] == before
    server = JobServer.registered(rig)
    before = rig.store.load()["clock"]
    rig.advance(31)
    assert rig.store.load()["clock"] != before
    assert server.do(CompleteJob) == Ok()
