"""The protocol: every message and every event of Propius, once, typed and validated.

A message on any link is two frames, ``[header, payload]``, both MessagePack. The header says who
speaks, in which session, and what kind the payload is; the payload is a map of the fields of that
kind's class below. Nothing else in Propius turns bytes into messages or messages into bytes, and
``docs/protocol.md`` describes each class (a test compares the two).

How this file may change: a new, removed or retyped field, or a new kind, is a new
``PROTOCOL_VERSION``; within one version an unknown kind or field is an error that names it.

Not here: what the daemons store (``daemons/job_manager/records.py``), how frames travel
(``propius/shell``), and what the values mean to the engine (``propius/engine.py``).

>>> header = Header(kind="heartbeat", sender="ab" * 16, session=7, request=1)
>>> frames = encode(header, Heartbeat(job=3, secret=b"x" * 32))
>>> decode_header(frames[0]).kind, decode_payload("heartbeat", frames[1]).job
('heartbeat', 3)
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta, Struct

from propius.errors import InvalidValueError, ProtocolError

PROTOCOL_VERSION: Final = 1

# --- limits: every one is a bound on what one message can make a peer hold -------------------
PAYLOAD_BYTES_MAX: Final = 1 << 20  # also ZMQ_MAXMSGSIZE of the outside sockets
HEADER_BYTES_MAX: Final = 256
INSIDE_PAYLOAD_BYTES_MAX: Final = 64 << 20  # snapshots and plans between daemons
DIMENSIONS_MAX: Final = 256  # of a spec or requirement
TASKS_MAX: Final = 1_000  # in one offer
DEMAND_MAX: Final = 1_000_000  # devices a round
ROUNDS_MAX: Final = 10_000_000
WAIT_S_MAX: Final = 600.0  # how long a server may be asked to hold a reply
DURATION_S_MAX: Final = 30 * 86_400.0
AGE_S_MAX: Final = 1e12
VALUE_MAX: Final = 1e15  # of a spec or requirement: large enough for bytes, small enough to square

# --- field types: a float has both bounds, which also refuse NaN and the infinities -----------
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
JobId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
RoundNo = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
RoundOrNone = Annotated[int, Meta(ge=-1, le=(1 << 32) - 1)]
RequirementId = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
LeaseId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
ManagerId = Annotated[int, Meta(ge=0, le=65_535)]
Demand = Annotated[int, Meta(ge=1, le=DEMAND_MAX)]
Seconds = Annotated[float, Meta(ge=0.0, le=DURATION_S_MAX)]
WaitSeconds = Annotated[float, Meta(ge=0.0, le=WAIT_S_MAX)]
Age = Annotated[float, Meta(ge=-1.0, le=AGE_S_MAX)]  # seconds; -1: has not come yet
WallClock = Annotated[float, Meta(ge=0.0, le=AGE_S_MAX)]  # seconds since 1970, for people only
Value = Annotated[float, Meta(ge=0.0, le=VALUE_MAX)]
Vector = Annotated[list[Value], Meta(max_length=DIMENSIONS_MAX)]
# Private values may be negative; they are only ever compared on the device.
PrivateConstraint = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=64)],
        Annotated[float, Meta(ge=-VALUE_MAX, le=VALUE_MAX)],
    ],
    Meta(max_length=64),
]
DeviceId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]  # $ would let a line feed through
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=1_024)]
Endpoint = Annotated[str, Meta(max_length=256)]
Secret = Annotated[bytes, Meta(max_length=64)]
TokenBytes = Annotated[bytes, Meta(max_length=256)]
SchemaId = Annotated[str, Meta(max_length=32)]
RoundRef = tuple[JobId, RoundNo]
"""A round as (job, round)."""
Tier = tuple[Value, Value | None]
"""The devices with ``min <= option < max``; None = no bound."""


class ErrorCode(enum.StrEnum):
    """Why a request was refused; the SDK turns each into one exception class."""

    INVALID = "invalid"  # a field is wrong; `field` names it
    UNKNOWN_KIND = "unknown_kind"
    VERSION = "version"  # another protocol version
    TOO_LARGE = "too_large"
    BUSY = "busy"  # overload, or a store that cannot commit; see retry_after_s
    NOT_READY = "not_ready"  # starting, or a peer is missing; see retry_after_s
    CHECK_IN_AGAIN = "check_in_again"
    SCHEMA_CHANGED = "schema_changed"
    UNKNOWN_JOB = "unknown_job"
    WRONG_SECRET = "wrong_secret"
    WRONG_STATE = "wrong_state"
    CONFLICT = "conflict"  # same request number, other body
    STALE_REQUEST = "stale_request"  # older than what is remembered
    UNKNOWN_SESSION = "unknown_session"  # a session begins with register or attach
    NOT_OFFERED = "not_offered"
    ROUND_FULL = "round_full"
    ROUND_CLOSED = "round_closed"
    JOB_BACKS_OFF = "job_backs_off"  # all its last devices failed: nobody is sent there now
    ALREADY_SERVED = "already_served"  # held a slot of this round before
    DEVICE_BUSY = "device_busy"  # holds another lease
    STALE_TOKEN = "stale_token"  # the lease is over, or was never this device's
    LIMIT = "limit"  # a table of the server is full (jobs, waiting clients)
    INTERNAL = "internal"


class Outcome(enum.StrEnum):
    """How a lease ended. The first three are reported, the others are the job manager's finding."""

    COMPLETED = "completed"
    FAILED = "failed"
    DROPPED = "dropped"  # the device gave up before it worked
    EXPIRED = "expired"
    CANCELLED = "cancelled"  # the round or job ended while the lease was held, then it lapsed


