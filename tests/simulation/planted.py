"""Bugs by name, planted by tests only: each shows that the harness can see what it looks for.

A bug is a function that breaks one thing through ``plant`` (pytest's MonkeyPatch), and a number of
seeds within which it must be found. Add one whenever an invariant is added.

Not here: the invariants (:mod:`tests.simulation.oracle`, :mod:`tests.simulation.durable`, and each
core's ``check_invariants``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemons.job_manager import answers, book, claims, core, outbox, recovery, rounds, verbs
from daemons.job_manager.records import Lease, Round
from daemons.scheduler import core as scheduler
from daemons.scheduler.jobs import JobTable
from propius import engine
from propius.core import SECOND_NS
from propius.messages import Claim, ErrorCode, JobEvents, PlannedGroup, ReportItem, Snapshot

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, tuple[Plant, int]] = {}
"""Name → (how it is planted, seeds within which it must be found)."""


def bug(*, within_seeds: int) -> Callable[[Plant], Plant]:
    """Put the bug into the table under its function's name."""

    def register(plant: Plant) -> Plant:
        BUGS[plant.__name__] = (plant, within_seeds)
        return plant

    return register


# --- asking twice --------------------------------------------------------------------------------


@bug(within_seeds=20)
def forgotten_answer_of_a_device(plant: pytest.MonkeyPatch) -> None:
    """A report that comes twice is judged twice."""
    plant.setattr(answers.DeviceAnswers, "recall", lambda *_: (None, ""))


@bug(within_seeds=60)
def forgotten_answer_of_a_job_server(plant: pytest.MonkeyPatch) -> None:
    """A register or start_request that comes twice happens twice."""
    plant.setattr(answers.SessionMemory, "recall", lambda *_: None)


@bug(within_seeds=60)
def answers_not_restored(plant: pytest.MonkeyPatch) -> None:
    """What devices were answered is forgotten by a restart."""
    plant.setattr(answers.DeviceAnswers, "restore", lambda *_: None)


# --- durability ----------------------------------------------------------------------------------


@bug(within_seeds=5)
def acknowledged_before_the_commit(plant: pytest.MonkeyPatch) -> None:
    """Answers leave at once instead of after their commit."""
    right = outbox.Outbox.ready

    def ready(self: outbox.Outbox, _committed: int) -> Iterator[outbox.Staged]:
        return right(self, 1 << 62)

    plant.setattr(outbox.Outbox, "ready", ready)


@bug(within_seeds=20)
def lease_lost_in_recovery(plant: pytest.MonkeyPatch) -> None:
    """The newest lease is not read back."""
    right = recovery._read

    def read(records: Any, cls: Any) -> Any:
        found = right(records, cls)
        return found[:-1] if cls is Lease else found

    plant.setattr(recovery, "_read", read)


@bug(within_seeds=20)
def pause_not_stored(plant: pytest.MonkeyPatch) -> None:
    """A pause lives in memory only."""

    def set_paused(_book: book.Book, job: Any, verb: str) -> None:
        job.paused = verb == "pause"

    plant.setattr(verbs, "_set_paused", set_paused)


@bug(within_seeds=20)
def lease_numbers_given_twice(plant: pytest.MonkeyPatch) -> None:
    """The next lease number falls back at a restart."""
    right = recovery.recover

    def recover(*args: Any, **fields: Any) -> book.Book:
        recovered = right(*args, **fields)
        recovered.meta.next_lease = max(1, recovered.meta.next_lease - 2)
        return recovered

    plant.setattr(core, "recover", recover)


# --- slots and leases ----------------------------------------------------------------------------


@bug(within_seeds=5)
def stale_token_accepted(plant: pytest.MonkeyPatch) -> None:
    """A report with a token that has lost its right is acknowledged."""
    right = claims.decide_report

    def decide(its_book: book.Book, now_ns: int, item: ReportItem) -> Any:
        result = right(its_book, now_ns, item)
        stale = result.error == ErrorCode.STALE_TOKEN
        return claims.refused_report(item, "") if stale else result

    plant.setattr(core, "decide_report", decide)


@bug(within_seeds=5)
def slot_returned_twice(plant: pytest.MonkeyPatch) -> None:
    """A slot that is lost is free two times."""
    right = book.Book.return_slot

    def return_slot(self: book.Book, round_: Round, slot: int) -> None:
        right(self, round_, slot)
        right(self, round_, slot)

    plant.setattr(book.Book, "return_slot", return_slot)


