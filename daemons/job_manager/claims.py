"""What a device that wants a slot, or reports on one, is told; asked by client managers in batches.

The order of the checks is the contract: first what this very request was answered before, then
whether the round and the device are free for it. Not here: what a grant or a report does to the
round (``rounds.py``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from daemons.job_manager.backoff import slots_allowed
from daemons.job_manager.book import Book
from daemons.job_manager.records import DeviceAnswer, Round
from daemons.job_manager.rounds import grant, release
from daemons.job_manager.states import RoundState
from propius import tokens
from propius.errors import StaleTokenError
from propius.messages import Claim, ClaimResult, ErrorCode, Outcome, ReportItem, ReportResult

_ENCODE: Final = msgspec.msgpack.Encoder().encode
_CLAIM_RESULT: Final = msgspec.msgpack.Decoder(ClaimResult)
_REPORT_RESULT: Final = msgspec.msgpack.Decoder(ReportResult)

REPORTED: Final = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.DROPPED})


def decide_claim(book: Book, now_ns: int, manager: int, claim: Claim) -> ClaimResult:
    """Grant or refuse a claim, or repeat what it was answered; the answer is remembered."""
    asked = _asked(claim, "claim")
    known, why = book.device_answers.recall(asked)
    if known is not None:
        return _CLAIM_RESULT.decode(known.result)
    if why:
        return refused_claim(claim, why)
    round_ = book.rounds.get((claim.job, claim.round))
    why = _refusal(book, claim, round_)
    if why == ErrorCode.ALREADY_SERVED and round_ is not None:
        _turned_away(book, round_)
    if why or round_ is None:
        result = refused_claim(claim, why)
    else:
        result = _granted(book, now_ns, manager, claim, round_)
    asked.result = _ENCODE(result)
    book.device_answers.remember(now_ns, asked)
    return result


def decide_report(book: Book, now_ns: int, item: ReportItem) -> ReportResult:
    """Take or refuse a report, or repeat what it was answered.

    A refusal is not remembered: a token that is stale once is stale for ever.
    """
    asked = _asked(item, "report")
    known, why = book.device_answers.recall(asked)
    if known is not None:
        return _REPORT_RESULT.decode(known.result)
    if why:
        return refused_report(item, why)
    if item.outcome not in REPORTED:
        return refused_report(item, ErrorCode.INVALID)
    secret = book.secrets.get(item.job)
    if secret is None:
        return refused_report(item, ErrorCode.UNKNOWN_JOB)
    try:
        told = tokens.verify(secret, item.token)
    except StaleTokenError:
        return refused_report(item, ErrorCode.STALE_TOKEN)
    lease = book.leases.get(told.lease)
    # The token alone proves the right; job, round and device must be what it was signed for.
    named = (item.job, item.round, item.device_id)
    if lease is None or named != (told.job, told.round, told.device_id):
        return refused_report(item, ErrorCode.STALE_TOKEN)
    release(book, now_ns, lease, item.outcome)
    result = refused_report(item, "")
    asked.result = _ENCODE(result)
    book.device_answers.remember(now_ns, asked)
    return result


def refused_claim(claim: Claim, why: str) -> ClaimResult:
    """The answer to a claim that gets no slot."""
    return ClaimResult(
        claim.device_id, claim.session, claim.request, why, claim.job, claim.round, "", 0.0, b""
    )


def refused_report(item: ReportItem, why: str) -> ReportResult:
    """The answer to a report; ``why`` is "" if it was taken."""
    return ReportResult(item.device_id, item.session, item.request, why)


def _refusal(book: Book, claim: Claim, round_: Round | None) -> str:
    """Why this new claim gets no slot; "" if it gets one."""
    if claim.look_up:
        # Remembered like any answer, so that a claim of the same accept that is still under way
        # from a manager that died cannot be granted after the device was told no.
        return ErrorCode.NOT_OFFERED
    job = book.jobs.get(claim.job)
    if job is None:
        return ErrorCode.UNKNOWN_JOB
    if round_ is None:
        return ErrorCode.ROUND_CLOSED
    if round_.state is RoundState.FILLED and not job.paused:
        return ErrorCode.ROUND_FULL
    if round_.state is not RoundState.OPEN or job.paused:
        return ErrorCode.ROUND_CLOSED
    if book.served.has((claim.job, claim.round), claim.device_id):
        return ErrorCode.ALREADY_SERVED
    if slots_allowed(book, job) <= 0:
        return ErrorCode.JOB_BACKS_OFF
    if claim.device_id in book.lease_of:
        return ErrorCode.DEVICE_BUSY
    if len(book.leases) >= book.settings.leases_max:
        return ErrorCode.LIMIT
    return ""


def _turned_away(book: Book, round_: Round) -> None:
    """A device that served the round came again; the first one is news for whoever watches."""
    if not round_.runs_short:
        round_.runs_short = True
        book.round_changed(round_)


def _granted(book: Book, now_ns: int, manager: int, claim: Claim, round_: Round) -> ClaimResult:
    lease = grant(book, now_ns, round_, claim.device_id, manager)
    token = tokens.sign(
        book.secrets[lease.job],
        tokens.Lease(
            job=lease.job,
            round=lease.round,
            slot=lease.slot,
            lease=lease.lease,
            device_id=lease.device_id,
        ),
    )
    endpoint = book.jobs[lease.job].endpoint
    return ClaimResult(
        claim.device_id,
        claim.session,
        claim.request,
        "",
        lease.job,
        lease.round,
        endpoint,
        lease.lease_s,
        token,
    )


def _asked(item: Claim | ReportItem, kind: str) -> DeviceAnswer:
    return DeviceAnswer(
        device_id=item.device_id,
        session=item.session,
        request=item.request,
        digest=item.digest,
        kind=kind,
        result=b"",
    )
