"""From the stored records back to memory, on the same boot of the machine or another.

* Same boot: monotonic times still mean the same. Leases run on, but none is declared dead before
  the grace is over; round deadlines are not extended.
* Another boot: the clock began anew. Every time is moved so that the time known to have passed
  stays passed and the time that the machine was off counts for nothing; leases get their full
  length again. The wall clock decides nothing, here or elsewhere.

Job servers get their full silence limit again in both cases. Raises StoreError on records that
cannot be read; the daemon then refuses to start instead of losing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappush

from daemons.job_manager.book import Book
from daemons.job_manager.records import (
    NEVER,
    RECORDS_VERSION,
    Clock,
    DeviceAnswer,
    FreeSlot,
    Job,
    JobAnswer,
    Lease,
    Meta,
    RecordT,
    Requirement,
    Round,
    ServedRound,
    Session,
    decode,
)
from daemons.job_manager.settings import JobManagerSettings
from daemons.store.interface import StoreError
from propius.core import SECOND_NS

Records = Mapping[str, Mapping[str, bytes]]

SEQ_STEP = 1 << 32  # job events of one start; more than any start can have


def recover(
    settings: JobManagerSettings,
    records: Records,
    *,
    boot_id: str,
    now_ns: int,
    wall_s: float,
    master_key: bytes,
) -> Book:
    """The book as of these records; what differs from them is marked for the first commit."""
    stored = _read(records, Meta)
    if stored:
        meta = stored[0]
        _check_version(meta)
    else:
        _refuse_orphans(records)
        meta = Meta(boot_id=boot_id, master_key=master_key, seq_base=0)
    book = Book(settings, meta, now_ns, wall_s)
    clocks = _read(records, Clock)
    shift_ns = 0
    if meta.boot_id != boot_id:
        shift_ns = now_ns - clocks[0].saved_ns if clocks else 0
    _fill(book, records, now_ns)
    if meta.boot_id != boot_id:
        _move_to_this_boot(book, now_ns, shift_ns)
    meta.boot_id = boot_id
    meta.seq_base += SEQ_STEP
    book.changes.put(meta)
    book.changes.put(book.clock)
    book.not_before_ns = now_ns + int(settings.lease_grace_s * SECOND_NS)
    return book


def _fill(book: Book, records: Records, now_ns: int) -> None:
    try:
        for requirement in _read(records, Requirement):
            book.add_requirement(requirement)
        for job in sorted(_read(records, Job), key=lambda job: job.job):
            book.add_job(job, now_ns)
        for round_ in sorted(_read(records, Round), key=lambda r: (r.job, r.round)):
            book.add_round(round_)
        for free in _read(records, FreeSlot):
            heappush(book.free[free.job, free.round], free.slot)
        for lease in sorted(_read(records, Lease), key=lambda lease: lease.lease):
            book.add_lease(lease)
        book.served.restore(_read(records, ServedRound))
    except KeyError as error:
        raise StoreError(
            f"store: a record refers to {error}, which is not there; restore the store from a copy"
        ) from error
    book.finished = type(book.finished)(
        sorted(book.finished.items(), key=lambda item: (item[1], item[0]))
    )
    book.sessions.restore(_read(records, Session), _read(records, JobAnswer))
    book.device_answers.restore(now_ns, _read(records, DeviceAnswer))


def _move_to_this_boot(book: Book, now_ns: int, shift_ns: int) -> None:
    for job in book.jobs.values():
        job.registered_ns += shift_ns
        if job.job in book.finished:
            job.finished_ns += shift_ns
            book.finished[job.job] = job.finished_ns
        if job.backoff_until_ns != NEVER:
            job.backoff_until_ns = _moved(job.backoff_until_ns, shift_ns)
        if book.backoff_due.get(job.job) is not None:
            book.backoff_due.set(job.job, job.backoff_until_ns)
        book.changes.put(job)
    for ref, round_ in book.rounds.items():
        _move_round(round_, shift_ns)
        if book.round_due.get(ref) is not None:
            book.round_due.set(ref, round_.deadline_ns)
        book.changes.put(round_)
    for lease in book.leases.values():
        lease.deadline_ns = now_ns + int(lease.lease_s * SECOND_NS)
        book.lease_due.set(lease.lease, lease.deadline_ns)
        book.changes.put(lease)


def _move_round(round_: Round, shift_ns: int) -> None:
    round_.opened_ns += shift_ns
    for name in ("deadline_ns", "filled_ns", "enough_ns", "ended_ns"):
        before_ns: int = getattr(round_, name)
        if before_ns != NEVER:
            setattr(round_, name, _moved(before_ns, shift_ns))


def _moved(time_ns: int, shift_ns: int) -> int:
    """A time that has come or will, on this boot's clock: never the one that means NEVER."""
    moved_ns = time_ns + shift_ns
    return moved_ns if moved_ns != NEVER else NEVER - 1


def _read(records: Records, cls: type[RecordT]) -> list[RecordT]:
    return [decode(cls, key, value) for key, value in sorted(records.get(cls.table, {}).items())]


def _check_version(meta: Meta) -> None:
    if meta.version != RECORDS_VERSION:
        raise StoreError(
            f"store: records have version {meta.version}, this version of Propius reads"
            f" {RECORDS_VERSION}: run the version that wrote them"
        )


def _refuse_orphans(records: Records) -> None:
    """Records without their master key are not an empty store: starting anew would forge ids."""
    left = [table for table, rows in records.items() if rows]
    if left:
        raise StoreError(
            f"store: table {Meta.table} is missing beside {', '.join(sorted(left))};"
            " restore the store from a copy"
        )
