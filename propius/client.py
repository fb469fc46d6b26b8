"""A device's side, blocking: :class:`Client`, and the slot that it gets, :class:`Assignment`.

Every verb is a talk of :mod:`propius.client_session`; here it is only carried out. The same for
asyncio is in :mod:`propius.aio`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeAlias

from propius import messages
from propius.client_session import ClientSession, Select, suits, to_outcome
from propius.connection import Connection, check_route, fresh_dice
from propius.errors import PropiusError
from propius.identity import Hold
from propius.identity import device_id as kept_device_id
from propius.messages import Offer, Outcome, Task
from propius.session import check_values

LAST_REPORT_S: Final = 2.0
"""How long a task that was interrupted (Ctrl-C, cancellation) tries to say so."""
TaskRef: TypeAlias = Task | tuple[int, int]
"""A task of an offer, or its (job, round)."""


class Assignment:
    """The right of this device to one slot of a round, for ``lease_s`` seconds.

    ``endpoint`` is where the job server is, ``token`` what proves the right to it, and ``outcome``
    what was reported (None: nothing yet).
    """

    def __init__(self, message: messages.Assignment) -> None:
        self.job: Final = message.job
        self.round: Final = message.round
        self.endpoint: Final = message.endpoint
        self.lease_s: Final = message.lease_s
        self.token: Final = message.token
        self.outcome: Outcome | None = None
        self._until_s: Final = time.monotonic() + message.lease_s

    @property
    def remaining_s(self) -> float:
        """Seconds until the slot goes to another device; not below 0."""
        return max(0.0, self._until_s - time.monotonic())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} job={self.job} round={self.round} outcome={self.outcome}>"


class SyncAssignment(Assignment):
    """An assignment of a :class:`Client`; as a context manager it reports itself.

    Leaving the block reports ``completed``; by an exception ``failed``, and by an interrupt (such
    as Ctrl-C) ``dropped``. It reports nothing if the block has called :meth:`report`.
    """

    def __init__(self, client: Client, message: messages.Assignment) -> None:
        super().__init__(message)
        self._client = client

    def report(self, outcome: Outcome | str) -> None:
        """Say how the task ended: completed, failed or dropped."""
        self._client.report(self, outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.outcome is not None:
            return
        outcome, timeout_s = outcome_of(error)
        try:
            self._client.report(self, outcome, timeout_s=timeout_s)
        except PropiusError as unreported:
            if error is None:
                raise
            error.add_note(f"the report of this failed, too: {unreported}")


class Device:
    """What :class:`Client` and :class:`propius.AsyncClient` know without asking anybody."""

    _session: ClientSession
    _hold: Hold | None

    @property
    def device_id(self) -> str:
        """The id that this device goes by."""
        return self._session.sender

    def _free_id(self) -> None:
        if self._hold is not None:
            self._hold.release()


class Client(Device):
    """One edge device.

    ``spec`` are its public attributes (missing ones are 0) and ``option`` its speed score (larger
    is faster). ``private_spec`` never leaves the device: it is compared here with the private
    constraints of the offered tasks, and only the choice is sent. ``select`` replaces that rule: it
    gets the offered tasks and returns those to try, in order.

    ``device_id`` is :func:`propius.device_id` unless given. Only one client at a time may go by
    that kept id: until it is closed, the next raises DeviceIdInUseError. Further devices on one
    machine need an id each, such as :func:`propius.ephemeral_id`.
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
        connection: Connection | None = None,
    ) -> None:
        check_route(endpoint, connection)
        self._select = select or own_rule(private_spec)
        self._owned = connection is None
        self._connection = connection or Connection(endpoint)
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

    def check_in(self, wait_s: float = 30.0) -> Offer:
        """Say that the device is free, and wait for an offer; it is empty after ``wait_s``."""
        return self._connection.call(self._session.check_in(wait_s))

    def accept(self, task: TaskRef) -> SyncAssignment:
        """Take a task of the last offer.

        Raises InvalidStateError if it is not to be had: the round is full or closed, it was not
        offered, or this device holds another lease.
        """
        job, round_no = to_ref(task)
        return SyncAssignment(self, self._connection.call(self._session.accept(job, round_no)))

    def decline(self, tasks: Iterable[TaskRef]) -> None:
        """None of these suits: they are not offered to this device again."""
        self._connection.call(self._session.decline([to_ref(task) for task in tasks]))

    def report(
        self, assignment: Assignment, outcome: Outcome | str, *, timeout_s: float | None = None
    ) -> None:
        """Say how a task ended; raises StaleTokenError if its lease was over by then."""
        final = to_outcome(outcome)
        talk = self._session.report(
            assignment.job, assignment.round, assignment.token, final, timeout_s
        )
        self._connection.call(talk)
        assignment.outcome = final

    def auto_assign(self, wait_s: float = 60.0) -> SyncAssignment | None:
        """Check in until a task suits and is got; None if there was none within ``wait_s``.

        ::

            while task := client.auto_assign():
                with task:
                    train(task.endpoint, task.token)
        """
        message = self._connection.call(self._session.auto_assign(self._select, wait_s))
        return None if message is None else SyncAssignment(self, message)

    def close(self) -> None:
        """Close the connection, unless it was shared, and let go of the kept device id."""
        try:
            if self._owned:
                self._connection.close()
        finally:
            self._free_id()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def own_rule(private_spec: Mapping[str, float] | None) -> Select:
    """The rule that keeps a private spec on the device: the tasks whose constraint it meets."""
    private = dict(private_spec or {})
    check_values(private, "private_spec", negative=True)

    def select(tasks: Sequence[Task]) -> list[Task]:
        return [task for task in tasks if suits(private, task)]

    return select


def to_ref(task: TaskRef) -> tuple[int, int]:
    """The (job, round) of a task."""
    return (task.job, task.round) if isinstance(task, Task) else task


def outcome_of(error: BaseException | None) -> tuple[Outcome, float | None]:
    """How a block that ended so is reported, and how long that may take (None: as ever)."""
    if error is None:
        return Outcome.COMPLETED, None
    if isinstance(error, Exception):
        return Outcome.FAILED, None
    return Outcome.DROPPED, LAST_REPORT_S
