"""A device serves a round once, whatever became of its lease."""

from __future__ import annotations

import pytest

from daemons.job_manager.records import ServedRound
from propius.messages import (
    ErrorCode,
    JobStatus,
    Outcome,
    RoundStatus,
    Show,
    WatchRound,
)
from tests.daemons.job_manager.rig import JobServer, Rig


def serve(rig: Rig, who: int, outcome: Outcome, request: int = 1) -> None:
    """A lease of the first job's first round, and its end."""
    result = rig.claim(who, 1, request=request)
    assert result.error == ""
    if outcome is Outcome.EXPIRED:
        rig.advance(700.0)
    else:
        assert rig.report(who, 1, result.token, outcome, request=request + 1).error == ""


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.DROPPED, Outcome.EXPIRED]
)
def test_device_that_served_a_round_gets_no_second_slot(
    rig: Rig, outcome: Outcome, restart: bool
) -> None:
    """Completed, failed and lost all count, after a restart too; others get the slots left."""
    server = JobServer.registered(rig)
    server.start(demand=2)
    serve(rig, 1, outcome)
    if restart:
        rig.start()
    assert rig.claim(1, 1, request=9).error == ErrorCode.ALREADY_SERVED
    assert rig.claim(2, 1).error == ""


def test_next_round_may_have_the_same_devices(rig: Rig) -> None:
    """What is noted of a round ends with it, in memory and in the store."""
    server = JobServer.registered(rig)
    server.start(demand=2)
    serve(rig, 1, Outcome.FAILED)
    assert len(rig.store.load()[ServedRound.table]) == 1
    serve(rig, 2, Outcome.COMPLETED)
    serve(rig, 3, Outcome.COMPLETED)  # enough: the round is over
    assert not rig.store.load().get(ServedRound.table)
    assert len(rig.core.book.served) == 0
    server.start(demand=1)
    assert rig.claim(1, 1, 1, request=9).error == ""


def test_job_server_may_let_devices_serve_a_round_again(rig: Rig) -> None:
    """once_per_device=False: nothing is noted, and the same device comes back."""
    server = JobServer.registered(rig)
    server.start(demand=2, once_per_device=False)
    serve(rig, 1, Outcome.COMPLETED)
    rig.start()
    serve(rig, 1, Outcome.FAILED, request=3)
    assert rig.claim(1, 1, request=9).error == ""
    assert len(rig.core.book.served) == 0


def test_what_is_noted_is_limited() -> None:
    """Above the limit the oldest is forgotten, and may serve once more; so in the store."""
    rig = Rig(served_max=2)
    JobServer.registered(rig).start(demand=5)
    for who in (1, 2, 3):
        serve(rig, who, Outcome.COMPLETED)
    rig.start()
    assert rig.claim(2, 1, request=9).error == ErrorCode.ALREADY_SERVED
    assert rig.claim(3, 1, request=9).error == ErrorCode.ALREADY_SERVED
    assert rig.claim(1, 1, request=9).error == ""


def test_round_that_devices_come_back_to_says_whom_it_needs(rig: Rig) -> None:
    """Who watches wakes up and reads it, job list says it, after a restart too."""
    server = JobServer.registered(rig)
    server.start(demand=3)
    serve(rig, 1, Outcome.COMPLETED)
    before = rig.round().version
    for request in (9, 10):
        assert rig.claim(1, 1, request=request).error == ErrorCode.ALREADY_SERVED
    assert rig.round().version == before + 1
    shown = server.do(Show)
    watched = server.do(WatchRound, round=0, seen=before)
    assert isinstance(shown, JobStatus)
    assert isinstance(watched, RoundStatus)
    assert shown.reason == watched.reason
    assert shown.reason == ("1 of 3 slots; needs other devices than the 1 that served this round")
    rig.start()
    shown = server.do(Show)
    assert isinstance(shown, JobStatus)
    assert shown.reason == watched.reason
    assert [rig.claim(who, 1).error for who in (2, 3)] == ["", ""]
    shown = server.do(Show)
    assert isinstance(shown, JobStatus)
    assert shown.reason == ""


def test_back_off_does_not_hide_that_a_round_runs_short() -> None:
    """A job may lack devices and back off: both are said (seed 57 waited for ever)."""
    rig = Rig(backoff_after=1)
    server = JobServer.registered(rig)
    server.start(demand=2)
    serve(rig, 1, Outcome.FAILED)
    assert rig.claim(1, 1, request=9).error == ErrorCode.ALREADY_SERVED
    shown = server.do(Show)
    assert isinstance(shown, JobStatus)
    assert "back-off" in shown.reason
    assert shown.reason.endswith(
        "; 0 of 2 slots; needs other devices than the 1 that served this round"
    )
