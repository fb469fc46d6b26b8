"""Jobs and clients for asyncio: the same verbs as :class:`propius.Job` and :class:`propius.Client`.

Both carry out the same talks (:mod:`propius.job_session`, :mod:`propius.client_session`); a test
holds the two to the same signatures and to the same bytes on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from propius import messages
from propius.aio_connection import AsyncConnection
from propius.client import Assignment, Device, TaskRef, outcome_of, own_rule, to_ref
from propius.client_session import ClientSession, Select, to_outcome
from propius.connection import check_route, fresh_dice
from propius.errors import PropiusError
from propius.identity import Hold
from propius.identity import device_id as kept_device_id
from propius.job import JobIdentity
from propius.job_session import JobSession, JobTerms
from propius.messages import JobStatus, Offer, Outcome, RoundStatus
from propius.session import Talk

T = TypeVar("T")


class AsyncJob(JobIdentity):
    """One FL job, as its job server sees it: see :class:`propius.Job`."""

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
        connection: AsyncConnection | None = None,
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
    async def attach(
        cls,
        endpoint: str = "",
        job: int = 0,
        secret: bytes = b"",
        *,
        timeout_s: float = 30.0,
        connection: AsyncConnection | None = None,
    ) -> Self:
        """Speak again for a job that exists: see :meth:`propius.Job.attach`."""
        self = cls.__new__(cls)
        self._connect(endpoint, connection, timeout_s, None)
        try:
            await self._connection.call(self._session.attach(job, secret))
        except BaseException:
            await self.close()
            raise
        return self

    async def register(self) -> int:
        """Make the job, unless it is registered or attached already; returns its id."""
        async with self._registering:
            return await self._connection.call(self._session.register())

    async def start_request(
        self,
        demand: int | None = None,
        *,
        reports_min: int = 0,
        deadline_s: float = 0.0,
        lease_s: float = 0.0,
        once_per_device: bool = True,
    ) -> int:
        """Open the next round and ask for devices: see :meth:`propius.Job.start_request`."""
        talk = self._session.start_request(
            demand,
            reports_min=reports_min,
            deadline_s=deadline_s,
            lease_s=lease_s,
            once_per_device=once_per_device,
        )
        return await self._connection.call(talk)

    async def watch_round(
        self, round_no: int, /, *, seen: int = 0, wait_s: float = 30.0
    ) -> RoundStatus:
        """Wait for a change of the round: see :meth:`propius.Job.watch_round`."""
        return await self._connection.call(
            self._session.watch_round(round_no, seen=seen, wait_s=wait_s)
        )

    async def end_request(self, round_no: int, /) -> None:
        """Ask for no more devices in this round; those that work may still report."""
        await self._connection.call(self._session.end_request(round_no))

    async def complete_job(self) -> None:
        """The job has trained enough; it gets no more devices."""
        await self._connection.call(self._session.complete_job())

    async def cancel(self, reason: str = "") -> None:
        """Stop the job for good, for a reason that is kept with it."""
        await self._connection.call(self._session.cancel(reason))

    async def pause(self) -> None:
        """Offer the job's open round to nobody until :meth:`resume`."""
        await self._connection.call(self._session.pause_job())

    async def resume(self) -> None:
        """Offer the job's round again: after :meth:`pause`, or if it backs off after failures."""
        await self._connection.call(self._session.resume())

    async def heartbeat(self) -> None:
        """Say that the job server lives; any other request says so, too."""
        await self._connection.call(self._session.heartbeat())

    async def show(self) -> JobStatus:
        """The job as the job manager sees it."""
        return await self._connection.call(self._session.show())

    async def close(self) -> None:
        """Close the connection, unless it was shared. The job lives on."""
        if self._owned:
            await self._connection.close()

    async def __aenter__(self) -> Self:
        try:
            await self.register()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _connect(
        self,
        endpoint: str,
        connection: AsyncConnection | None,
        timeout_s: float,
        terms: JobTerms | None,
    ) -> None:
        check_route(endpoint, connection)
        self._owned = connection is None
        self._connection = connection or AsyncConnection(endpoint)
        self._registering = asyncio.Lock()
        dice = fresh_dice()
        self._session = JobSession(
            sender=f"{dice.getrandbits(128):032x}",
            dice=dice,
            timeout_s=timeout_s,
            peer=self._connection.endpoint,
            cell=self._connection.cell,
            terms=terms,
        )


