from __future__ import annotations

import pytest

from daemons.job_manager.states import RoundState
from propius import tokens
from propius.messages import (
    Cancel,
    Claim,
    CompleteJob,
    EndRequest,
    ErrorCode,
    LeaseEnded,
    LeaseGranted,
    Outcome,
    ReportItem,
    RoundStatus,
    WatchRound,
)
from tests.daemons.job_manager.rig import JobServer, Rig, device


def round_status(server: JobServer, number: int = 0) -> RoundStatus:
    """The round as its job server sees it."""
    status = server.do(WatchRound, round=number)
    assert isinstance(status, RoundStatus)
    return status


def test_a_grant_tells_all_that_the_device_needs(rig: Rig, server: JobServer) -> None:
    """The result has the endpoint, the lease's length and a token under the job's secret."""
    result = rig.claim(5, 1, manager=0)
    assert (result.error, result.endpoint, result.lease_s) == ("", "tcp://127.0.0.1:7000", 600.0)
    lease = tokens.verify(server.secret, result.token)
    assert lease == tokens.Lease(job=1, round=0, slot=0, lease=1, device_id=device(5))
    granted = [event for event in rig.events if isinstance(event, LeaseGranted)]
    assert [(event.slot, event.allocated) for event in granted] == [(0, 1)]


def test_never_more_than_the_demand(rig: Rig, server: JobServer) -> None:
    """Of three claims in one batch for two slots, two are granted and the round is filled."""
    claims = [Claim(device(who), 1, 1, b"d", 1, 0, False) for who in (1, 2, 3)]
    answer = rig.claims(claims)
    assert answer is not None
    assert [result.error for result in answer.claims] == ["", "", ErrorCode.ROUND_FULL]
    assert len(rig.commit_log[-1].changes) < 12
    assert rig.round().state is RoundState.FILLED
    assert rig.claim(4, 1).error == ErrorCode.ROUND_FULL


def test_lease_numbers_and_slots(rig: Rig, server: JobServer) -> None:
    """Lease numbers grow for ever; a slot that came back is given again, the lowest first."""
    first, second = rig.claim(1, 1), rig.claim(2, 1)
    assert rig.report(1, 1, first.token, Outcome.FAILED).error == ""
    third = rig.claim(3, 1)
    leases = [tokens.verify(server.secret, result.token) for result in (first, second, third)]
    assert [(lease.slot, lease.lease) for lease in leases] == [(0, 1), (1, 2), (0, 3)]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.DROPPED])
def test_a_lost_slot_is_offered_again(rig: Rig, server: JobServer, outcome: Outcome) -> None:
    """A report of failure gives the slot back and opens the round again."""
    rig.claim(1, 1)
    second = rig.claim(2, 1)
    assert rig.report(2, 1, second.token, outcome).error == ""
    status = round_status(server)
    assert (status.state, status.allocated, status.held) == ("open", 1, 1)
    assert (status.failed, status.expired, status.completed) == (1, 0, 0)
    assert status.lost == [2]
    ended = [event for event in rig.events if isinstance(event, LeaseEnded)]
    assert [(event.lease, event.outcome, event.allocated) for event in ended] == [(2, outcome, 1)]
    assert rig.claim(3, 1).error == ""
    assert round_status(server).state == "filled"


def test_completed_reports_keep_the_slot(rig: Rig, server: JobServer) -> None:
    """allocated does not fall on completed; the last report of a filled round ends it."""
    first, second = rig.claim(1, 1), rig.claim(2, 1)
    assert rig.report(1, 1, first.token).error == ""
    status = round_status(server)
    assert (status.state, status.allocated, status.held, status.completed) == ("filled", 2, 1, 1)
    assert rig.report(2, 1, second.token).error == ""
    assert round_status(server).state == "completed"
    assert rig.claim(3, 1).error == ErrorCode.ROUND_CLOSED


def test_enough_reports_are_enough(rig: Rig, server: JobServer) -> None:
    """A round is done by reports_min reports, but not before it was filled once."""
    server.do(EndRequest, round=0)
    server.start(3, reports_min=1)
    first = rig.claim(1, 1, 1)
    assert rig.report(1, 1, first.token, round_=1).error == ""
    assert round_status(server, 1).state == "open"
    rig.claim(2, 1, 1)
    rig.claim(3, 1, 1)
    status = round_status(server, 1)
    assert (status.state, status.held) == ("completed", 2)


def test_enough_after_a_loss(rig: Rig, server: JobServer) -> None:
    """A round that was filled and lost a slot again is done when enough others reported."""
    server.do(EndRequest, round=0)
    server.start(2, reports_min=1)
    first, second = rig.claim(1, 1, 1), rig.claim(2, 1, 1)
    assert rig.report(1, 1, first.token, Outcome.DROPPED, 1).error == ""
    assert round_status(server, 1).state == "open"
    assert rig.report(2, 1, second.token, Outcome.COMPLETED, 1).error == ""
    assert round_status(server, 1).state == "completed"


