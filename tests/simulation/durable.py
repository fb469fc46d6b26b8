"""What the job manager has made durable, read back commit by commit, and what must hold of it.

This is the ground truth: whatever is acknowledged must be here, and nothing here may go backwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from daemons.job_manager import records
from propius.core import Change, Put
from tests.simulation.host import InvariantError

RoundRef = tuple[int, int]
_TABLES: Final[dict[str, msgspec.msgpack.Decoder[records.Record]]] = {
    cls.table: msgspec.msgpack.Decoder(cls)
    for cls in (records.Meta, records.Requirement, records.Job, records.Round, records.Lease)
}
LIVE_ROUND_STATES: Final = frozenset({"open", "filled"})
LIVE_JOB_STATES: Final = frozenset({"idle", "requesting"})


class Durable:
    """The durable records, decoded; :meth:`apply` follows the store."""

    def __init__(self) -> None:
        self.meta: records.Meta | None = None
        self.requirements: dict[int, records.Requirement] = {}
        self.jobs: dict[int, records.Job] = {}
        self.rounds: dict[RoundRef, records.Round] = {}
        self.leases: dict[int, records.Lease] = {}
        self.ended: dict[int, records.Lease] = {}  # leases that were held once
        self.rounds_over: set[RoundRef] = set()
        self._held: dict[RoundRef, dict[int, records.Lease]] = {}
        self._greatest = 0

    def apply(self, changes: Iterable[Change]) -> None:
        """A commit is durable."""
        touched: dict[RoundRef, None] = {}
        fresh: list[records.Lease] = []
        for change in changes:
            decoder = _TABLES.get(change.table)
            if decoder is None:
                continue
            if isinstance(change, Put):
                self._put(decoder.decode(change.value), touched, fresh)
            else:
                self._delete(change.table, change.key, touched)
        for lease in sorted(fresh, key=lambda lease: lease.lease):
            check(lease.lease > self._greatest, f"lease {lease.lease} is not a new number", lease)
            self._greatest = lease.lease
        if fresh:
            self._check_devices()
        for ref in touched:
            self._check_round(ref)

    def _put(
        self,
        record: records.Record,
        touched: dict[RoundRef, None],
        fresh: list[records.Lease],
    ) -> None:
        match record:
            case records.Meta():
                self._put_meta(record)
            case records.Requirement():
                self.requirements[record.requirement_id] = record
            case records.Job():
                self._put_job(record)
            case records.Round():
                self._put_round(record)
                touched[record.job, record.round] = None
            case records.Lease():
                if record.lease not in self.leases:
                    fresh.append(record)
                self.leases[record.lease] = record
                self._held.setdefault((record.job, record.round), {})[record.lease] = record
                touched[record.job, record.round] = None
            case _:
                pass

    def _delete(self, table: str, key: str, touched: dict[RoundRef, None]) -> None:
        match table:
            case "leases":
                lease = self.leases.pop(int(key))
                self.ended[lease.lease] = lease
                del self._held[lease.job, lease.round][lease.lease]
                touched[lease.job, lease.round] = None
            case "rounds":
                job, _, number = key.partition("/")
                del self.rounds[int(job), int(number)]
            case "jobs":
                del self.jobs[int(key)]
            case _:
                pass

    def _put_meta(self, meta: records.Meta) -> None:
        if (was := self.meta) is not None:
            for name in ("next_job", "next_requirement", "next_lease", "next_session", "seq_base"):
                now, before = getattr(meta, name), getattr(was, name)
                check(now >= before, f"meta.{name} fell from {before} to {now}", meta)
            check(meta.master_key == was.master_key, "the master key changed", meta)
        self.meta = meta

    def _put_job(self, job: records.Job) -> None:
        if (was := self.jobs.get(job.job)) is not None:
            check(job.round >= was.round, f"round fell from {was.round} to {job.round}", job)
            over = str(was.state) not in LIVE_JOB_STATES
            check(not over or job.state == was.state, f"it was {was.state}", job)
        self.jobs[job.job] = job

    def _put_round(self, round_: records.Round) -> None:
        was = self.rounds.get((round_.job, round_.round))
        if was is not None:
            for name in ("version", "completed", "failed", "expired"):
                now, before = getattr(round_, name), getattr(was, name)
                check(now >= before, f"{name} fell from {before} to {now}", round_)
            over = str(was.state) not in LIVE_ROUND_STATES
            check(not over or round_.state == was.state, f"it was {was.state}", round_)
        self.rounds[round_.job, round_.round] = round_
        if str(round_.state) not in LIVE_ROUND_STATES:
            self.rounds_over.add((round_.job, round_.round))

    def _check_round(self, ref: RoundRef) -> None:
        round_ = self.rounds.get(ref)
        held = self._held.get(ref, {})
        if round_ is None:
            check(not held, "leases of a round that is gone", ref)
            return
        check(0 <= round_.allocated <= round_.demand, "allocated is out of bounds", round_)
        together = round_.completed + len(held)
        check(round_.allocated == together, f"{together} held or completed", round_)
        slots = [lease.slot for lease in held.values()]
        check(len(set(slots)) == len(slots), "a slot was given twice", held)
        check(all(0 <= slot < round_.demand for slot in slots), "a slot beyond demand", held)

    def _check_devices(self) -> None:
        devices = [lease.device_id for lease in self.leases.values()]
        check(len(set(devices)) == len(devices), "a device holds two leases", self.leases)


def check(holds: bool, text: str, what: object) -> None:
    """Raise if something does not hold."""
    if not holds:
        raise InvariantError(f"{text}: {what}")
