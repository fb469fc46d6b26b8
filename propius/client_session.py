"""What a client says to the load balancer, as talks (:mod:`propius.session`).

:meth:`ClientSession.auto_assign` is a client's whole cycle::

    check in ──► offer ──► no task suits ──► decline ──┐
      ▲ ▲          │                                   │
      │ └──────────┼───────────────────────────────────┘
      │ all refused│ some suit
      └───────── accept the best ──► assignment ──► (work) ──► report

The session never holds a private spec: it gets a function that says which tasks suit, and
nothing that it encodes has seen one.

Not here: sockets (:mod:`propius.connection`) and what users call (:mod:`propius.client`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from propius import messages
from propius.errors import (
    CheckInAgainError,
    InvalidValueError,
    RefusedError,
    RequestTimeoutError,
)
from propius.messages import ErrorCode, Message, Ok, Outcome, Task
from propius.session import NOW, Session, Talk, check_values, to_ns, to_vector

Select: TypeAlias = Callable[[Sequence[Task]], Sequence[Task]]
"""Of the offered tasks, those that the client would serve, in the order in which it wants them."""

# Another manager answers these after the first one is gone, and knows what was granted.
_PATIENT: Final = frozenset({ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.CHECK_IN_AGAIN})
# The task is not to be had; the next one may be.
_TRY_NEXT: Final = frozenset(
    code.value
    for code in (
        ErrorCode.ROUND_FULL, ErrorCode.ROUND_CLOSED, ErrorCode.NOT_OFFERED,
        ErrorCode.UNKNOWN_JOB, ErrorCode.LIMIT, ErrorCode.BUSY, ErrorCode.NOT_READY,
        ErrorCode.CHECK_IN_AGAIN, ErrorCode.JOB_BACKS_OFF, ErrorCode.TOO_SOON,
    )
)  # fmt: skip
_PAUSE_MIN_S: Final = 0.05
"""Between an offer that led to nothing and the next check-in; doubled each time, up to …"""
_PAUSE_MAX_S: Final = 2.0
_is_device_id: Final = re.compile("[0-9a-f]{32}").fullmatch


def suits(private_spec: Mapping[str, float], task: Task) -> bool:
    """Whether a private spec meets a task's private constraint: at least as much of everything.

    >>> suits({"images": 120.0}, Task(1, 0, {"images": 100.0}))
    True
    >>> suits({"images": 120.0}, Task(1, 0, {"images": 100.0, "texts": 0.0}))
    False
    """
    return all(
        name in private_spec and private_spec[name] >= bound
        for name, bound in task.private_constraint.items()
    )


@dataclass(slots=True, kw_only=True)
class ClientSession(Session):
    """One device's session; its requests are asked one after the other."""

    spec: Mapping[str, float]
    option: float = 1.0
    offered: tuple[Task, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        super(ClientSession, self).__post_init__()
        if not _is_device_id(self.sender):
            raise InvalidValueError(f"device_id {self.sender!r} is not 32 characters 0-9 a-f")
        check_values(self.spec, "spec")
        check_values({"option": self.option}, "client")

    def check_in(
        self, wait_s: float = 30.0, deadline_ns: int | None = None
    ) -> Talk[messages.Offer]:
        """Say that the device is free; returns an offer, empty if nothing came in ``wait_s``."""
        left_s = float(wait_s)

        def compose(schema: messages.Schema) -> Message:
            vector = to_vector(schema, self.spec, "spec")
            return messages.CheckIn(
                schema=schema.schema, spec=vector, option=float(self.option), wait_s=left_s
            )

        now_ns = (yield NOW).now_ns
        until_ns = now_ns + to_ns(wait_s)
        last_ns = until_ns + to_ns(self.timeout_s)
        tries = 0
        while True:
            try:
                offer = yield from self.ask_with_schema(
                    compose, messages.Offer, hold_s=left_s, deadline_ns=deadline_ns
                )
            except CheckInAgainError as error:
                tries += 1
                now_ns = (yield NOW).now_ns
                deadline_ns = last_ns if deadline_ns is None else min(last_ns, deadline_ns)
                pause_s = error.retry_after_s + self.backoff_s(tries)
                if now_ns + to_ns(pause_s) >= deadline_ns:
                    raise
                now_ns = yield from self.pause(pause_s)
                left_s = max(0.0, (until_ns - now_ns) / 1e9)
            else:
                self.offered = tuple(offer.tasks)
                return offer

    def accept(
        self, job: int, round_no: int, deadline_ns: int | None = None
    ) -> Talk[messages.Assignment]:
        """Take a task that was offered."""
        message = messages.Accept(job=job, round=round_no)
        asked = self.ask(message, messages.Assignment, patient=_PATIENT, deadline_ns=deadline_ns)
        return (yield from asked)

    def decline(self, rounds: list[tuple[int, int]], deadline_ns: int | None = None) -> Talk[None]:
        """None of these suits."""
        message = messages.Decline(rounds=rounds)
        yield from self.ask(message, Ok, patient=_PATIENT, deadline_ns=deadline_ns)

    def report(
        self,
        job: int,
        round_no: int,
        token: bytes,
        outcome: Outcome,
        timeout_s: float | None = None,
    ) -> Talk[None]:
        """Say how the task ended."""
        now_ns = (yield NOW).now_ns
        deadline_ns = None if timeout_s is None else now_ns + to_ns(timeout_s)
        message = messages.Report(job=job, round=round_no, token=token, outcome=outcome)
        yield from self.ask(message, Ok, patient=_PATIENT, deadline_ns=deadline_ns)

    def auto_assign(self, select: Select, wait_s: float) -> Talk[messages.Assignment | None]:
        """Check in until a task suits and is got; None if there was none within ``wait_s``.

        The last answer is waited for as long as for any request: ``timeout_s`` beyond that.
        """
        now_ns = (yield NOW).now_ns
        deadline_ns = now_ns + to_ns(wait_s)
        last_ns = deadline_ns + to_ns(self.timeout_s)
        vain = 0
        while True:
            left_s = min(max(0.0, (deadline_ns - now_ns) / 1e9), messages.WAIT_S_MAX)
            offer = yield from self._offer(left_s, last_ns)
            answer = yield from self._take(offer, select, last_ns)
            if isinstance(answer, messages.Assignment):
                return answer
            pause_s = offer.retry_after_s
            if isinstance(answer, RefusedError):
                pause_s = answer.retry_after_s + self.backoff_s(vain)
            now_ns = (yield NOW).now_ns
            pause_s = max(pause_s, min(_PAUSE_MIN_S * 2 ** min(vain, 10), _PAUSE_MAX_S))
            vain += 1
            if now_ns + to_ns(pause_s) < deadline_ns:
                now_ns = yield from self.pause(pause_s)
            elif isinstance(answer, RefusedError) and answer.code == ErrorCode.DEVICE_BUSY:
                raise answer
            else:
                return None

    def _offer(self, wait_s: float, last_ns: int) -> Talk[messages.Offer]:
        """An offer; an empty one if a server that came back still holds the check-in."""
        try:
            return (yield from self.check_in(wait_s, last_ns))
        except RequestTimeoutError as error:
            if not error.held_anew:
                raise
            return messages.Offer(tasks=[], plan_version=0, retry_after_s=0.0)

    def _take(
        self, offer: messages.Offer, select: Select, last_ns: int
    ) -> Talk[messages.Assignment | RefusedError | None]:
        """The first task that suits and is got, or the last refusal, or None if none suits."""
        suitable = select(offer.tasks) if offer.tasks else []
        refusal: RefusedError | None = None
        for task in suitable:
            try:
                return (yield from self.accept(task.job, task.round, last_ns))
            except RefusedError as error:
                refusal = error
                if error.code == ErrorCode.DEVICE_BUSY:  # by a lease from before, whatever the task
                    return error
                if error.code not in _TRY_NEXT:
                    raise
        if offer.tasks and not suitable:
            yield from self.decline([(task.job, task.round) for task in offer.tasks], last_ns)
        return refusal


def to_outcome(outcome: Outcome | str) -> Outcome:
    """An outcome that a device may report; raises InvalidValueError for another."""
    reportable = (Outcome.COMPLETED, Outcome.FAILED, Outcome.DROPPED)
    if outcome not in reportable:
        names = ", ".join(each.value for each in reportable)
        raise InvalidValueError(f"outcome {outcome!r} is not one of {names}")
    return Outcome(outcome)
