"""What a job server and an operator say to the job manager, as talks (:mod:`propius.session`).

Not here: sockets (:mod:`propius.connection`) and what users call (:mod:`propius.job`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from propius import messages
from propius.errors import StaleTokenError, UsageError
from propius.fence import Fence
from propius.messages import JobList, JobStatus, Message, Ok, Registered, RoundStatus
from propius.session import Lane, Session, Talk, check_values, to_requirement
from propius.tokens import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerms:
    """What a job registers with; checked here as far as that needs no attribute schema."""

    name: str
    requirement: Mapping[str, float]
    private_constraint: Mapping[str, float] = field(default_factory=dict)
    demand: int
    rounds: int = 0
    server_endpoint: str = ""

    def __post_init__(self) -> None:
        check_values(self.requirement, "requirement")
        check_values(self.private_constraint, "private_constraint", negative=True)
        messages.validate(self.to_message("", []))

    def to_message(self, schema: str, requirement: list[float]) -> messages.Register:
        """The registration, with the requirement as a vector of that schema."""
        return messages.Register(
            name=self.name,
            schema=schema,
            requirement=requirement,
            private_constraint=dict(self.private_constraint),
            demand=self.demand,
            rounds=self.rounds,
            endpoint=self.server_endpoint,
        )


@dataclass(slots=True, kw_only=True)
class JobSession(Session):
    """One job server's session: first :meth:`register` or :meth:`attach`, then the other verbs."""

    terms: JobTerms | None = None
    fence: Fence | None = None

    @property
    def id(self) -> int:
        """The job's id; raises UsageError before it has one."""
        return self._fence().job

    @property
    def secret(self) -> bytes:
        """The job's secret; raises UsageError before it has one."""
        return self._fence().secret

    def admit(self, token: bytes) -> Lease:
        """See :meth:`propius.fence.Fence.admit`."""
        if not isinstance(token, bytes):
            raise StaleTokenError("lease token: not a token")
        return self._fence().admit(token)

    def register(self) -> Talk[int]:
        """Make the job; does nothing if it is registered or attached already. Returns its id."""
        if self.fence is None:
            if self.terms is None:
                raise UsageError("attach a job that exists, or give its terms to register it")
            terms = self.terms

            def compose(schema: messages.Schema) -> Message:
                vector = to_requirement(schema, terms.requirement)
                return terms.to_message(schema.schema, vector)

            reply = yield from self.ask_with_schema(compose, Registered, new_lane=True)
            self.fence = Fence(reply.job, reply.secret)
        return self.fence.job

    def attach(self, job: int, secret: bytes) -> Talk[JobStatus]:
        """Speak for a job that exists, in a new session; learns its current round."""
        self.lane = Lane(self.dice)
        yield from self.ask(messages.Attach(job=job, secret=secret), (Ok, Registered))
        status = yield from self.ask(messages.Show(job=job, secret=secret), JobStatus)
        self.fence = Fence(job, secret, status.round)
        self.terms = JobTerms(
            name=status.name,
            requirement={},
            demand=max(status.demand, 1),
            rounds=status.rounds,
        )
        return status

    def start_request(
        self,
        demand: int | None = None,
        *,
        reports_min: int = 0,
        deadline_s: float = 0.0,
        lease_s: float = 0.0,
        once_per_device: bool = True,
    ) -> Talk[int]:
        """Open the next round; returns its number."""
        fence = self._fence()
        assert self.terms is not None
        message = messages.StartRequest(
            job=fence.job,
            secret=fence.secret,
            demand=self.terms.demand if demand is None else demand,
            reports_min=reports_min,
            deadline_s=float(deadline_s),
            lease_s=float(lease_s),
            once_per_device=once_per_device,
        )
        reply = yield from self.ask(message, messages.RequestStarted)
        fence.open(reply.round)
        return reply.round

    def watch_round(
        self, round_no: int, *, seen: int = 0, wait_s: float = 30.0
    ) -> Talk[RoundStatus]:
        """Wait for a change of the round; its lost leases are shut out."""
        fence = self._fence()
        message = messages.WatchRound(
            job=fence.job, secret=fence.secret, round=round_no, seen=seen, wait_s=float(wait_s)
        )
        status = yield from self.ask(message, RoundStatus, hold_s=wait_s)
        fence.lose(status.round, status.lost)
        return status

    def end_request(self, round_no: int) -> Talk[None]:
        """Close the open slots of the round."""
        fence = self._fence()
        message = messages.EndRequest(job=fence.job, secret=fence.secret, round=round_no)
        yield from self.ask(message, Ok)

    def complete_job(self) -> Talk[None]:
        """The job has trained enough."""
        fence = self._fence()
        yield from self.ask(messages.CompleteJob(job=fence.job, secret=fence.secret), Ok)

    def cancel(self, reason: str = "") -> Talk[None]:
        """Stop the job for good."""
        fence = self._fence()
        message = messages.Cancel(job=fence.job, secret=fence.secret, reason=reason)
        yield from self.ask(message, Ok)

    def pause_job(self) -> Talk[None]:
        """Offer the job's open round to nobody until it is resumed."""
        fence = self._fence()
        yield from self.ask(messages.Pause(job=fence.job, secret=fence.secret), Ok)

    def resume(self) -> Talk[None]:
        """Offer the job's round again, paused or backing off."""
        fence = self._fence()
        yield from self.ask(messages.Resume(job=fence.job, secret=fence.secret), Ok)

    def heartbeat(self) -> Talk[None]:
        """The job server lives."""
        fence = self._fence()
        yield from self.ask(messages.Heartbeat(job=fence.job, secret=fence.secret), Ok)

    def show(self) -> Talk[JobStatus]:
        """The job as the job manager sees it."""
        fence = self._fence()
        message = messages.Show(job=fence.job, secret=fence.secret)
        return (yield from self.ask(message, JobStatus))

    def _fence(self) -> Fence:
        if self.fence is None:
            raise UsageError("the job has no id yet: call register(), or enter its with block")
        return self.fence