class AsyncAssignment(Assignment):
    """An assignment of an :class:`AsyncClient`: see :class:`propius.client.SyncAssignment`."""

    def __init__(self, client: AsyncClient, message: messages.Assignment) -> None:
        super().__init__(message)
        self._client = client

    async def report(self, outcome: Outcome | str) -> None:
        """Say how the task ended: completed, failed or dropped."""
        await self._client.report(self, outcome)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.outcome is not None:
            return
        outcome, timeout_s = outcome_of(error)
        try:
            await self._client.report(self, outcome, timeout_s=timeout_s)
        except PropiusError as unreported:
            if error is None:
                raise
            error.add_note(f"the report of this failed, too: {unreported}")


class AsyncClient(Device):
    """One edge device: see :class:`propius.Client`.

    Hundreds of them may share one :class:`propius.AsyncConnection`. The requests of one client take
    turns, since a device does one thing at a time.
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        spec: Mapping[str, float],
        private_spec: Mapping[str, float] | None = None,
        option: float = 1.0,
        device_id: str | None = None,
        select: Select | None = None,
        timeout_s: float = 30.0,
        connection: AsyncConnection | None = None,
    ) -> None:
        check_route(endpoint, connection)
        self._select = select or own_rule(private_spec)
        self._owned = connection is None
        self._connection = connection or AsyncConnection(endpoint)
        self._turn = asyncio.Lock()
        self._session = ClientSession(
            sender=kept_device_id() if device_id is None else device_id,
            dice=fresh_dice(),
            timeout_s=timeout_s,
            peer=self._connection.endpoint,
            cell=self._connection.cell,
            spec=dict(spec),
            option=option,
        )
        # Last, so that no client that could not be made holds it.
        self._hold = Hold() if device_id is None else None

    async def check_in(self, wait_s: float = 30.0) -> Offer:
        """Say that the device is free, and wait for an offer; it is empty after ``wait_s``."""
        return await self._call(self._session.check_in(wait_s))

    async def accept(self, task: TaskRef) -> AsyncAssignment:
        """Take a task of the last offer: see :meth:`propius.Client.accept`."""
        job, round_no = to_ref(task)
        return AsyncAssignment(self, await self._call(self._session.accept(job, round_no)))

    async def decline(self, tasks: Iterable[TaskRef]) -> None:
        """None of these suits: they are not offered to this device again."""
        await self._call(self._session.decline([to_ref(task) for task in tasks]))

    async def report(
        self, assignment: Assignment, outcome: Outcome | str, *, timeout_s: float | None = None
    ) -> None:
        """Say how a task ended; raises StaleTokenError if its lease was over by then."""
        final = to_outcome(outcome)
        talk = self._session.report(
            assignment.job, assignment.round, assignment.token, final, timeout_s
        )
        await self._call(talk)
        assignment.outcome = final

    async def auto_assign(self, wait_s: float = 60.0) -> AsyncAssignment | None:
        """Check in until a task suits and is got: see :meth:`propius.Client.auto_assign`."""
        message = await self._call(self._session.auto_assign(self._select, wait_s))
        return None if message is None else AsyncAssignment(self, message)

    async def close(self) -> None:
        """Close the connection, unless it was shared, and let go of the kept device id."""
        try:
            if self._owned:
                await self._connection.close()
        finally:
            self._free_id()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, talk: Talk[T]) -> T:
        async with self._turn:
            return await self._connection.call(talk)