class Header(Struct, array_like=True, frozen=True, kw_only=True):
    """First frame of every message.

    ``sender`` is the device_id of a client, a random id of a job server, or a daemon's name;
    ``session`` a random number drawn when the sender's session object was made (a daemon's
    incarnation); ``request`` grows by one a request within a session, and a reply repeats the
    header's session and request of what it answers.
    """

    version: int = PROTOCOL_VERSION
    kind: Annotated[str, Meta(max_length=40)]
    sender: Annotated[str, Meta(max_length=64)]
    session: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    request: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all payloads and events; ``kind`` is the name in the header."""

    kind: ClassVar[str] = ""


# === replies that any request may get ===========================================================


class Error(Message, frozen=True, kw_only=True):
    """The request was refused; nothing was changed."""

    kind: ClassVar[str] = "error"
    code: ErrorCode
    text: Text
    field: Annotated[str, Meta(max_length=128)] = ""
    retry_after_s: Seconds = 0.0


class Ok(Message, frozen=True, kw_only=True):
    """Done; there is nothing more to say."""

    kind: ClassVar[str] = "ok"


# === the attribute schema =======================================================================


class GetSchema(Message, frozen=True, kw_only=True):
    """Ask which public attributes the operator matches on, in which order."""

    kind: ClassVar[str] = "get_schema"


class Schema(Message, frozen=True, kw_only=True):
    """The operator's attributes: names, in the order of every vector, and their maxima."""

    kind: ClassVar[str] = "schema"
    schema: SchemaId
    attributes: Annotated[list[tuple[Name, Value]], Meta(max_length=DIMENSIONS_MAX)]


# === job server -> job manager ==================================================================


class Register(Message, frozen=True, kw_only=True):
    """A new job. Opens the session: it must be its first request."""

    kind: ClassVar[str] = "register"
    name: Name
    schema: SchemaId
    requirement: Vector
    private_constraint: PrivateConstraint
    demand: Demand  # estimated devices a round
    rounds: Annotated[int, Meta(ge=0, le=ROUNDS_MAX)]  # estimated; 0 = unknown
    endpoint: Endpoint  # where assigned devices find the job server


class Registered(Message, frozen=True, kw_only=True):
    """The job exists; ``secret`` proves every later request and signs its lease tokens."""

    kind: ClassVar[str] = "registered"
    job: JobId
    secret: Secret


class Attach(Message, frozen=True, kw_only=True):
    """Open another session for a job that exists (a job server that came back)."""

    kind: ClassVar[str] = "attach"
    job: JobId
    secret: Secret


