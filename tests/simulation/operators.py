"""The life of an operator: looks at all jobs again and again, and sometimes cancels one.

Not here: sending and waking (:mod:`tests.simulation.actors`).
"""

from __future__ import annotations

from typing import Final

from propius.errors import InvalidStateError, PropiusError
from propius.job_session import OperatorSession
from propius.session import Talk
from tests.simulation.actors import TIMEOUT_S, Actor
from tests.simulation.durable import LIVE_JOB_STATES, check
from tests.simulation.host import Surroundings
from tests.simulation.oracle import Oracle

CANCELS: Final = 0.05  # probability that this operator cancels a job


class Operator(Actor):
    """Whoever has the operator's key."""

    outside = "jobs"

    def __init__(self, name: str, around: Surroundings, oracle: Oracle, key: bytes) -> None:
        super().__init__(name, around, oracle)
        self.stopping = False
        self._key = key
        self._cancels = around.faults.active and self._random.random() < CANCELS

    def life(self) -> Talk[None]:
        session = OperatorSession(
            sender=f"{self.name}.{self._lives}",
            dice=self._random,
            timeout_s=TIMEOUT_S,
            peer="job_manager",
            key=self._key,
        )
        while not self.stopping:
            yield from session.pause(self._random.uniform(2.0, 12.0))
            try:
                yield from self._look(session)
            except PropiusError:
                continue

    def _look(self, session: OperatorSession) -> Talk[None]:
        """All jobs are listed, however small the pages are, and each can be shown."""
        known = list(self.oracle.jobs_known)
        live = self._random.random() < 0.5
        jobs = yield from session.list_jobs(active_only=live, page=self._random.randint(1, 3))
        listed = [status.job for status in jobs]
        check(listed == sorted(set(listed)), "jobs out of order", listed)
        if live:  # a job that was live all the time must be among them
            known = [n for n in known if self.oracle.durable.jobs[n].state in LIVE_JOB_STATES]
        missing = [number for number in known if number not in listed]
        check(not missing, f"jobs {missing} are not listed", listed)
        if not known:
            return
        number = self._random.choice(known)
        status = yield from session.show(number)
        check(status.job == number, "another job was shown", status)
        if self._cancels and self.misfortune(0.3):
            self._cancels = False
            self.oracle.cancelling[number] = None
            try:
                yield from self.persist(session, lambda: session.cancel(number, "operator"))
            except InvalidStateError:
                return  # it was over
            self.oracle.job_cancelled(number)
