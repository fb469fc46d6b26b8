"""What the job manager writes down: one class a table, each record versioned by ``Meta.version``.

The same objects are the job manager's memory: a handler changes one and marks it in
:class:`Changes`; the batch's commit then has each changed record once, as it was at the end of the
batch. All times are nanoseconds of the monotonic clock of the boot that ``Meta.boot_id`` names.

Not here: how records become memory again after a restart (``recovery.py``).
"""

from __future__ import annotations

from typing import ClassVar, Final, TypeVar

import msgspec
from msgspec import Struct

from daemons.job_manager.states import BackOff, JobState, RoundState
from daemons.store.interface import StoreError
from propius.core import Change, Delete, Put

RECORDS_VERSION: Final = 1
NEVER: Final = -1
"""A time that has not come, and no other value: after a reboot past times may be below zero."""

_ENCODE: Final = msgspec.msgpack.Encoder().encode


class Record(Struct, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A row of one table."""

    table: ClassVar[str] = ""

    def key(self) -> str:
        """The row's key in its table."""
        raise NotImplementedError


class Meta(Record, kw_only=True):
    """One row: the master key, and the numbers that are never given twice."""

    table: ClassVar[str] = "meta"
    version: int = RECORDS_VERSION
    boot_id: str
    master_key: bytes
    seq_base: int  # first job event of this start is the next one; grows by 2^32 a start
    next_job: int = 1
    next_requirement: int = 0
    next_lease: int = 1
    next_session: int = 1

    def key(self) -> str:
        return "state"


class Clock(Record, kw_only=True):
    """One row: the monotonic time that is known to have passed on this boot."""

    table: ClassVar[str] = "clock"
    saved_ns: int

    def key(self) -> str:
        return "saved"


class Requirement(Record, kw_only=True):
    """A distinct public constraint that some job has."""

    table: ClassVar[str] = "requirements"
    requirement_id: int
    vector: list[float]

    def key(self) -> str:
        return str(self.requirement_id)


class Job(Record, kw_only=True):
    """A job, live or finished, with the sums that its means are made from."""

    table: ClassVar[str] = "jobs"
    job: int
    name: str
    requirement_id: int
    private_constraint: dict[str, float]
    demand: int
    rounds: int
    endpoint: str
    registered_ns: int
    registered_at_s: float  # wall clock, for people
    state: JobState = JobState.IDLE
    paused: bool = False
    reason: str = ""
    finished_ns: int = NEVER
    round: int = -1  # the current or last round
    rounds_done: int = 0
    devices_completed: int = 0
    devices_failed: int = 0
    devices_expired: int = 0
    filled_rounds: int = 0
    delay_sum_ns: int = 0
    answered_rounds: int = 0
    response_sum_ns: int = 0
    # What policies learn from (messages.JobHistory); of rounds that got enough reports.
    rounds_succeeded: int = 0
    devices_served: int = 0  # held or completed at the end of any round
    last_delay_ns: int = 0
    last_response_ns: int = 0
    rounds_sum_ns: int = 0
    # The back-off (backoff.py). Rows of before have none of these.
    backoff: BackOff = BackOff.NONE
    backoff_until_ns: int = NEVER  # the next time_over
    backoffs: int = 0  # in a row
    failures: int = 0  # in a row; while probing, of those sent since
    probes: int = 0  # slots given while probing, less those allowed since
    probes_from: int = 0  # the first lease of them

    def key(self) -> str:
        return str(self.job)


class Round(Record, kw_only=True):
    """A round. allocated = leases held + completed, at every instant."""

    table: ClassVar[str] = "rounds"
    job: int
    round: int
    demand: int
    reports_min: int
    lease_s: float
    opened_ns: int
    deadline_ns: int  # NEVER: none
    state: RoundState = RoundState.OPEN
    version: int = 1  # grows with each change
    allocated: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    next_slot: int = 0  # slots from here on were never given
    filled_ns: int = NEVER  # first time that allocated = demand
    enough_ns: int = NEVER
    ended_ns: int = NEVER
    lost: list[int] = msgspec.field(default_factory=list)  # leases, newest last
    once_per_device: bool = False  # rows of before do not have it
    runs_short: bool = False  # a device that served it asked for it again

    def key(self) -> str:
        return f"{self.job}/{self.round}"


class FreeSlot(Record, kw_only=True):
    """A slot below ``next_slot`` of a live round that came back, and was not given again yet."""

    table: ClassVar[str] = "free_slots"
    job: int
    round: int
    slot: int

    def key(self) -> str:
        return f"{self.job}/{self.round}/{self.slot}"


class Lease(Record, kw_only=True):
    """A lease that is held now; one that ended has no record."""

    table: ClassVar[str] = "leases"
    lease: int
    job: int
    round: int
    slot: int
    device_id: str
    lease_s: float
    deadline_ns: int

    def key(self) -> str:
        return str(self.lease)


class ServedRound(Record, kw_only=True):
    """A device whose lease of a live round ended: it gets no other of that round."""

    table: ClassVar[str] = "served"
    job: int
    round: int
    device_id: str
    lease: int

    def key(self) -> str:
        return f"{self.job}/{self.round}/{self.device_id}"


class Session(Record, kw_only=True):
    """A job server's session. ``job`` 0: its register was refused."""

    table: ClassVar[str] = "sessions"
    sender: str
    session: int
    job: int
    ordinal: int  # order of opening
    floor: int  # requests up to here are too old to be told from repeats

    def key(self) -> str:
        return f"{self.sender}/{self.session}"


class JobAnswer(Record, kw_only=True):
    """What a job server's request was answered."""

    table: ClassVar[str] = "job_answers"
    sender: str
    session: int
    request: int
    digest: bytes
    kind: str
    payload: bytes

    def key(self) -> str:
        return f"{self.sender}/{self.session}/{self.request}"


class DeviceAnswer(Record, kw_only=True):
    """What the last accept or report of a device was answered."""

    table: ClassVar[str] = "device_answers"
    device_id: str
    session: int
    request: int
    digest: bytes
    kind: str  # "claim" or "report"
    result: bytes  # ClaimResult or ReportResult

    def key(self) -> str:
        return self.device_id


RecordT = TypeVar("RecordT", bound=Record)


def decode(cls: type[RecordT], key: str, value: bytes) -> RecordT:
    """Read a stored record; raises StoreError that names table and key."""
    try:
        return msgspec.msgpack.decode(value, type=cls)
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(
            f"store: record {key!r} of table {cls.table} is damaged: {error}"
        ) from error


class Changes:
    """The records that a batch changed, each once."""

    def __init__(self) -> None:
        self._changed: dict[tuple[str, str], Record | None] = {}

    def __bool__(self) -> bool:
        return bool(self._changed)

    def put(self, record: Record) -> None:
        """The record is new or was changed (it may change further until the batch is over)."""
        self._changed[record.table, record.key()] = record

    def drop(self, record: Record) -> None:
        """The record is to be forgotten."""
        self._changed[record.table, record.key()] = None

    def take(self) -> tuple[Change, ...]:
        """What the commit of this batch holds; the next batch begins empty."""
        changed, self._changed = self._changed, {}
        return tuple(
            Delete(table, key) if record is None else Put(table, key, _ENCODE(record))
            for (table, key), record in changed.items()
        )
