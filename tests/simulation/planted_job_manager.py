"""Planted bugs of the job manager: asking twice, durability, slots, leases, time, verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from daemons.job_manager import (
    answers,
    book,
    claims,
    core,
    outbox,
    queries,
    recovery,
    rounds,
    timers,
    verbs,
    watches,
)
from daemons.job_manager.records import Job, Lease, Round
from propius import tokens
from propius.core import SECOND_NS
from propius.messages import Claim, ErrorCode, JobList, Outcome, ReportItem, ReportResult
from tests.simulation.planted import bug


def _spoil_recovery(
    plant: pytest.MonkeyPatch, spoil: Callable[[book.Book, int, float], None]
) -> None:
    """``spoil(book, now_ns, wall_s)`` has its way with what a job manager starts from."""
    right = recovery.recover

    def recover(*args: Any, now_ns: int, wall_s: float, **fields: Any) -> book.Book:
        recovered = right(*args, now_ns=now_ns, wall_s=wall_s, **fields)
        spoil(recovered, now_ns, wall_s)
        return recovered

    plant.setattr(core, "recover", recover)


# --- asking twice --------------------------------------------------------------------------------


@bug(found_by="lost its lease before its time", seed=8)
def forgotten_answer_of_a_device(plant: pytest.MonkeyPatch) -> None:
    """A report that comes twice is judged twice."""
    plant.setattr(answers.DeviceAnswers, "recall", lambda *_: (None, ""))


@bug(found_by="asked for", seed=10)
def forgotten_answer_of_a_job_server(plant: pytest.MonkeyPatch) -> None:
    """A register or start_request that comes twice happens twice."""
    plant.setattr(answers.SessionMemory, "recall", lambda *_: None)


@bug(found_by="lost its lease before its time", seed=8)
def answers_not_restored(plant: pytest.MonkeyPatch) -> None:
    """What devices were answered is forgotten by a restart."""
    plant.setattr(answers.DeviceAnswers, "restore", lambda *_: None)


@bug(found_by="a stranger's", seed=6)
def another_body_taken_for_a_repeat(plant: pytest.MonkeyPatch) -> None:
    """Another request under a number that was answered gets that answer."""
    right = answers.SessionMemory.recall

    def recall(self: answers.SessionMemory, request: int, digest: bytes) -> Any:
        known = self.answers.get(request)
        return right(self, request, digest if known is None else known.digest)

    plant.setattr(answers.SessionMemory, "recall", recall)


# --- durability ----------------------------------------------------------------------------------


@bug(found_by="acknowledged, but not durable", seed=1)
def acknowledged_before_the_commit(plant: pytest.MonkeyPatch) -> None:
    """Answers leave at once instead of after their commit."""
    right = outbox.Outbox.ready

    def ready(self: outbox.Outbox, _committed: int) -> Iterator[outbox.Staged]:
        return right(self, 1 << 62)

    plant.setattr(outbox.Outbox, "ready", ready)


@bug(found_by="leases differ", seed=11)
def lease_lost_in_recovery(plant: pytest.MonkeyPatch) -> None:
    """The newest lease is not read back."""
    right = recovery._read

    def read(records: Any, cls: Any) -> Any:
        found = right(records, cls)
        return found[:-1] if cls is Lease else found

    plant.setattr(recovery, "_read", read)


@bug(found_by="jobs differ from the store", seed=1)
def pause_not_stored(plant: pytest.MonkeyPatch) -> None:
    """A pause lives in memory only."""

    def set_paused(_book: book.Book, job: Any, verb: str) -> None:
        job.paused = verb == "pause"

    plant.setattr(verbs, "_set_paused", set_paused)


@bug(found_by="number was not given", seed=3)
def lease_numbers_given_twice(plant: pytest.MonkeyPatch) -> None:
    """The next lease number falls back at a restart."""

    def spoil(recovered: book.Book, _now_ns: int, _wall_s: float) -> None:
        recovered.meta.next_lease = max(1, recovered.meta.next_lease - 2)

    _spoil_recovery(plant, spoil)


@bug(found_by="not finished", seed=1)
def busy_never_lifted_after_a_failed_commit(plant: pytest.MonkeyPatch) -> None:
    """The store takes commits again, and everybody still hears that it does not."""
    right = core.JobManagerCore.committed

    def committed(self: core.JobManagerCore, now_ns: int, number: int) -> None:
        failed = self._failed, self._failure
        right(self, now_ns, number)
        self._failed, self._failure = failed

    plant.setattr(core.JobManagerCore, "committed", committed)


# --- slots and leases ----------------------------------------------------------------------------


@bug(found_by="report counted twice", seed=1)
def stale_token_accepted(plant: pytest.MonkeyPatch) -> None:
    """A report with a token that has lost its right is acknowledged."""
    right = claims.decide_report

    def decide(its_book: book.Book, now_ns: int, item: ReportItem) -> Any:
        result = right(its_book, now_ns, item)
        stale = result.error == ErrorCode.STALE_TOKEN
        return claims.refused_report(item, "") if stale else result

    plant.setattr(core, "decide_report", decide)


@bug(found_by="a slot is free twice", seed=1)
def slot_returned_twice(plant: pytest.MonkeyPatch) -> None:
    """A slot that is lost is free two times."""
    right = book.Book.return_slot

    def return_slot(self: book.Book, round_: Round, slot: int) -> None:
        right(self, round_, slot)
        right(self, round_, slot)

    plant.setattr(book.Book, "return_slot", return_slot)


@bug(found_by=": held ", seed=1)
def slot_not_returned(plant: pytest.MonkeyPatch) -> None:
    """A slot that is lost stays allocated."""
    right = rounds._lose

    def lose(its_book: book.Book, job: Any, round_: Round, lease: Lease, outcome: Any) -> None:
        right(its_book, job, round_, lease, outcome)
        round_.allocated += 1

    plant.setattr(rounds, "_lose", lose)


@bug(found_by=" of ", seed=1)
def allocated_past_demand(plant: pytest.MonkeyPatch) -> None:
    """A round that is filled is given to one more."""
    _ignore_refusal(plant, ErrorCode.ROUND_FULL)


@bug(found_by="a device holds two leases", seed=1)
def two_leases_for_one_device(plant: pytest.MonkeyPatch) -> None:
    """A device that holds a lease gets another."""
    _ignore_refusal(plant, ErrorCode.DEVICE_BUSY)


@bug(found_by="its rounds", seed=2)
def report_counted_twice(plant: pytest.MonkeyPatch) -> None:
    """One report of completion counts as two for its job."""
    right = rounds.release

    def release(its_book: book.Book, now_ns: int, lease: Lease, outcome: Outcome) -> None:
        right(its_book, now_ns, lease, outcome)
        if outcome is Outcome.COMPLETED:
            its_book.jobs[lease.job].devices_completed += 1
            its_book.changes.put(its_book.jobs[lease.job])

    plant.setattr(claims, "release", release)


@bug(found_by="a stranger's report got", seed=6)
def report_of_another_device_taken(plant: pytest.MonkeyPatch) -> None:
    """A token is good in the hands of any device."""
    right = claims.decide_report

    def decide(its_book: book.Book, now_ns: int, item: ReportItem) -> ReportResult:
        for lease in its_book.leases.values():
            if lease.device_id.encode() in item.token:
                owners = msgspec.structs.replace(item, device_id=lease.device_id)
                result = right(its_book, now_ns, owners)
                return claims.refused_report(item, result.error)
        return right(its_book, now_ns, item)

    plant.setattr(core, "decide_report", decide)


@bug(found_by="a stranger's accept got", seed=1)
def look_up_that_claims(plant: pytest.MonkeyPatch) -> None:
    """An accept of what was never offered gets a slot."""
    right = claims._refusal

    def refusal(its_book: book.Book, claim: Claim, round_: Round | None) -> str:
        return right(its_book, msgspec.structs.replace(claim, look_up=False), round_)

    plant.setattr(claims, "_refusal", refusal)


# --- leases and time -----------------------------------------------------------------------------


@bug(found_by="expired after", seed=1)
def lease_cut_short(plant: pytest.MonkeyPatch) -> None:
    """A lease expires in half its time."""
    right = book.Book.add_lease

    def add_lease(self: book.Book, lease: Lease) -> None:
        right(self, lease)
        length_ns = int(lease.lease_s * SECOND_NS)
        lease.deadline_ns = lease.deadline_ns - length_ns // 2
        self.lease_due.set(lease.lease, lease.deadline_ns)

    plant.setattr(book.Book, "add_lease", add_lease)


@bug(found_by="not finished", seed=3)
def lease_by_the_clock_of_another_boot(plant: pytest.MonkeyPatch) -> None:
    """After a reboot deadlines still mean the old clock."""
    plant.setattr(recovery, "_move_to_this_boot", lambda *_: None)


@bug(found_by="after a restart", seed=2)
def no_grace_after_a_restart(plant: pytest.MonkeyPatch) -> None:
    """Devices are declared dead for a silence that nobody listened to."""

    def spoil(recovered: book.Book, now_ns: int, _wall_s: float) -> None:
        recovered.not_before_ns = now_ns

    _spoil_recovery(plant, spoil)


@bug(found_by="expired after", seed=3)
def lease_by_the_wall_clock(plant: pytest.MonkeyPatch) -> None:
    """After a restart leases run by the wall clock, which may have jumped."""

    def spoil(recovered: book.Book, now_ns: int, wall_s: float) -> None:
        for lease in recovered.leases.values():
            left_ns = int(wall_s * SECOND_NS) % int(lease.lease_s * SECOND_NS)
            lease.deadline_ns = now_ns + left_ns
            recovered.lease_due.set(lease.lease, lease.deadline_ns)
            recovered.changes.put(lease)

    _spoil_recovery(plant, spoil)


@bug(found_by="past its deadline", seed=123)
def deadline_extended_by_a_restart(plant: pytest.MonkeyPatch) -> None:
    """A round gets more time when the job manager is started again."""

    def spoil(recovered: book.Book, _now_ns: int, _wall_s: float) -> None:
        for ref, round_ in recovered.rounds.items():
            if recovered.round_due.get(ref) is not None:
                round_.deadline_ns += 10 * SECOND_NS
                recovered.round_due.set(ref, round_.deadline_ns)
                recovered.changes.put(round_)

    _spoil_recovery(plant, spoil)


@bug(found_by="expired after", seed=2)
def job_expired_before_its_time(plant: pytest.MonkeyPatch) -> None:
    """A job server is given up after a tenth of the silence that is allowed."""
    right = book.Book.silence_ns
    plant.setattr(book.Book, "silence_ns", lambda self: right(self) // 10)


@bug(found_by="a job never ended", seed=6)
def silent_job_kept_for_ever(plant: pytest.MonkeyPatch) -> None:
    """A job whose server has died is never expired."""

    def end_job(its_book: book.Book, now_ns: int, job: Job, event: str, reason: str) -> None:
        its_book.silence_due.set(job.job, now_ns + its_book.silence_ns())

    plant.setattr(timers, "end_job", end_job)


# --- verbs of a job ------------------------------------------------------------------------------


@bug(found_by="is not told to", seed=1)
def watch_round_that_misses_a_change(plant: pytest.MonkeyPatch) -> None:
    """Of the rounds that one batch changes, the first is not told to those who watch it."""
    right = watches.Watches.changed

    def changed(self: watches.Watches, now_ns: int, of_rounds: Any) -> Any:
        return right(self, now_ns, list(of_rounds)[1:])

    plant.setattr(watches.Watches, "changed", changed)


@bug(found_by="a stranger's", seed=1)
def wrong_secret_accepted(plant: pytest.MonkeyPatch) -> None:
    """Any secret opens every job."""
    plant.setattr(tokens, "matches", lambda *_: True)


@bug(found_by="are not listed", seed=1)
def job_list_cut_short(plant: pytest.MonkeyPatch) -> None:
    """A list says that it is complete when it is only full."""
    right = queries.list_jobs

    def list_jobs(*args: Any) -> JobList:
        return msgspec.structs.replace(right(*args), more=False)

    plant.setattr(verbs, "list_jobs", list_jobs)


def _ignore_refusal(plant: pytest.MonkeyPatch, code: ErrorCode) -> None:
    right = claims._refusal

    def refusal(its_book: book.Book, claim: Claim, round_: Round | None) -> str:
        why = right(its_book, claim, round_)
        return "" if why == code else why

    plant.setattr(claims, "_refusal", refusal)