class StartRequest(Message, frozen=True, kw_only=True):
    """Open the next round and ask for ``demand`` devices."""

    kind: ClassVar[str] = "start_request"
    job: JobId
    secret: Secret
    demand: Demand
    reports_min: Annotated[int, Meta(ge=0, le=DEMAND_MAX)] = 0  # enough reports; 0 = demand
    deadline_s: Seconds = 0.0  # from now; 0 = none
    lease_s: Seconds = 0.0  # 0 = the operator's default
    once_per_device: bool = True  # whoever held a slot of the round gets no other of it


class RequestStarted(Message, frozen=True, kw_only=True):
    """The round is open."""

    kind: ClassVar[str] = "request_started"
    job: JobId
    round: RoundNo


class EndRequest(Message, frozen=True, kw_only=True):
    """Close the open slots of a round; leases that are held stay, and their reports count."""

    kind: ClassVar[str] = "end_request"
    job: JobId
    secret: Secret
    round: RoundNo


class CompleteJob(Message, frozen=True, kw_only=True):
    """The job has trained enough."""

    kind: ClassVar[str] = "complete_job"
    job: JobId
    secret: Secret


class Cancel(Message, frozen=True, kw_only=True):
    """Stop the job for good; ``secret`` may be the operator's key."""

    kind: ClassVar[str] = "cancel"
    job: JobId
    secret: Secret
    reason: Text = ""


class Pause(Message, frozen=True, kw_only=True):
    """Offer the job's open round to nobody until it is resumed; may be the operator's."""

    kind: ClassVar[str] = "pause"
    job: JobId
    secret: Secret


class Resume(Message, frozen=True, kw_only=True):
    """Offer a job's round again, paused or backing off; ``secret`` may be the operator's key."""

    kind: ClassVar[str] = "resume"
    job: JobId
    secret: Secret


class Heartbeat(Message, frozen=True, kw_only=True):
    """The job server lives."""

    kind: ClassVar[str] = "heartbeat"
    job: JobId
    secret: Secret


class Show(Message, frozen=True, kw_only=True):
    """Ask for the state of one job; ``secret`` may be the operator's key."""

    kind: ClassVar[str] = "show"
    job: JobId
    secret: Secret


class ListJobs(Message, frozen=True, kw_only=True):
    """Ask for jobs in order of id; needs the operator's key."""

    kind: ClassVar[str] = "list_jobs"
    secret: Secret
    after: JobId = 0  # jobs with greater ids
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    active_only: bool = False


class WatchRound(Message, frozen=True, kw_only=True):
    """Wait until the round differs from what was ``seen`` (its version), or ``wait_s`` is over."""

    kind: ClassVar[str] = "watch_round"
    job: JobId
    secret: Secret
    round: RoundNo
    seen: Count = 0
    wait_s: WaitSeconds = 0.0


class RoundStatus(Message, frozen=True, kw_only=True):
    """Everything a job server may want to know of one round.

    ``version`` grows with each change, so that ``watch_round`` can wait for the next. Times are
    seconds since the round was opened; a time that has not come is -1.
    """

    kind: ClassVar[str] = "round_status"
    job: JobId
    round: RoundNo
    version: Count
    state: Name  # a RoundState of daemons/job_manager/states.py
    demand: Count
    allocated: Count  # slots given: held or completed
    held: Count  # leases that run now
    completed: Count
    failed: Count  # reported failed or dropped
    expired: Count
    reports_min: Count
    filled_after_s: Age  # scheduling delay; -1 until filled for the first time
    ended_after_s: Age  # -1 until ended
    lost: Annotated[list[LeaseId], Meta(max_length=DEMAND_MAX)]  # failed or expired, newest 1,000
    backoff: Name = "none"  # a BackOff of daemons/job_manager/states.py
    backoff_s: Seconds = 0.0  # for so long from now nobody is sent
    reason: Text = ""  # why not, or why the job is paused