@dataclass(slots=True, kw_only=True)
class OperatorSession(Session):
    """An operator's session: every job, by the operator's key."""

    key: bytes

    def __post_init__(self) -> None:
        super(OperatorSession, self).__post_init__()
        messages.validate(messages.ListJobs(secret=self.key))

    def list_jobs(self, *, active_only: bool = False, page: int = 100) -> Talk[list[JobStatus]]:
        """All jobs in order of id, fetched page by page."""
        jobs: list[JobStatus] = []
        more = True
        while more:
            after = jobs[-1].job if jobs else 0
            message = messages.ListJobs(
                secret=self.key, after=after, limit=page, active_only=active_only
            )
            reply = yield from self.ask(message, JobList)
            jobs += reply.jobs
            more = reply.more and bool(reply.jobs)
        return jobs

    def show(self, job: int) -> Talk[JobStatus]:
        """One job."""
        return (yield from self.ask(messages.Show(job=job, secret=self.key), JobStatus))

    def attributes(self) -> Talk[list[str]]:
        """The attributes of the schema, in the order of every vector."""
        schema = yield from self.schema()
        return [name for name, _ in schema.attributes]

    def cancel(self, job: int, reason: str = "") -> Talk[None]:
        """Stop a job for good."""
        yield from self.ask(messages.Cancel(job=job, secret=self.key, reason=reason), Ok)

    def pause_job(self, job: int) -> Talk[None]:
        """Offer a job's open round to nobody until it is resumed."""
        yield from self.ask(messages.Pause(job=job, secret=self.key), Ok)

    def resume_job(self, job: int) -> Talk[None]:
        """Offer a job's round again, paused or backing off; its failures are counted anew."""
        yield from self.ask(messages.Resume(job=job, secret=self.key), Ok)
