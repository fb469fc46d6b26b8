"""The lives of devices: take tasks for ever, work, report; sometimes badly.

Some use ``auto_assign``, some do each step by hand. While faults are on they forget offers and
tasks, work too long, fail, drop tasks, report or accept twice, decline what would suit, and now and
then one dies for good with a lease in its hands.

Not here: sending and waking (:mod:`tests.simulation.actors`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from propius.client_session import ClientSession, suits
from propius.errors import PropiusError, RefusedError, StaleTokenError
from propius.messages import Assignment, Outcome, Task
from propius.session import NOW, Talk
from tests.simulation.actors import TIMEOUT_S, Actor
from tests.simulation.host import Surroundings
from tests.simulation.oracle import Oracle


class Device(Actor):
    """One device; a ``reliable`` one never dies for good, and declines only what does not suit."""

    outside = "clients"

    def __init__(
        self,
        name: str,
        around: Surroundings,
        oracle: Oracle,
        spec: Mapping[str, float],
        private_spec: Mapping[str, float],
        pace: float,
        *,
        reliable: bool,
    ) -> None:
        super().__init__(name, around, oracle)
        self.spec, self.private_spec, self.pace = spec, private_spec, pace
        self.reliable = reliable
        self.stopping = False
        self._by_hand = self._random.random() < 0.4

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
            wait_s = self._random.uniform(1.0, 5.0)
            try:
                if self._by_hand:
                    assignment = yield from self._step_by_step(session, wait_s)
                else:
                    assignment = yield from session.auto_assign(self._select, wait_s)
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

    def _step_by_step(self, session: ClientSession, wait_s: float) -> Talk[Assignment | None]:
        """One offer, taken or declined."""
        offer = yield from session.check_in(wait_s)
        suitable = self._select(offer.tasks)
        if self.misfortune(0.03):
            return None  # as if it had never seen the offer
        if not suitable or (not self.reliable and self.misfortune(0.1)):
            if offer.tasks:
                yield from session.decline([(task.job, task.round) for task in offer.tasks])
            elif not self.misfortune(0.1):  # a few come back sooner than they are told to
                yield from session.pause(offer.retry_after_s)
            return None
        return (yield from session.accept(suitable[0].job, suitable[0].round))

    def _work(self, session: ClientSession, task: Assignment, asked_ns: int) -> Talk[None]:
        """Work on the task and report it, unless something comes between."""
        self.around.tokens.append(task)
        if task.endpoint in self.around.ill:
            yield from session.pause(self._random.uniform(0.01, 0.05))
            yield from self._report(session, task, Outcome.FAILED, asked_ns)
            return
        if self.misfortune(0.05):
            return  # forgets about it, and checks in with the lease still held
        if not self.reliable and self.misfortune(0.02):
            self.around.clock.after(0, self.die)
            yield from session.pause(1.0)  # it does not live to see the end of this
        if self.misfortune(0.03):
            yield from self._accept_again(session, task)
        dropped, late = self.misfortune(0.04), self.misfortune(0.05)
        work_s = task.lease_s * 1.3 if late else self._random.uniform(0.02, 0.15) * task.lease_s
        if not dropped:
            yield from session.pause(work_s * (1.0 if late else self.pace))
        outcome = Outcome.FAILED if self.misfortune(0.08) else Outcome.COMPLETED
        yield from self._report(session, task, Outcome.DROPPED if dropped else outcome, asked_ns)

    def _accept_again(self, session: ClientSession, task: Assignment) -> Talk[None]:
        """It has a task, and asks for it once more as if it had none."""
        try:
            second = yield from session.accept(task.job, task.round)
        except (RefusedError, PropiusError):
            return
        self.oracle.assigned_again(self.name, task, second)

    def _report(
        self, session: ClientSession, task: Assignment, outcome: Outcome, asked_ns: int
    ) -> Talk[None]:
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
