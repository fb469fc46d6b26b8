"""The job manager's core: takes messages to their handlers, keeps answers until they are durable.

How a batch goes: each message is decided in memory at once (``verbs.py``, ``claims.py``,
``watches.py``); ``flush`` numbers the changed jobs for the scheduler, answers watchers, and emits
one commit with each changed record once; what the batch said leaves in ``committed``.

**Invariant:** while a commit is failing, or too many answers wait for the store, nothing new is
decided: requests get ``busy``, timers stand still, and memory is never rolled back.

Not here: sockets, files and clocks (the shell's), and reading the configuration (``main.py``).
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from daemons.job_manager.book import CLOCK_BUSY_NS
from daemons.job_manager.claims import decide_claim, decide_report, refused_claim, refused_report
from daemons.job_manager.invariants import check, check_live
from daemons.job_manager.outbox import Outbox, Reply, ToManager, ToScheduler
from daemons.job_manager.queries import offered_state
from daemons.job_manager.recovery import Records, recover
from daemons.job_manager.refusal import Refusal
from daemons.job_manager.settings import JobManagerSettings
from daemons.job_manager.states import JOB_LIVE, BackOff
from daemons.job_manager.timers import Timers
from daemons.job_manager.verbs import CHANGING, answer_change, answer_query
from daemons.job_manager.watches import Answered, Watches
from propius.core import SECOND_NS, Commit, Core, Frames, Link, Record
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    JOB_REQUESTS,
    BackOffChanged,
    Beat,
    ClaimResult,
    ClaimResults,
    Claims,
    DecodeError,
    Error,
    ErrorCode,
    GetSchema,
    Header,
    Heartbeat,
    Hello,
    JobEvents,
    ListJobs,
    Message,
    NeedSnapshot,
    ReportResult,
    Show,
    Snapshot,
    WatchRound,
    decode_payload,
)
from propius.peering import Dialer, Listener, Peer

__all__ = ["JobManagerCore", "JobManagerSettings"]

JOBS: Final = "jobs"
MANAGERS: Final = "managers"
SCHEDULER: Final = "scheduler"
_REQUEST_KINDS: Final = frozenset(cls.kind for cls in JOB_REQUESTS)


class JobManagerCore(Core):
    """Owner of jobs, rounds, slots and leases.

    ``records`` is what the store has, ``boot_id`` names the boot of the machine that ``now_ns``
    counts from, ``wall_s`` is the wall clock for people. ``master_key`` (32 random bytes) is used
    only if the store has none yet. Raises StoreError on records that cannot be read.
    """

    links = (
        Link(JOBS, "bind", outside=True),
        Link(MANAGERS, "bind", outside=False),
        Link(SCHEDULER, "dial", outside=False),
    )

    def __init__(
        self,
        settings: JobManagerSettings,
        records: Records,
        *,
        boot_id: str,
        incarnation: int,
        now_ns: int,
        wall_s: float,
        master_key: bytes,
    ) -> None:
        super().__init__("job_manager", incarnation)
        self.settings = settings
        self.book = recover(
            settings,
            records,
            boot_id=boot_id,
            now_ns=now_ns,
            wall_s=wall_s,
            master_key=master_key,
        )
        schema, version = settings.schema.schema, settings.package_version
        self.scheduler = Dialer(
            self, SCHEDULER, Hello(role="job_manager", package_version=version, schema=schema)
        )
        self.managers = Listener(
            self,
            MANAGERS,
            roles=frozenset({"client_manager"}),
            package_version=version,
            schema=schema,
        )
        self.watches = Watches(self.book)
        self._timers = Timers(self.book)
        self._outbox = Outbox()
        self._results: dict[str, tuple[Peer, list[ClaimResult], list[ReportResult]]] = {}
        self._seq = self.book.meta.seq_base  # of the last job event
        self._said_seq = self._seq  # of the last one that left for the scheduler
        self._peering = 0  # which peering with the scheduler this is
        self._snapshot_wanted = False
        self._issued = self._committed = 0
        self._failed = 0  # the commit that does not succeed, and why
        self._failure = ""
        self._turned_away_ns = -1  # since when requests get `busy`
        self._draining = False

    # --- the driver's side -------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        self.scheduler.start(now_ns)

    def committed(self, now_ns: int, number: int) -> None:
        self._committed = max(self._committed, number)
        if self._failed and self._committed >= self._failed:
            self.say("info", "store_recovered", commit=number)
            self._failed, self._failure = 0, ""
        self._release(now_ns)
        if self._turned_away_ns >= 0 and not self._closed():
            self._reopen(now_ns)

    def commit_failed(self, now_ns: int, number: int, reason: str) -> None:
        self.count("commit_failures")
        if number <= self._committed:
            return
        if not self._failed:
            self.say("error", "commit_failed", commit=number, reason=reason)
            self._turned_away_ns = now_ns  # peers hold back what they know will be refused
        self._failed, self._failure = max(self._failed, number), reason

    def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        super().undeliverable(now_ns, link, peer, frames)
        if link == MANAGERS:
            self.managers.unreachable(now_ns, peer)

    def due_ns(self) -> int | None:
        times = [self.scheduler.due_ns(), self.managers.due_ns()]
        if not self._closed():
            times += [self._timers.due_ns(), self.watches.due_ns()]
        return min([time_ns for time_ns in times if time_ns is not None])

    def tick(self, now_ns: int) -> None:
        beat = Beat(ready=not self._closed(), seq=self._said_seq)
        self.scheduler.tick(now_ns, beat)
        self.managers.tick(now_ns, beat)
        if not self._closed():
            self._answer(self.watches.expired(now_ns))
            self._timers.tick(now_ns, self.count)

    def flush(self, now_ns: int) -> None:
        book = self.book
        self._answer(self.watches.changed(now_ns, book.changed_rounds))
        self._answer(self.watches.purged(now_ns, book.purged_jobs))
        book.changed_rounds.clear()
        book.purged_jobs.clear()
        self._tell_scheduler()
        self._answer_managers()
        for event in book.events:
            if isinstance(event, BackOffChanged):
                self._tell_back_off(event)
            self._outbox.add(Record(now_ns, event))
        book.events.clear()
        if book.changes:
            book.save_clock(now_ns, CLOCK_BUSY_NS)
            self._issued += 1
            self.emit(Commit(self._issued, book.changes.take()))
            self.count("commits")
        self._outbox.close_batch(self._issued)
        self._release(now_ns)

    def drain(self, now_ns: int) -> None:
        self._draining = True
        self._answer(self.watches.end_all(now_ns))

    def drained(self) -> bool:
        idle = not self._outbox and not self.book.changes
        return self._draining and idle and self._issued == self._committed

    def not_ready(self) -> str:
        if self._closed():
            return self._closed()
        if self.scheduler.up:
            return ""
        return self.scheduler.rejected or "the scheduler does not answer yet"

    @property
    def commits_under_way(self) -> int:
        """Commits that the store has not reported yet."""
        return self._issued - self._committed

    def gauges(self) -> dict[str, float]:
        book = self.book
        return {
            "jobs_live": book.live_jobs,
            "jobs_finished": len(book.finished),
            "rounds_live": len(book.free),
            "rounds_kept": len(book.rounds),
            "leases_held": len(book.leases),
            "served_remembered": len(book.served),
            "jobs_backing_off": len(book.backoff_due),
            "watches_held": len(self.watches),
            "sessions_remembered": len(book.sessions),
            "device_answers_remembered": len(book.device_answers),
            "answers_waiting_for_store": len(self._outbox),
            "commits_under_way": self.commits_under_way,
        }

    def check_invariants(self, *, thorough: bool = True) -> None:
        """Raise AssertionError, with the ids, if anything in memory does not hold (for tests).

        Not ``thorough``: of what can still change.
        """
        (check if thorough else check_live)(self.book)
        assert self._committed <= self._issued, "more was committed than issued"
        assert self._said_seq <= self._seq, "the scheduler was told of an event to come"

    # --- messages ----------------------------------------------------------------------------

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        try:
            if link == JOBS:
                if header.kind not in _REQUEST_KINDS:
                    text = f"{header.kind!r} is not a request of a job server"
                    raise DecodeError(ErrorCode.UNKNOWN_KIND, text, "kind")
                message = decode_payload(header.kind, frames[1])
            else:
                message = decode_payload(header.kind, frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        except DecodeError as error:
            self.count("refused_payloads")
            self.refuse(link, peer, header, error)
            return
        if link == JOBS:
            self._on_job(now_ns, peer, header, frames[1], message)
        elif link == MANAGERS:
            self._on_manager(now_ns, peer, header, message)
        else:
            self._on_scheduler(now_ns, header, message)

    def _on_job(
        self, now_ns: int, peer: bytes, header: Header, payload: bytes, message: Message
    ) -> None:
        self.count(f"requests_{message.kind}")
        if isinstance(message, GetSchema):
            self.reply(JOBS, peer, header, self.settings.schema)
            return
        why = self._closed()
        if why:
            self.reply(JOBS, peer, header, self._busy(now_ns, header, why))
            return
        try:
            answer: Message | None = self._decided(now_ns, peer, header, payload, message)
        except Refusal as refusal:
            answer = refusal.error
        if answer is not None:
            if isinstance(answer, Error):
                self.count(f"refused_{answer.code}")
            self._outbox.add(Reply(peer, header, answer))

    def _decided(
        self, now_ns: int, peer: bytes, header: Header, payload: bytes, message: Message
    ) -> Message | None:
        """The answer; None if there is none yet."""
        match message:
            case WatchRound():
                self._answer(self.watches.add(now_ns, peer, header, message))
                return None
            case Heartbeat() | Show() | ListJobs():
                return answer_query(self.book, now_ns, message)
        assert isinstance(message, CHANGING)
        return answer_change(self.book, now_ns, header, payload, message)

    def _on_manager(self, now_ns: int, address: bytes, header: Header, message: Message) -> None:
        peer, fresh = self.managers.heard(now_ns, address, header, message)
        if peer is None or fresh:
            return
        if isinstance(message, Claims):
            self._on_claims(now_ns, peer, message)
        elif not isinstance(message, Beat | Hello):
            self.count("unexpected_messages")

    def _on_claims(self, now_ns: int, peer: Peer, asked: Claims) -> None:
        if self._closed():
            self._turn_away(now_ns)
            claims = [refused_claim(claim, ErrorCode.BUSY) for claim in asked.claims]
            reports = [refused_report(item, ErrorCode.BUSY) for item in asked.reports]
            answer = ClaimResults(seq=self._said_seq, claims=claims, reports=reports)
            self.managers.send(now_ns, peer, answer)
            return
        known, claims, reports = self._results.setdefault(peer.name, (peer, [], []))
        if known is not peer:  # a new incarnation within one batch: the old one's go nowhere
            claims, reports = [], []
            self._results[peer.name] = (peer, claims, reports)
        # Reports first: they free devices and slots that the claims of the same batch may take.
        for item in asked.reports:
            reports.append(result := decide_report(self.book, now_ns, item))
            self.count(f"reports_{result.error or 'taken'}")
        for claim in asked.claims:
            claims.append(granted := decide_claim(self.book, now_ns, peer.manager, claim))
            self.count(f"claims_{granted.error or 'granted'}")

    def _on_scheduler(self, now_ns: int, header: Header, message: Message) -> None:
        if self.scheduler.heard(now_ns, header, message):
            self._peering += 1
            self._snapshot_wanted = True
        elif self.scheduler.up and isinstance(message, NeedSnapshot):
            self._snapshot_wanted = True

    # --- what a batch says -------------------------------------------------------------------

    def _answer(self, answered: list[Answered]) -> None:
        for watch, message in answered:
            self._outbox.add(Reply(watch.peer, watch.header, message))

    def _tell_scheduler(self) -> None:
        """Number the changed jobs; say them, or all jobs if the scheduler must begin anew."""
        book = self.book
        changed = [job for number in book.changed_jobs if (job := book.jobs.get(number))]
        gone = [number for number in book.changed_jobs if number not in book.jobs]
        book.changed_jobs.clear()
        first = self._seq + 1
        self._seq += len(changed) + len(gone)
        if not self.scheduler.up:
            return
        message: Snapshot | JobEvents
        if self._snapshot_wanted:
            self._snapshot_wanted = False
            live = [job for job in book.jobs.values() if job.state in JOB_LIVE]
            message = Snapshot(seq=self._seq, jobs=[offered_state(book, job) for job in live])
        elif self._seq >= first:
            live = [job for job in changed if job.state in JOB_LIVE]
            gone += [job.job for job in changed if job.state not in JOB_LIVE]
            message = JobEvents(
                first_seq=first,
                seq=self._seq,
                changed=[offered_state(book, job) for job in live],
                removed=gone,
            )
        else:
            return
        self._outbox.add(ToScheduler(self._peering, message))

    def _answer_managers(self) -> None:
        for peer, claims, reports in self._results.values():
            answer = ClaimResults(seq=self._seq, claims=claims, reports=reports)
            self._outbox.add(ToManager(peer.name, peer.incarnation, answer))
        self._results.clear()

    def _tell_back_off(self, event: BackOffChanged) -> None:
        """People hear of it in the log and in the metrics."""
        self.count(f"backoffs_{event.state}")
        if event.state == BackOff.WAITING:
            self.say(
                "warning",
                "job_backs_off",
                job=event.job,
                in_a_row=event.backoffs,
                wait_s=event.wait_s,
                why=event.reason,
            )
        elif event.state == BackOff.NONE:
            self.say("info", "back_off_over", job=event.job, why=event.reason)

    def _release(self, now_ns: int) -> None:
        """Say what the store has by now."""
        for item in self._outbox.ready(self._committed):
            match item:
                case Reply(peer, header, message):
                    self.reply(JOBS, peer, header, message)
                case ToManager(name, incarnation, answer):
                    known = self.managers.peers.get(name)
                    if known is not None and known.incarnation == incarnation:
                        self.managers.send(now_ns, known, answer)
                case ToScheduler(peering, news):
                    if self.scheduler.up and peering == self._peering:
                        self._said_seq = news.seq
                        self.scheduler.send(now_ns, news)
                case Record():
                    self.emit(item)

    def _reopen(self, now_ns: int) -> None:
        """Reports and heartbeats were turned away: let them come before anybody is judged."""
        if now_ns - self._turned_away_ns >= SECOND_NS:
            grace_ns = int(self.settings.lease_grace_s * SECOND_NS)
            self.book.not_before_ns = max(self.book.not_before_ns, now_ns + grace_ns)
        self._turned_away_ns = -1

    # --- saying no ---------------------------------------------------------------------------

    def _closed(self) -> str:
        """Why nothing new is decided now; "" if it is."""
        if self._failed:
            return f"the store does not take commits: {self._failure}"
        if self._draining:
            return "the job manager is stopping"
        if len(self._outbox) >= self.settings.staged_max:
            return f"{len(self._outbox)} answers wait for the store"
        return ""

    def _turn_away(self, now_ns: int) -> None:
        self.count("busy")
        if self._turned_away_ns < 0:
            self._turned_away_ns = now_ns

    def _busy(self, now_ns: int, header: Header, why: str) -> Error:
        self._turn_away(now_ns)
        # Spread by who asks, so that all do not come back at the same instant.
        spread = 0.5 + crc32(f"{header.sender}/{header.session}".encode()) / (1 << 32)
        retry_after_s = self.settings.busy_retry_s * spread
        return Error(code=ErrorCode.BUSY, text=why[:1_000], retry_after_s=retry_after_s)