class JobStatus(Message, frozen=True, kw_only=True):
    """A job as the job manager sees it."""

    kind: ClassVar[str] = "job_status"
    job: JobId
    name: Name
    state: Name  # a JobState of daemons/job_manager/states.py
    reason: Text  # why it was cancelled, expired, backs off, or was paused
    requirement: Vector
    requirement_id: RequirementId
    demand: Count
    rounds: Count  # registered estimate; 0 = unknown
    rounds_done: Count
    round: RoundOrNone  # of the current or last round; -1 before the first
    round_state: Annotated[str, Meta(max_length=128)]
    allocated: Count  # of the current round
    round_demand: Count
    devices_completed: Count
    devices_failed: Count
    devices_expired: Count
    registered_at_s: WallClock
    age_s: Age
    waiting_s: Age  # of the open round; 0 when none is open
    mean_scheduling_delay_s: Age  # over the rounds that filled; -1 if none
    mean_response_s: Age  # first fill -> enough reports; -1 if none
    jct_s: Age  # -1 while the job lives
    backoff: Name = "none"  # a BackOff of daemons/job_manager/states.py
    backoff_s: Seconds = 0.0  # for so long from now nobody is sent
    backoffs: Count = 0  # in a row


class JobList(Message, frozen=True, kw_only=True):
    """One page of jobs."""

    kind: ClassVar[str] = "job_list"
    jobs: Annotated[list[JobStatus], Meta(max_length=1_000)]
    more: bool


# === client -> load balancer -> client manager ==================================================


class CheckIn(Message, frozen=True, kw_only=True):
    """A device is available. The reply is an offer, held up to ``wait_s`` if nothing is open."""

    kind: ClassVar[str] = "check_in"
    schema: SchemaId
    spec: Vector
    option: Value  # speed score; larger is faster
    wait_s: WaitSeconds = 0.0


