"""The lives of job servers: register, have so many rounds done, complete; or an earlier end.

A job server remembers its id, its secret and how far it came on a disk of its own. While faults are
on it pauses and resumes, ends rounds early, attaches anew, asks about itself; and now and then one
has another :class:`Fate` than to complete when it is done.

Not here: sending and waking (:mod:`tests.simulation.actors`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from random import Random
from typing import Any, Final

from propius.errors import ConflictError, InvalidStateError, PropiusError, UnknownJobError
from propius.job_session import JobSession, JobTerms
from propius.messages import RoundStatus
from propius.session import Talk
from tests.simulation.actors import TIMEOUT_S, Actor
from tests.simulation.durable import check
from tests.simulation.host import InvariantError, Surroundings
from tests.simulation.oracle import LIVE_ROUND_STATES, Oracle


class Fate(enum.Enum):
    """How a job server ends."""

    COMPLETES = "completes"  # when all rounds are done
    STOPS_EARLY = "stops early"  # completes its job in the middle of a round
    CANCELS = "cancels"  # its own job, in the middle of a round
    DIES = "dies"  # and nobody ends the job


_OTHER: Final = (Fate.STOPS_EARLY, Fate.CANCELS, Fate.DIES)
SHORT: Final = "needs other devices"  # of the reason of a round that runs short
OTHER_FATE: Final = 0.1  # probability of one
AGAIN: Final = 0.3  # probability that a round lets a device serve it several times
QUIET_MAX: Final = 2  # watches in a row that a round may run short without anything happening


class JobServer(Actor):
    """One job and the process that speaks for it."""

    outside = "jobs"

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
        self.fate = Fate.COMPLETES
        if around.faults.active and self._random.random() < OTHER_FATE:
            self.fate = self._random.choice(_OTHER)
        self.endpoint = terms.server_endpoint
        self._fate_round = self._random.randrange(terms.rounds)
        self._draws = Random(f"{name} {self._fate_round} once")  # leaves what others draw alone
        self._saved: tuple[int, bytes] | None = None
        self._last_round = -1
        self._ended = False  # the job is over, by its fate

    def life(self) -> Talk[None]:
        session = yield from self._open_session()
        while self.rounds_seen < self.terms.rounds and not self._ended:
            try:
                yield from self._round(session)
            except PropiusError as error:
                yield from session.pause(self._random.uniform(0.1, 1.0))
                if isinstance(error, ConflictError):  # the job manager has forgotten this session
                    session = yield from self._open_session()
                if not (yield from self._is_live(session)):
                    return
        if not self._ended:
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
        """Whether the job still lives; if not, somebody must have ended it, or silence."""
        status = yield from self.persist(session, session.show)
        self.oracle.job_shown(status)
        done = self.rounds_seen >= self.terms.rounds or self.fate is Fate.STOPS_EARLY
        cancelled = self.fate is Fate.CANCELS or session.id in self.oracle.cancelling
        ends = {"expired"}
        ends |= {"completed"} if done else set()
        ends |= {"cancelled"} if cancelled else set()
        check(status.state in {"idle", "requesting", "paused"} | ends, "ended by nobody", status)
        return status.state not in ends

    def _complete(self, session: JobSession) -> Talk[None]:
        try:
            yield from self.persist(session, session.complete_job)
        except InvalidStateError:  # a torn answer to the first try: see what became of it
            yield from self._is_live(session)
        else:
            self.oracle.job_completed(session.id)

    # --- rounds ----------------------------------------------------------------------------------

    def _round(self, session: JobSession) -> Talk[None]:
        """The round that is under way, or else the next one, until it is over."""
        status = yield from session.show()
        self.oracle.job_shown(status)
        if status.state == "paused":  # by a life before this one, or before a time-out
            yield from self._resume(session)
        live = status.round >= 0 and str(status.round_state) in LIVE_ROUND_STATES
        if not live:
            if status.round > self._last_round:  # it ended while nobody watched
                self._last_round = status.round
                self.rounds_seen += 1
                return
            self.oracle.starting(session.id)
            settings = {**self.round_settings, "once_per_device": self._draws.random() >= AGAIN}
            number = yield from session.start_request(**settings)
            self.oracle.request_started(
                session.id, number, self.terms.demand, self.round_settings["deadline_s"]
            )
        else:
            number = status.round
        yield from self._watch(session, number)
        if not self._ended:
            self._last_round = number
            self.rounds_seen += 1

    def _watch(self, session: JobSession, number: int) -> Talk[RoundStatus]:
        seen, quiet = 0, 0
        while True:
            wait_s = self._random.uniform(1.0, 8.0)
            known = self.oracle.acknowledged(session.id, number)
            status = yield from session.watch_round(number, seen=seen, wait_s=wait_s)
            self.oracle.round_shown(status, known)
            if str(status.state) not in LIVE_ROUND_STATES:
                return status
            if self.around.faults.active and self.rounds_seen == self._fate_round:
                yield from self._meet_fate(session)
                if self._ended:
                    return status
            if seen == status.version:  # nothing happens: see why
                shown = yield from session.show()
                self.oracle.job_shown(shown)
                if shown.state == "paused":  # a pause that was given up had its effect after all
                    yield from self._resume(session)
                quiet += SHORT in shown.reason
                if quiet > QUIET_MAX:
                    yield from self._give_up(session, status)
            seen = status.version
            yield from self._be_restless(session, status)

    def _be_restless(self, session: JobSession, status: RoundStatus) -> Talk[None]:
        """What a job server may do in the middle of a round."""
        if self.misfortune(0.01):
            yield from session.pause_job()
            self.oracle.paused(session.id, True)
            yield from session.pause(self._random.uniform(0.0, 2.0))
            yield from self._resume(session)
        if self.misfortune(0.01):
            assert self._saved is not None
            saved = self._saved
            shown = yield from self.persist(session, lambda: session.attach(*saved))
            self.oracle.job_shown(shown)
        if self.misfortune(0.02) or (status.filled_after_s >= 0 and self.misfortune(0.05)):
            yield from session.end_request(status.round)
            self.oracle.request_ended(session.id, status.round)
        elif self.misfortune(0.05):
            yield from session.heartbeat()

    def _give_up(self, session: JobSession, status: RoundStatus) -> Talk[None]:
        """End a round for which only devices are left that served it: the crowd is small."""
        yield from session.end_request(status.round)
        self.oracle.request_ended(session.id, status.round)

    def _resume(self, session: JobSession) -> Talk[None]:
        yield from self.persist(session, session.resume)
        self.oracle.paused(session.id, False)

    def _meet_fate(self, session: JobSession) -> Talk[None]:
        """End the job before its time, if that is its fate."""
        match self.fate:
            case Fate.COMPLETES:
                return
            case Fate.STOPS_EARLY:
                yield from self._complete(session)
            case Fate.CANCELS:
                yield from self.persist(session, lambda: session.cancel("changed its mind"))
                self.oracle.job_cancelled(session.id)
            case Fate.DIES:
                self.around.clock.after(0, self.die)
        self._ended = True
