"""A job server's side, blocking: :class:`Job`; and an operator's, :class:`Operator`.

Every verb is a talk of :mod:`propius.job_session`; here it is only carried out. The same for
asyncio is in :mod:`propius.aio`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from propius.connection import Connection, check_route, fresh_dice
from propius.job_session import JobSession, JobTerms, OperatorSession
from propius.messages import JobStatus, RoundStatus
from propius.tokens import Lease


class JobIdentity:
    """What :class:`Job` and :class:`propius.AsyncJob` know without asking anybody."""

    _session: JobSession

    @property
    def id(self) -> int:
        """The job's id; raises UsageError before it is registered."""
        return self._session.id

    @property
    def secret(self) -> bytes:
        """What proves the job's requests and signs its lease tokens; keep it to attach again."""
        return self._session.secret

    def admit(self, token: bytes) -> Lease:
        """The lease of a device that came with this token; raises StaleTokenError to turn it away.

        A token is stale if it is forged, of another round than the current one, superseded by a
        newer lease of the same slot, or of a lease that ``watch_round`` has shown as lost. Asks
        nobody, and may be called from any thread.
        """
        return self._session.admit(token)


class Job(JobIdentity):
    """One FL job, as its job server sees it.

    ``requirement`` are lower bounds on public attributes (those that are missing are 0),
    ``private_constraint`` lower bounds that each device checks for itself; ``demand`` is the number
    of devices a round and ``rounds`` how many rounds are expected (0: unknown); devices find the
    job server at ``server_endpoint``. A request that is not answered within ``timeout_s`` raises
    RequestTimeoutError; until then it is repeated, which is safe.

    Entering the ``with`` block registers the job. Leaving it only closes the connection: the job
    lives on until :meth:`complete_job` or :meth:`cancel` (or its silence limit), so that a job
    server that crashes can :meth:`attach` again with the id and secret that it kept.
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        name: str,
        requirement: Mapping[str, float],
        private_constraint: Mapping[str, float] | None = None,
        demand: int,
        rounds: int = 0,
        server_endpoint: str = "",
        timeout_s: float = 30.0,
        connection: Connection | None = None,
    ) -> None:
        terms = JobTerms(
            name=name,
            requirement=dict(requirement),
            private_constraint=dict(private_constraint or {}),
            demand=demand,
            rounds=rounds,
            server_endpoint=server_endpoint,
        )
        self._connect(endpoint, connection, timeout_s, terms)

    @classmethod
    def attach(
        cls,
        endpoint: str = "",
        job: int = 0,
        secret: bytes = b"",
        *,
        timeout_s: float = 30.0,
        connection: Connection | None = None,
    ) -> Self:
        """Speak again for a job that exists, with its id and secret; knows its current round.

        Raises UnknownJobError or AuthenticationError.
        """
        self = cls.__new__(cls)
        self._connect(endpoint, connection, timeout_s, None)
        try:
            self._connection.call(self._session.attach(job, secret))
        except BaseException:
            self.close()
            raise
        return self

    def register(self) -> int:
        """Make the job, unless it is registered or attached already; returns its id."""
        return self._connection.call(self._session.register())

    def start_request(
        self,
        demand: int | None = None,
        *,
        reports_min: int = 0,
        deadline_s: float = 0.0,
        lease_s: float = 0.0,
        once_per_device: bool = True,
    ) -> int:
        """Open the next round and ask for ``demand`` devices; returns the round's number.

        ``demand``: as registered, if None. The round is done when it was filled and ``reports_min``
        devices (0: all) have reported success, or after ``deadline_s`` seconds (0: never). A device
        may work for ``lease_s`` seconds (0: the operator's default). A device
        gets one slot of the round and no second one, whatever became of the first, unless
        ``once_per_device`` is False. Raises InvalidStateError while a round is under way.
        """
        talk = self._session.start_request(
            demand,
            reports_min=reports_min,
            deadline_s=deadline_s,
            lease_s=lease_s,
            once_per_device=once_per_device,
        )
        return self._connection.call(talk)

    def watch_round(self, round_no: int, /, *, seen: int = 0, wait_s: float = 30.0) -> RoundStatus:
        """The round's state as soon as its version is not ``seen``, or after ``wait_s`` seconds.

        Lost leases that it shows are turned away by :meth:`admit` from then on.
        """
        return self._connection.call(self._session.watch_round(round_no, seen=seen, wait_s=wait_s))

    def end_request(self, round_no: int, /) -> None:
        """Ask for no more devices in this round; those that work may still report."""
        self._connection.call(self._session.end_request(round_no))

    def complete_job(self) -> None:
        """The job has trained enough; it gets no more devices."""
        self._connection.call(self._session.complete_job())

    def cancel(self, reason: str = "") -> None:
        """Stop the job for good, for a reason that is kept with it."""
        self._connection.call(self._session.cancel(reason))

    def pause(self) -> None:
        """Offer the job's open round to nobody until :meth:`resume`."""
        self._connection.call(self._session.pause_job())

    def resume(self) -> None:
        """Offer the job's round again: after :meth:`pause`, or if it backs off after failures."""
        self._connection.call(self._session.resume())

    def heartbeat(self) -> None:
        """Say that the job server lives; any other request says so, too."""
        self._connection.call(self._session.heartbeat())

    def show(self) -> JobStatus:
        """The job as the job manager sees it."""
        return self._connection.call(self._session.show())

    def close(self) -> None:
        """Close the connection, unless it was shared. The job lives on."""
        if self._owned:
            self._connection.close()

    def __enter__(self) -> Self:
        try:
            self.register()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(
        self, endpoint: str, connection: Connection | None, timeout_s: float, terms: JobTerms | None
    ) -> None:
        check_route(endpoint, connection)
        self._owned = connection is None
        self._connection = connection or Connection(endpoint)
        dice = fresh_dice()
        self._session = JobSession(
            sender=f"{dice.getrandbits(128):032x}",
            dice=dice,
            timeout_s=timeout_s,
            peer=self._connection.endpoint,
            cell=self._connection.cell,
            terms=terms,
        )


class Operator:
    """An operator, who may show, list, pause, resume and cancel every job.

    ``key`` is the job manager's.
    """

    def __init__(self, endpoint: str, key: bytes, *, timeout_s: float = 30.0) -> None:
        self._connection = Connection(endpoint)
        dice = fresh_dice()
        self._session = OperatorSession(
            sender=f"{dice.getrandbits(128):032x}",
            dice=dice,
            timeout_s=timeout_s,
            peer=endpoint,
            cell=self._connection.cell,
            key=key,
        )

    def list_jobs(self, *, active_only: bool = False) -> list[JobStatus]:
        """All jobs that the job manager knows, in order of id."""
        return self._connection.call(self._session.list_jobs(active_only=active_only))

    def show(self, job: int) -> JobStatus:
        """One job; raises UnknownJobError."""
        return self._connection.call(self._session.show(job))

    def attributes(self) -> list[str]:
        """What the numbers of a requirement stand for, in their order."""
        return self._connection.call(self._session.attributes())

    def cancel(self, job: int, reason: str = "") -> None:
        """Stop a job for good, for a reason that is kept with it."""
        self._connection.call(self._session.cancel(job, reason))

    def pause(self, job: int) -> None:
        """Offer a job's open round to nobody until :meth:`resume`."""
        self._connection.call(self._session.pause_job(job))

    def resume(self, job: int) -> None:
        """Offer a job's round again, paused or backing off; its failures are counted anew."""
        self._connection.call(self._session.resume_job(job))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