@pytest.mark.parametrize("verb", [EndRequest, CompleteJob, Cancel])
def test_reports_count_after_the_end(rig: Rig, server: JobServer, verb: type[EndRequest]) -> None:
    """Leases outlive their round; what they report is counted and reopens nothing."""
    first, second = rig.claim(1, 1), rig.claim(2, 1)
    server.do(verb, **({"round": 0} if verb is EndRequest else {}))
    assert rig.report(1, 1, first.token).error == ""
    assert rig.report(2, 1, second.token, Outcome.FAILED).error == ""
    status = round_status(server)
    assert (status.state, status.allocated, status.completed, status.failed) == ("ended", 1, 1, 1)
    assert rig.claim(3, 1).error == ErrorCode.ROUND_CLOSED


def test_one_lease_a_device(rig: Rig, server: JobServer) -> None:
    """A device that holds a lease gets no second one, of this or another job."""
    other = JobServer.registered(rig, "other")
    other.start(1)
    first = rig.claim(1, 1)
    assert rig.claim(1, 1, request=2).error == ErrorCode.DEVICE_BUSY
    assert rig.claim(1, 2, request=3).error == ErrorCode.DEVICE_BUSY
    assert rig.claim(1, 2, request=1, session=2).error == ErrorCode.DEVICE_BUSY
    assert rig.report(1, 1, first.token, request=2, session=2).error == ""
    assert rig.claim(1, 2, request=3, session=2).error == ""


def test_a_report_frees_the_device_for_a_claim_of_the_same_batch(
    rig: Rig, server: JobServer
) -> None:
    """Reports are decided before claims."""
    JobServer.registered(rig, "another").start(1)
    first = rig.claim(1, 1)
    report = ReportItem(device(1), 1, 2, b"r", 1, 0, first.token, Outcome.FAILED)
    answer = rig.claims([Claim(device(1), 1, 3, b"c", 2, 0, False)], [report])
    assert answer is not None
    assert (answer.reports[0].error, answer.claims[0].error) == ("", "")


def test_claims_of_what_is_not_there(rig: Rig, server: JobServer) -> None:
    """Unknown jobs and rounds that are over or to come are told apart from full ones."""
    assert rig.claim(1, 99).error == ErrorCode.UNKNOWN_JOB
    assert rig.claim(1, 1, 7, request=2).error == ErrorCode.ROUND_CLOSED
    server.do(EndRequest, round=0)
    server.start(1)
    assert rig.claim(1, 1, 0, request=3).error == ErrorCode.ROUND_CLOSED
    assert rig.claim(1, 1, 1, request=4).error == ""


def test_a_look_up_never_grants(rig: Rig, server: JobServer) -> None:
    """It finds the lease of this very request; otherwise the request is refused for good."""
    first = rig.claim(1, 1)
    assert rig.claim(1, 1, look_up=True) == first
    assert rig.claim(2, 1, look_up=True).error == ErrorCode.NOT_OFFERED
    assert rig.claim(2, 1).error == ErrorCode.NOT_OFFERED
    assert rig.claim(2, 1, request=2).error == ""


def test_stale_and_false_tokens_change_nothing(rig: Rig, server: JobServer) -> None:
    """A token counts once, for its own lease, job, round and device, and only unforged."""
    other = JobServer.registered(rig, "other")
    other.start(1)
    mine, theirs = rig.claim(1, 1), rig.claim(2, 2)
    forged = tokens.sign(
        b"guess", tokens.Lease(job=1, round=0, slot=0, lease=1, device_id=device(1))
    )
    refused = [
        rig.report(1, 1, forged),
        rig.report(1, 1, b""),
        rig.report(1, 1, theirs.token),
        rig.report(1, 2, theirs.token),
        rig.report(2, 1, mine.token),
        rig.report(1, 1, mine.token, round_=1),
        rig.report(1, 1, mine.token[:-1]),
    ]
    assert {result.error for result in refused} == {ErrorCode.STALE_TOKEN}
    assert rig.report(1, 99, mine.token).error == ErrorCode.UNKNOWN_JOB
    assert rig.report(1, 1, mine.token, Outcome.EXPIRED).error == ErrorCode.INVALID
    assert len(rig.core.book.leases) == 2
    assert rig.report(1, 1, mine.token, Outcome.FAILED).error == ""
    again = rig.claim(3, 1)
    assert rig.report(1, 1, mine.token, request=3).error == ErrorCode.STALE_TOKEN
    assert rig.round().allocated == 1
    assert rig.report(3, 1, again.token).error == ""


def test_leases_are_limited() -> None:
    """Above the operator's limit a claim is refused, and nothing is half done."""
    rig = Rig(leases_max=1)
    JobServer.registered(rig).start(2)
    assert rig.claim(1, 1).error == ""
    assert rig.claim(2, 1).error == ErrorCode.LIMIT


def test_the_sequence_number_covers_the_grant(rig: Rig, server: JobServer) -> None:
    """The result names the job event that tells the scheduler of the allocation."""
    rig.welcome_scheduler()
    answer = rig.claims([Claim(device(1), 1, 1, b"d", 1, 0, False)])
    assert answer is not None
    news = rig.answers("scheduler")[-1][1]
    assert news.kind == "job_events"
    assert getattr(news, "seq", None) == answer.seq
    again = rig.claims([Claim(device(1), 1, 1, b"d", 1, 0, False)])
    assert again is not None
    assert again.seq == answer.seq
