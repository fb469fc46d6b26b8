"""``watch_round`` requests that wait for their round to change.

Bounded: one a session, :data:`WATCHES_PER_JOB` a job; whoever gives way is answered with the round
as it is. A watch changes nothing, so a repeat of one just takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from daemons.job_manager.book import Book
from daemons.job_manager.deadlines import Deadlines
from daemons.job_manager.queries import round_status
from daemons.job_manager.refusal import Refusal
from daemons.job_manager.verbs import admitted
from propius.core import SECOND_NS
from propius.messages import Error, ErrorCode, Header, Message, RoundRef, WatchRound

WATCHES_PER_JOB: Final = 8

WatchKey = tuple[int, str, int]  # job, sender, session


@dataclass(frozen=True, slots=True)
class Watch:
    """Who waits for which change."""

    peer: bytes
    header: Header
    asked: WatchRound


Answered = tuple[Watch, Message]


class Watches:
    """All held watches."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._by_job: dict[int, dict[WatchKey, Watch]] = {}
        self._due: Deadlines[WatchKey] = Deadlines()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, now_ns: int, peer: bytes, header: Header, asked: WatchRound) -> list[Answered]:
        """Hold the watch or answer it; also those that gave way to it. Raises Refusal."""
        job = admitted(self._book, now_ns, asked)
        if asked.round > job.round:
            text = f"round {asked.round} of job {job.job} was not started yet"
            raise Refusal(ErrorCode.WRONG_STATE, text, "round")
        if (job.job, asked.round) not in self._book.rounds:
            text = f"round {asked.round} of job {job.job} is not kept any more"
            raise Refusal(ErrorCode.WRONG_STATE, text, "round")
        watch = Watch(peer, header, asked)
        version = self._book.rounds[job.job, asked.round].version
        if asked.wait_s == 0 or asked.seen != version:
            return [(watch, self._status(now_ns, watch))]
        return self._hold(now_ns, watch)

    def changed(self, now_ns: int, rounds: Iterable[RoundRef]) -> list[Answered]:
        """The watches that these rounds' changes answer, no longer held."""
        answered = []
        for job, number in rounds:
            of_job = self._by_job.get(job, {})
            for key in [key for key, watch in of_job.items() if watch.asked.round == number]:
                watch = self._take(key)
                answered.append((watch, self._status(now_ns, watch)))
        return answered

    def purged(self, now_ns: int, jobs: Iterable[int]) -> list[Answered]:
        """The watches of jobs that are gone, no longer held."""
        return [
            (watch := self._take(key), self._status(now_ns, watch))
            for job in jobs
            for key in list(self._by_job.get(job, ()))
        ]

    def due_ns(self) -> int | None:
        """When the first watch has waited long enough."""
        return self._due.next_ns()

    def expired(self, now_ns: int) -> list[Answered]:
        """The watches that have waited long enough, no longer held."""
        answered = []
        while (key := self._due.pop(now_ns)) is not None:
            watch = self._take(key)
            answered.append((watch, self._status(now_ns, watch)))
        return answered

    def end_all(self, now_ns: int) -> list[Answered]:
        """Every watch, answered with its round as it is."""
        keys = [key for of_job in self._by_job.values() for key in of_job]
        return [(watch := self._take(key), self._status(now_ns, watch)) for key in keys]

    def _hold(self, now_ns: int, watch: Watch) -> list[Answered]:
        key = (watch.asked.job, watch.header.sender, watch.header.session)
        of_job = self._by_job.setdefault(watch.asked.job, {})
        displaced = None
        if key in of_job:
            displaced = self._take(key)
            if displaced.header.request == watch.header.request:
                displaced = None  # the same request again: one answer is enough
        elif len(of_job) >= WATCHES_PER_JOB:
            displaced = self._take(next(iter(of_job)))
        self._by_job.setdefault(watch.asked.job, {})[key] = watch
        self._due.set(key, now_ns + int(watch.asked.wait_s * SECOND_NS))
        return [(displaced, self._status(now_ns, displaced))] if displaced else []

    def _take(self, key: WatchKey) -> Watch:
        of_job = self._by_job[key[0]]
        watch = of_job.pop(key)
        if not of_job:
            del self._by_job[key[0]]
        self._due.drop(key)
        return watch

    def _status(self, now_ns: int, watch: Watch) -> Message:
        round_ = self._book.rounds.get((watch.asked.job, watch.asked.round))
        if round_ is None:
            text = f"round {watch.asked.round} of job {watch.asked.job} is not kept any more"
            return Error(code=ErrorCode.UNKNOWN_JOB, text=text)
        return round_status(self._book, now_ns, round_)