class Task(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One line of an offer."""

    job: JobId
    round: RoundNo
    private_constraint: PrivateConstraint


class Offer(Message, frozen=True, kw_only=True):
    """Rounds that this device may serve, best first; if empty, retry after ``retry_after_s``."""

    kind: ClassVar[str] = "offer"
    tasks: Annotated[list[Task], Meta(max_length=TASKS_MAX)]
    plan_version: Count
    retry_after_s: Seconds


class Accept(Message, frozen=True, kw_only=True):
    """Take one task of the last offer."""

    kind: ClassVar[str] = "accept"
    job: JobId
    round: RoundNo


class Assignment(Message, frozen=True, kw_only=True):
    """The device holds a slot for ``lease_s`` seconds; ``token`` proves it to the job server."""

    kind: ClassVar[str] = "assignment"
    job: JobId
    round: RoundNo
    endpoint: Endpoint
    lease_s: Seconds
    token: TokenBytes


class Decline(Message, frozen=True, kw_only=True):
    """None of these suits (the private constraint); the device is not offered them again."""

    kind: ClassVar[str] = "decline"
    rounds: Annotated[list[RoundRef], Meta(max_length=TASKS_MAX)]


class Report(Message, frozen=True, kw_only=True):
    """How the task ended."""

    kind: ClassVar[str] = "report"
    job: JobId
    round: RoundNo
    token: TokenBytes
    outcome: Outcome


# === between daemons ============================================================================


class Hello(Message, frozen=True, kw_only=True):
    """First message on an inside link, and again after each reconnect; it is the membership."""

    kind: ClassVar[str] = "hello"
    role: Name
    manager: ManagerId = 0
    package_version: Name
    schema: SchemaId


class Welcome(Message, frozen=True, kw_only=True):
    """The hello was taken. ``incarnation`` is the answering daemon's session."""

    kind: ClassVar[str] = "welcome"
    incarnation: Count


class Reject(Message, frozen=True, kw_only=True):
    """The peer will not be served: another version or schema, or its name is ``taken``."""

    kind: ClassVar[str] = "reject"
    text: Text
    taken: bool = False


class Beat(Message, frozen=True, kw_only=True):
    """Alive; sent both ways when nothing else was sent for a while.

    ``ready`` says whether new work is welcome, ``seq`` the sender's last sequence number (job
    manager to scheduler) or the last one applied (scheduler to job manager).
    """

    kind: ClassVar[str] = "beat"
    ready: bool = True
    seq: Count = 0


class Forward(Message, frozen=True, kw_only=True):
    """Load balancer → client manager: device messages, each (tag, header, payload)."""

    kind: ClassVar[str] = "forward"
    items: list[tuple[Count, bytes, bytes]]


class Deliver(Message, frozen=True, kw_only=True):
    """Client manager → load balancer: answers, each (tag of the request, header, payload).

    An empty header: this request gets no answer any more, since its device sent a newer one.
    """

    kind: ClassVar[str] = "deliver"
    items: list[tuple[Count, bytes, bytes]]


class Undeliverable(Message, frozen=True, kw_only=True):
    """Load balancer → client manager: these answers found no device at the other end."""

    kind: ClassVar[str] = "undeliverable"
    tags: list[Count]


class Claim(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A device wants the slot that it was offered.

    ``digest`` is a hash of the accept's payload bytes: the same (device_id, session, request) with
    another digest is a conflict. ``look_up``: only return a lease this very request already got.
    """

    device_id: DeviceId
    session: Count
    request: Count
    digest: Annotated[bytes, Meta(max_length=16)]
    job: JobId
    round: RoundNo
    look_up: bool


class ClaimResult(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The answer to one claim: ``error`` "" and the lease, or the reason of the refusal."""

    device_id: DeviceId
    session: Count
    request: Count
    error: Annotated[str, Meta(max_length=40)]  # an ErrorCode, or ""
    job: JobId
    round: RoundNo
    endpoint: Endpoint
    lease_s: Seconds
    token: TokenBytes


class ReportItem(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A device's report, passed on."""

    device_id: DeviceId
    session: Count
    request: Count
    digest: Annotated[bytes, Meta(max_length=16)]
    job: JobId
    round: RoundNo
    token: TokenBytes
    outcome: Outcome


class ReportResult(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The answer to one report."""

    device_id: DeviceId
    session: Count
    request: Count
    error: Annotated[str, Meta(max_length=40)]  # an ErrorCode, or ""


class Claims(Message, frozen=True, kw_only=True):
    """Client manager → job manager: a batch of claims and reports."""

    kind: ClassVar[str] = "claims"
    claims: list[Claim]
    reports: list[ReportItem]


class ClaimResults(Message, frozen=True, kw_only=True):
    """Job manager → client manager. ``seq`` is the job event that the last allocation made."""

    kind: ClassVar[str] = "claim_results"
    seq: Count
    claims: list[ClaimResult]
    reports: list[ReportResult]


class JobHistory(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a job's earlier rounds came to, for policies that learn from them.

    The delay and the response time are those of the last round that got enough reports.
    """

    rounds_succeeded: RoundNo = 0
    devices_served: Count = 0  # held or completed when a round ended, of all rounds
    last_scheduling_ns: Count = 0
    last_response_ns: Count = 0
    rounds_ns: Count = 0  # sum of the times of the successful rounds


class JobState(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A live job as the scheduler needs it; ``round`` is -1 when no round is open."""

    job: JobId
    requirement_id: RequirementId
    requirement: Vector
    private_constraint: PrivateConstraint
    registered_ns: Count
    demand_estimate: Count
    rounds_estimate: Count
    round: RoundOrNone
    demand: Count
    allocated: Count
    opened_ns: Count
    history: JobHistory = JobHistory()


class Snapshot(Message, frozen=True, kw_only=True):
    """Job manager → scheduler: all live jobs as of event ``seq``."""

    kind: ClassVar[str] = "snapshot"
    seq: Count
    jobs: list[JobState]


class JobEvents(Message, frozen=True, kw_only=True):
    """Job manager → scheduler: the jobs that changed by events ``first_seq`` … ``seq``.

    Each entry is the job's whole new state, so applying one twice is harmless; a job that is gone
    is in ``removed``. If ``first_seq`` is not the last seq + 1 there is a gap: ask for a snapshot.
    """

    kind: ClassVar[str] = "job_events"
    first_seq: Count
    seq: Count
    changed: list[JobState]
    removed: list[JobId]


class NeedSnapshot(Message, frozen=True, kw_only=True):
    """Scheduler → job manager: a gap, or a scheduler that knows nothing yet."""

    kind: ClassVar[str] = "need_snapshot"


class SupplyBucket(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Devices that checked in during one time bucket: their number, and a sample of them."""

    bucket_start_ns: Count
    distinct_devices: Count
    specs: list[Value]  # flattened, dimensions × sample size
    options: list[Value]


class Supply(Message, frozen=True, kw_only=True):
    """Client manager → scheduler: closed buckets, numbered so that none counts twice."""

    kind: ClassVar[str] = "supply"
    seq: Count
    buckets: list[SupplyBucket]


class PlannedRound(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A round of a plan, for one manager."""

    job: JobId
    round: RoundNo
    rank: Count
    quota: Count
    private_constraint: PrivateConstraint
    tier: Tier | None = None
    part: Count = 0


class PlannedGroup(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The open rounds of one requirement, in the order of service."""

    requirement_id: RequirementId
    requirement: Vector
    rounds: list[PlannedRound]


class Plan(Message, frozen=True, kw_only=True):
    """Scheduler → client manager: what to offer, as of job event ``seq``.

    ``ranked``: offers follow the rounds' global rank; otherwise each signature's preference of
    groups. A signature that is not listed follows ``fallback``. With ``shuffle`` every client goes
    through its rounds in an order of its own. With ``partitions`` a device is offered the rounds of
    its own part only.
    """

    kind: ClassVar[str] = "plan"
    version: Count
    seq: Count
    ranked: bool
    groups: list[PlannedGroup]
    preferences: list[tuple[list[RequirementId], list[RequirementId]]]
    fallback: list[RequirementId]
    shuffle: Count | None = None
    partitions: Count = 0


# === the event log (design: one append-only log of every input of every decision) ==============


class LogOpened(Message, frozen=True, kw_only=True):
    """First event of every segment: who writes, and what its clock showed."""

    kind: ClassVar[str] = "log_opened"
    daemon: Name
    incarnation: Count
    package_version: Name
    schema: SchemaId
    attributes: list[tuple[Name, Value]]
    wall_s: WallClock  # wall clock at the event's own time


class MatcherStarted(Message, frozen=True, kw_only=True):
    """First of a client manager's own events: all that its matcher was made from."""

    kind: ClassVar[str] = "matcher_started"
    manager: ManagerId
    dimensions: Count
    tasks_per_offer_max: Count
    offer_timeout_ns: Count
    waiting_max: Count
    declined_max: Count
    supply_bucket_ns: Count
    supply_sample_max: Count
    seed: Count


class PlannerStarted(Message, frozen=True, kw_only=True):
    """First of the scheduler's own events: all that its planner was made from."""

    kind: ClassVar[str] = "planner_started"
    policy: Name
    options: dict[Name, Annotated[float, Meta(ge=-VALUE_MAX, le=VALUE_MAX)]]
    dimensions: Count
    seed: Count
    supply_window_ns: Count
    supply_samples_max: Count


class JobRegistered(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "job_registered"
    job: JobId
    name: Name
    requirement_id: RequirementId
    requirement: Vector
    demand: Count
    rounds: Count


class RoundOpened(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "round_opened"
    job: JobId
    round: RoundNo
    demand: Count
    reports_min: Count
    once_per_device: bool = False  # logs of before do not have it


class LeaseGranted(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "lease_granted"
    job: JobId
    round: RoundNo
    slot: Count
    lease: LeaseId
    device_id: DeviceId
    manager: ManagerId
    allocated: Count  # of the round, after this grant


class LeaseEnded(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "lease_ended"
    job: JobId
    round: RoundNo
    lease: LeaseId
    device_id: DeviceId
    outcome: Outcome
    allocated: Count  # of the round, after this end


class RoundChanged(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "round_changed"
    job: JobId
    round: RoundNo
    state: Name
    allocated: Count
    completed: Count


class JobChanged(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "job_changed"
    job: JobId
    state: Name
    reason: Text


class BackOffChanged(Message, frozen=True, kw_only=True):
    """A job's back-off began, was over, or let devices try the job."""

    kind: ClassVar[str] = "back_off_changed"
    job: JobId
    state: Name  # a BackOff of daemons/job_manager/states.py
    backoffs: Count  # in a row
    wait_s: Seconds  # waiting: for so long nobody is sent; probing: until a few more are
    probes: Count  # probing: how many (more) may be sent
    reason: Text


class CheckedIn(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "checked_in"
    device_id: DeviceId
    spec: Vector
    option: Value
    hold_s: Seconds


class Offered(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "offered"
    device_id: DeviceId
    plan_version: Count
    rounds: list[RoundRef]


class Claimed(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "claimed"
    device_id: DeviceId
    job: JobId
    round: RoundNo


class LookedUp(Message, frozen=True, kw_only=True):
    """A device accepted what it is not offered (any more): was it granted that earlier?"""

    kind: ClassVar[str] = "looked_up"
    device_id: DeviceId
    job: JobId
    round: RoundNo


class ClaimAnswered(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "claim_answered"
    device_id: DeviceId
    job: JobId
    round: RoundNo
    error: Annotated[str, Meta(max_length=40)]
    seq: Count


class Declined(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "declined"
    device_id: DeviceId
    rounds: list[RoundRef]


class ClientForgotten(Message, frozen=True, kw_only=True):
    """A client manager dropped a client: its hold or offer timed out, or it is out of reach."""

    kind: ClassVar[str] = "client_forgotten"
    device_id: DeviceId
    reason: Name


class TimeLooked(Message, frozen=True, kw_only=True):
    """A client manager let go of those whose time was over: the clients forgotten that follow."""

    kind: ClassVar[str] = "time_looked"


class WaitingMatched(Message, frozen=True, kw_only=True):
    """A client manager matched those who wait: the offers that follow. It ends a batch."""

    kind: ClassVar[str] = "waiting_matched"


class SchedulerMet(Message, frozen=True, kw_only=True):
    """A client manager met another scheduler, which numbers its plans from anew."""

    kind: ClassVar[str] = "scheduler_met"
    incarnation: Count


class PlanApplied(Message, frozen=True, kw_only=True):
    """A client manager's matcher works by this plan from here on."""

    kind: ClassVar[str] = "plan_applied"
    plan: Plan


class PlanMade(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "plan_made"
    version: Count
    seq: Count
    policy: Name
    ranked: bool
    groups: list[
        tuple[
            RequirementId,
            list[tuple[JobId, RoundNo, Count, Count, Tier | None, Count]],
        ]
    ]
    preferences: list[tuple[list[RequirementId], list[RequirementId]]]
    fallback: list[RequirementId]
    shuffle: Count | None = None
    partitions: Count = 0
    # By manager, in the order of the groups' rounds.
    quotas: list[tuple[ManagerId, list[Count]]] = []


class PlanFailed(Message, frozen=True, kw_only=True):
    """The scheduler asked its policy for a plan and got none; the last one stays."""

    kind: ClassVar[str] = "plan_failed"
    why: Text


class SupplyReceived(Message, frozen=True, kw_only=True):
    kind: ClassVar[str] = "supply_received"
    manager: ManagerId
    seq: Count
    buckets: list[SupplyBucket]


class ManagerJoined(Message, frozen=True, kw_only=True):
    """The scheduler plans for this client manager from here on."""

    kind: ClassVar[str] = "manager_joined"
    manager: ManagerId
    incarnation: Count


class ManagerLeft(Message, frozen=True, kw_only=True):
    """The scheduler plans for this client manager no longer: it is silent, or was replaced."""

    kind: ClassVar[str] = "manager_left"
    manager: ManagerId
    incarnation: Count


class JobsReceived(Message, frozen=True, kw_only=True):
    """The scheduler applied a snapshot (``whole``) or job events."""

    kind: ClassVar[str] = "jobs_received"
    whole: bool
    seq: Count
    changed: list[JobState]
    removed: list[JobId]


# === registry, encoding, decoding ===============================================================

REPLIES: Final = (Error, Ok, Schema, Registered, RequestStarted, RoundStatus, JobStatus, JobList,
                  Offer, Assignment)  # fmt: skip
JOB_REQUESTS: Final = (GetSchema, Register, Attach, StartRequest, EndRequest, CompleteJob, Cancel,
                       Pause, Resume, Heartbeat, Show, ListJobs, WatchRound)  # fmt: skip
CLIENT_REQUESTS: Final = (GetSchema, CheckIn, Accept, Decline, Report)
INSIDE: Final = (Hello, Welcome, Reject, Beat, Forward, Deliver, Undeliverable, Claims,
                 ClaimResults, Snapshot, JobEvents, NeedSnapshot, Supply, Plan)  # fmt: skip
EVENTS: Final = (LogOpened, MatcherStarted, PlannerStarted, JobRegistered, RoundOpened,
                 LeaseGranted, LeaseEnded, RoundChanged, JobChanged, BackOffChanged, CheckedIn,
                 Offered, Claimed, LookedUp, ClaimAnswered, Declined, ClientForgotten, TimeLooked,
                 WaitingMatched, SchedulerMet, PlanApplied, PlanMade, PlanFailed, SupplyReceived,
                 ManagerJoined, ManagerLeft, JobsReceived)  # fmt: skip

MESSAGES: Final[dict[str, type[Message]]] = {
    cls.kind: cls for cls in (*REPLIES, *JOB_REQUESTS, *CLIENT_REQUESTS, *INSIDE, *EVENTS)
}
"""Every kind and its class."""

_ENCODER = msgspec.msgpack.Encoder()
_HEADER = msgspec.msgpack.Decoder(Header)
_PAYLOADS = {kind: msgspec.msgpack.Decoder(cls) for kind, cls in MESSAGES.items()}
_SENDER = re.compile(r"[A-Za-z0-9_.:-]{1,64}").fullmatch


class DecodeError(ProtocolError):
    """A frame that is not a valid message: ``code`` and ``field`` go into the error reply."""

    def __init__(self, code: ErrorCode, text: str, field: str = ""):
        super().__init__(text)
        self.code = code
        self.field = field

    def reply(self) -> Error:
        """The error message that tells the sender."""
        return Error(code=self.code, text=str(self)[:1_000], field=self.field[:128])


def encode(header: Header, message: Message) -> tuple[bytes, bytes]:
    """The two frames of a message."""
    return _ENCODER.encode(header), _ENCODER.encode(message)


def encode_header(header: Header) -> bytes:
    """The header frame alone, for a payload that is encoded already."""
    return _ENCODER.encode(header)


def encode_payload(message: Message) -> bytes:
    """The payload frame alone (an event's body in the log)."""
    return _ENCODER.encode(message)


def decode_header(frame: bytes) -> Header:
    """Read a header; raises :class:`DecodeError` if it is not one of this protocol version."""
    if len(frame) > HEADER_BYTES_MAX:
        raise DecodeError(ErrorCode.TOO_LARGE, f"header of {len(frame)} bytes", "header")
    try:
        header = _HEADER.decode(frame)
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: broken UTF-8
        raise DecodeError(ErrorCode.INVALID, f"header: {error}", "header") from error
    if header.version != PROTOCOL_VERSION:
        text = f"protocol version {header.version} spoken, {PROTOCOL_VERSION} understood"
        raise DecodeError(ErrorCode.VERSION, text, "version")
    if not _SENDER(header.sender):
        raise DecodeError(
            ErrorCode.INVALID, "sender has characters beyond A-Z a-z 0-9 _.:-", "sender"
        )
    return header


def decode_payload(kind: str, frame: bytes, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> Message:
    """Read and validate a payload of this kind; raises :class:`DecodeError` naming the field."""
    decoder = _PAYLOADS.get(kind)
    if decoder is None:
        raise DecodeError(ErrorCode.UNKNOWN_KIND, f"unknown message kind {kind!r}", "kind")
    if len(frame) > bytes_max:
        text = f"{kind}: payload of {len(frame)} bytes, at most {bytes_max} allowed"
        raise DecodeError(ErrorCode.TOO_LARGE, text, "payload")
    try:
        return decoder.decode(frame)
    except msgspec.ValidationError as error:
        raise DecodeError(ErrorCode.INVALID, f"{kind}: {error}", _field_at(str(error))) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(
            ErrorCode.INVALID, f"{kind}: not MessagePack: {error}", "payload"
        ) from error


def validate(message: Message) -> tuple[bytes, Message]:
    """Encode a message as the peer will check it; raises InvalidValueError naming the field.

    The SDK calls this before it sends, so that a wrong value is the caller's exception and never
    reaches the wire.
    """
    try:
        frame = _ENCODER.encode(message)
        return frame, decode_payload(message.kind, frame)
    except (DecodeError, TypeError, OverflowError, ValueError) as error:
        raise InvalidValueError(str(error)) from error


def _field_at(text: str) -> str:
    """The field that msgspec names in "… - at `$.x[0]`", "… field `x`", "at `key` in `$.x`"."""
    match = re.search(r"`\$\.?([^`]+)`$", text) or re.search(r"field `([^`]*)`", text)
    return match.group(1) if match else "payload"