@bug(within_seeds=5)
def slot_not_returned(plant: pytest.MonkeyPatch) -> None:
    """A slot that is lost stays allocated."""
    right = rounds._lose

    def lose(its_book: book.Book, job: Any, round_: Round, lease: Lease, outcome: Any) -> None:
        right(its_book, job, round_, lease, outcome)
        round_.allocated += 1

    plant.setattr(rounds, "_lose", lose)


@bug(within_seeds=5)
def allocated_past_demand(plant: pytest.MonkeyPatch) -> None:
    """A round that is filled is given to one more."""
    _ignore_refusal(plant, ErrorCode.ROUND_FULL)


@bug(within_seeds=20)
def two_leases_for_one_device(plant: pytest.MonkeyPatch) -> None:
    """A device that holds a lease gets another."""
    _ignore_refusal(plant, ErrorCode.DEVICE_BUSY)


@bug(within_seeds=20)
def lease_cut_short(plant: pytest.MonkeyPatch) -> None:
    """A lease expires in half its time."""
    right = book.Book.add_lease

    def add_lease(self: book.Book, lease: Lease) -> None:
        right(self, lease)
        length_ns = int(lease.lease_s * SECOND_NS)
        lease.deadline_ns = lease.deadline_ns - length_ns // 2
        self.lease_due.set(lease.lease, lease.deadline_ns)

    plant.setattr(book.Book, "add_lease", add_lease)


@bug(within_seeds=100)
def lease_by_the_clock_of_another_boot(plant: pytest.MonkeyPatch) -> None:
    """After a reboot deadlines still mean the old clock."""
    plant.setattr(recovery, "_move_to_this_boot", lambda *_: None)


@bug(within_seeds=60)
def no_grace_after_a_restart(plant: pytest.MonkeyPatch) -> None:
    """Devices are declared dead for a silence that nobody listened to."""
    right = recovery.recover

    def recover(*args: Any, now_ns: int, **fields: Any) -> book.Book:
        recovered = right(*args, now_ns=now_ns, **fields)
        recovered.not_before_ns = now_ns
        return recovered

    plant.setattr(core, "recover", recover)


def _ignore_refusal(plant: pytest.MonkeyPatch, code: ErrorCode) -> None:
    right = claims._refusal

    def refusal(its_book: book.Book, claim: Claim, round_: Round | None) -> str:
        why = right(its_book, claim, round_)
        return "" if why == code else why

    plant.setattr(claims, "_refusal", refusal)


# --- plans and offers ----------------------------------------------------------------------------


@bug(within_seeds=20)
def snapshot_with_a_gap(plant: pytest.MonkeyPatch) -> None:
    """The newest job is missing in what a scheduler begins with."""

    def snapshot(*, seq: int, jobs: list[Any]) -> Snapshot:
        return Snapshot(seq=seq, jobs=jobs[:-1])

    plant.setattr(core, "Snapshot", snapshot)


@bug(within_seeds=60)
def gap_in_job_events_overlooked(plant: pytest.MonkeyPatch) -> None:
    """A scheduler that misses an event goes on as if it had not."""
    right = JobTable.take_events

    def take_events(self: JobTable, incarnation: int, events: JobEvents) -> bool:
        if events.first_seq > self.seq + 1 and incarnation == self.incarnation:
            self.seq = events.first_seq - 1
        return right(self, incarnation, events)

    plant.setattr(JobTable, "take_events", take_events)
    plant.setattr(JobTable, "heard_of", lambda *_: None)


@bug(within_seeds=5)
def requirement_ignored(plant: pytest.MonkeyPatch) -> None:
    """Plans ask for nothing, so that everybody is eligible."""

    def group(requirement_id: int, requirement: list[float], rounds_: list[Any]) -> PlannedGroup:
        return PlannedGroup(requirement_id, [0.0] * len(requirement), rounds_)

    plant.setattr(scheduler, "PlannedGroup", group)


@bug(within_seeds=20)
def quota_not_returned(plant: pytest.MonkeyPatch) -> None:
    """A refused claim keeps its charge in the client manager."""
    right = engine.Matcher

    class Matcher:
        def __init__(self, **settings: Any) -> None:
            self._right = right(**settings)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._right, name)

        def refused(self, _now_ns: int, _device: str) -> bool:
            return False

    plant.setattr(engine, "Matcher", Matcher)
