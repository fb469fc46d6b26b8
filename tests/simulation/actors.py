"""Job servers and devices: the SDK's real sessions, driven as its drivers do, living badly.

Each has a life, which is one long talk. What it is answered, it tells the oracle; what goes wrong
with it (vanishing, failing, being late, asking twice) is drawn from the seed while faults are on.

Not here: whether the answers are right (:mod:`tests.simulation.oracle`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from propius.calls import Call, Calls
from propius.client_session import ClientSession, suits
from propius.errors import (
    BusyError,
    InvalidStateError,
    PropiusError,
    ProtocolError,
    RefusedError,
    RequestTimeoutError,
    StaleTokenError,
    UnknownJobError,
)
from propius.job_session import JobSession, JobTerms
from propius.messages import Assignment, ErrorCode, Outcome, RoundStatus, Task
from propius.session import NOW, Talk
from tests.simulation.clock import SECOND_NS
from tests.simulation.durable import check
from tests.simulation.faults import Fault
from tests.simulation.host import InvariantError, Surroundings
from tests.simulation.network import Frames
from tests.simulation.oracle import LIVE_ROUND_STATES, Oracle

TIMEOUT_S: Final = 15.0
LINK: Final = "sdk"


class Actor:
    """A process that uses the SDK over one connection."""

    def __init__(self, name: str, around: Surroundings, oracle: Oracle) -> None:
        self.name = name
        self.around, self.oracle = around, oracle
        self.finished = False
        self._random: Random = around.faults.random
        self._calls = Calls()
        self._call: Call[None] | None = None
        self._lives = 0
        # Every machine's monotonic clock began at another time.
        self._skew_ns = self._random.randrange(10**15)

    def life(self) -> Talk[None]:
        """What it does from its start on."""
        raise NotImplementedError

    def start(self) -> None:
        """The process starts (again), with new sessions."""
        self._lives += 1
        self._calls = Calls()
        self.around.network.up(self)
        self._call = self._calls.start(self._now_ns(), self.life())
        self._go_on()

    def vanish(self) -> bool:
        """The process dies, and comes back a little later."""
        if self.finished or self._call is None:
            return False
        self._stop()
        wait_ns = int(self._random.random() ** 2 * 10 * SECOND_NS)
        self.around.clock.after(wait_ns, self.start)
        return True

    def deliver(self, link: str, peer: bytes, frames: Frames) -> None:
        """An answer arrived."""
        if self._call is not None:
            self._calls.receive(self._now_ns(), frames)
            self._go_on()

    def connected(self, link: str) -> None:
        """The connection stands (again)."""
        if self._call is not None:
            self._calls.reconnected(self._now_ns())
            self._go_on()

    def misfortune(self, probability: float) -> bool:
        """Whether something of this probability goes wrong now; never after the faults ended."""
        return self.around.faults.active and self._random.random() < probability

    def _now_ns(self) -> int:
        return self.around.clock.now_ns + self._skew_ns

    def _stop(self) -> None:
        self.around.trace.note(self.around.clock.now_ns, f"{self.name} dies")
        self._call = None
        self._lives += 1
        self._calls.close()
        self.around.network.down(self, Fault.VANISH)

    def _go_on(self) -> None:
        """Send what is to be sent, wake up when it is due, end when life is over."""
        call = self._call
        assert call is not None
        if self.around.network.is_connected(self.name, LINK):
            outbox = self._calls.outbox
            while outbox:
                key = next(iter(outbox))
                self.around.network.send(self, LINK, b"", outbox.pop(key))
        if call.done:
            self.finished, self._call = True, None
            self.around.network.forget(self)
            self._end(call)
            return
        due_ns = self._calls.due_ns()
        assert due_ns is not None
        self.around.clock.at(due_ns - self._skew_ns, self._tick, self._lives, due_ns)

    def _end(self, call: Call[None]) -> None:
        try:
            call.result()
        except InvariantError:
            raise
        except Exception as error:
            text = f"{self.name}: the SDK raised {type(error).__name__}: {error}"
            raise InvariantError(text) from error

    def _tick(self, life: int, due_ns: int) -> None:
        if life == self._lives and self._call is not None and self._calls.due_ns() == due_ns:
            self._calls.tick(self._now_ns())
            self._go_on()


class JobServer(Actor):
    """A job: registers, has so many rounds done, completes. It remembers its id on its own disk."""

    def __init__(
        self,
        name: str,
        around: Surroundings,
        oracle: Oracle,
        terms: JobTerms,
        round_settings: Mapping[str, Any],
    ) -> None:
        super().__init__(name, around, oracle)
        self.terms, self.round_settings = terms, round_settings
        self.rounds_seen = 0  # that reached a final state
        self._saved: tuple[int, bytes] | None = None
        self._last_round = -1

    def life(self) -> Talk[None]:
        session = yield from self._open_session()
        while self.rounds_seen < self.terms.rounds:
            try:
                yield from self._round(session)
            except PropiusError:
                yield from session.pause(self._random.uniform(0.1, 1.0))
                if not (yield from self._is_live(session)):
                    return
        yield from self._complete(session)

    def _open_session(self) -> Talk[JobSession]:
        while True:
            session = JobSession(
                sender=f"{self.name}.{self._lives}.{self._random.randrange(1 << 30)}",
                dice=self._random,
                timeout_s=TIMEOUT_S,
                peer="job_manager",
                terms=self.terms,
            )
            try:
                if self._saved is None:
                    self.oracle.registering(self.name)
                    yield from session.register()
                    self._saved = (session.id, session.secret)
                    self.oracle.registered(session.id, session.secret, self.terms)
                else:
                    status = yield from session.attach(*self._saved)
                    self.oracle.job_shown(status)
                return session
            except UnknownJobError as error:
                if self._saved is not None:
                    raise InvariantError(f"{self.name}: its job is gone: {error}") from error
                raise
            except PropiusError:
                yield from session.pause(self._random.uniform(0.1, 2.0))

    def _is_live(self, session: JobSession) -> Talk[bool]:
        """Whether the job still lives; if not, it must be by its own doing, or by silence."""
        status = yield from self._persist(session, session.show)
        self.oracle.job_shown(status)
        done = self.rounds_seen >= self.terms.rounds
        ends = {"expired", "completed"} if done else {"expired"}
        check(status.state in {"idle", "requesting", "paused"} | ends, "ended by nobody", status)
        return status.state not in ends

    def _persist(self, session: JobSession, verb: Callable[[], Talk[Any]]) -> Talk[Any]:
        """Ask until there is an answer that can be believed: nothing else helps."""
        while True:
            try:
                return (yield from verb())
            except (RequestTimeoutError, BusyError, ProtocolError):
                yield from session.pause(self._random.uniform(0.1, 0.5))
            except RefusedError as error:
                if error.code != ErrorCode.INVALID:  # else it arrived torn
                    raise

    def _complete(self, session: JobSession) -> Talk[None]:
        try:
            yield from self._persist(session, session.complete_job)
        except InvalidStateError:  # a torn answer to the first try: see what became of it
            yield from self._is_live(session)
        else:
            self.oracle.job_completed(session.id)

    def _round(self, session: JobSession) -> Talk[None]:
        """The round that is under way, or else the next one, until it is over."""
        status = yield from session.show()
        self.oracle.job_shown(status)
        if status.state == "paused":  # by a life before this one, or before a time-out
            yield from self._persist(session, session.resume)
            self.oracle.paused(session.id, False)
        live = status.round >= 0 and str(status.round_state) in LIVE_ROUND_STATES
        if not live:
            if status.round > self._last_round:  # it ended while nobody watched
                self._last_round = status.round
                self.rounds_seen += 1
                return
            self.oracle.starting(session.id)
            number = yield from session.start_request(**self.round_settings)
            self.oracle.request_started(session.id, number, self.terms.demand)
        else:
            number = status.round
        yield from self._watch(session, number)
        self._last_round = number
        self.rounds_seen += 1

    def _watch(self, session: JobSession, number: int) -> Talk[RoundStatus]:
        seen = 0
        while True:
            wait_s = self._random.uniform(1.0, 8.0)
            known = self.oracle.acknowledged(session.id, number)
            status = yield from session.watch_round(number, seen=seen, wait_s=wait_s)
            self.oracle.round_shown(status, known)
            seen = status.version
            if str(status.state) not in LIVE_ROUND_STATES:
                return status
            if self.misfortune(0.01):
                yield from session.pause_job()
                self.oracle.paused(session.id, True)
                yield from session.pause(self._random.uniform(0.0, 2.0))
                yield from self._persist(session, session.resume)
                self.oracle.paused(session.id, False)
            if self.misfortune(0.02) or (status.filled_after_s >= 0 and self.misfortune(0.05)):
                yield from session.end_request(number)
                self.oracle.request_ended(session.id, number)
            elif self.misfortune(0.05):
                yield from session.heartbeat()


class Device(Actor):
    """A device: takes tasks for ever, works, reports; sometimes badly."""

    def __init__(
        self,
        name: str,
        around: Surroundings,
        oracle: Oracle,
        spec: Mapping[str, float],
        private_spec: Mapping[str, float],
        pace: float,
    ) -> None:
        super().__init__(name, around, oracle)
        self.spec, self.private_spec, self.pace = spec, private_spec, pace
        self.stopping = False
        self._checked_in_ns = 0

    def life(self) -> Talk[None]:
        session = ClientSession(
            sender=self.name,
            dice=self._random,
            timeout_s=TIMEOUT_S,
            peer="load_balancer",
            spec=self.spec,
            option=self.pace,
        )
        yield from session.pause(self._random.uniform(0.0, 1.0))
        while not self.stopping:
            asked_ns = (yield NOW).now_ns
            try:
                assignment = yield from session.auto_assign(
                    self._select, self._random.uniform(1.0, 8.0)
                )
            except PropiusError:
                assignment = None
            if assignment is None:
                yield from session.pause(self._random.uniform(0.1, 1.0))
                continue
            self.oracle.assigned(self.name, assignment)
            yield from self._work(session, assignment, asked_ns)

    def _select(self, tasks: Sequence[Task]) -> list[Task]:
        for task in tasks:
            self.oracle.offered(self.name, self.spec, task)
        return [task for task in tasks if suits(self.private_spec, task)]

    def _work(self, session: ClientSession, task: Assignment, asked_ns: int) -> Talk[None]:
        """Work on the task and report it, unless something comes between."""
        if self.misfortune(0.05):
            return  # forgets about it, and checks in with the lease still held
        late = self.misfortune(0.05)
        work_s = task.lease_s * 1.3 if late else self._random.uniform(0.05, 0.3) * task.lease_s
        yield from session.pause(work_s * (1.0 if late else self.pace))
        outcome = Outcome.FAILED if self.misfortune(0.08) else Outcome.COMPLETED
        self.oracle.reporting(self.name, task, outcome)
        for again in range(2 if self.misfortune(0.05) else 1):
            try:
                yield from session.report(task.job, task.round, task.token, outcome)
            except StaleTokenError:
                passed_ns = (yield NOW).now_ns - asked_ns
                self.oracle.report_refused(self.name, task, passed_ns, first=not again)
            except PropiusError:
                yield from session.pause(self._random.uniform(0.1, 1.0))
            else:
                self.oracle.reported(self.name, task, outcome)
