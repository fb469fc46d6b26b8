"""A job manager's core with a store in memory, and peers that say one thing at a time.

After every message the invariants are checked. Time is virtual and moves only by ``advance``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, TypeVar

from daemons.job_manager.core import JobManagerCore, JobManagerSettings
from daemons.job_manager.records import Job, Round
from daemons.store import MemoryStore
from propius.core import SECOND_NS, Commit, Record, Say, Send
from propius.messages import (
    Attach,
    Claim,
    ClaimResult,
    ClaimResults,
    Claims,
    Error,
    ErrorCode,
    Header,
    Hello,
    Message,
    Ok,
    Outcome,
    Register,
    Registered,
    ReportItem,
    ReportResult,
    RequestStarted,
    Schema,
    StartRequest,
    Welcome,
    decode_header,
    decode_payload,
    encode,
    encode_payload,
)

SCHEMA = Schema(schema="schema-1", attributes=[("cpu_f", 24.0), ("ram", 16.0)])
START_NS = 1_000 * SECOND_NS

MessageT = TypeVar("MessageT", bound=Message)


def device(number: int) -> str:
    """A device_id."""
    return f"{number:032x}"


def registration(**changes: Any) -> Register:
    """A valid register, with these fields instead."""
    fields: dict[str, Any] = {
        "name": "mnist",
        "schema": SCHEMA.schema,
        "requirement": [1.0, 2.0],
        "private_constraint": {"samples": 10.0},
        "demand": 3,
        "rounds": 2,
        "endpoint": "tcp://127.0.0.1:7000",
    }
    return Register(**(fields | changes))


class Rig:
    """One job manager and everything around it."""

    def __init__(self, **settings: Any) -> None:
        # Devices fail and come back at once in most tests; that is for test_backoff.py.
        settings = {"device_pause_first_s": 0.0} | settings
        self.settings = JobManagerSettings(schema=SCHEMA, package_version="1", **settings)
        self.store = MemoryStore()
        self.now_ns = START_NS
        self.wall_s = 1e9
        self.commits: Literal["done", "held", "failing"] = "done"
        self.pending: list[Commit] = []
        self.sent: list[tuple[str, bytes, Header, Message]] = []
        self.events: list[Message] = []
        self.said: list[Say] = []
        self.commit_log: list[Commit] = []
        self._starts = 0
        self.core = self.start()

    # --- the core's life -----------------------------------------------------------------

    def start(self, boot: str = "boot-1") -> JobManagerCore:
        """A new process on what the store has."""
        self._starts += 1
        self.pending.clear()
        self.core = JobManagerCore(
            self.settings,
            self.store.load(),
            boot_id=boot,
            incarnation=100 + self._starts,
            now_ns=self.now_ns,
            wall_s=self.wall_s,
            master_key=bytes([self._starts]) * 32,
        )
        self.core.check_invariants()
        self.core.start(self.now_ns)
        self.settle()
        self.hello()
        return self.core

    def hello(self, manager: int = 0) -> None:
        """A client manager introduces itself."""
        self.tell(
            "managers",
            self.manager_header(manager, "hello"),
            Hello(
                role="client_manager",
                manager=manager,
                package_version="1",
                schema=SCHEMA.schema,
            ),
            peer=b"manager-%d" % manager,
        )

    def advance(self, seconds: float) -> None:
        """Let time pass, with the ticks that the core asks for; the client manager stays alive."""
        end_ns = self.now_ns + int(seconds * SECOND_NS)
        while (due_ns := self.book_due_ns()) is not None and due_ns <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.tick()
        self.now_ns = end_ns
        self.tick()
        self.hello()

    def book_due_ns(self) -> int | None:
        """When the core wants a tick for something else than its peers."""
        times = (self.core._timers.due_ns(), self.core.watches.due_ns())
        return min((time for time in times if time is not None), default=None)

    def tick(self) -> None:
        """One tick now."""
        self.core.tick(self.now_ns)
        self.settle()

    def settle(self) -> None:
        """End the batch and carry out what the core wants."""
        self.core.flush(self.now_ns)
        self.carry_out()
        self.core.check_invariants()

    def carry_out(self) -> None:
        """Do the effects; committing may cause more."""
        while effects := self.core.take_effects():
            for effect in effects:
                match effect:
                    case Send():
                        self._sent(effect)
                    case Commit():
                        self.pending.append(effect)
                        self.commit_log.append(effect)
                    case Record():
                        self.events.append(effect.event)
                    case Say():
                        self.said.append(effect)
            self.work_off_commits()

    def work_off_commits(self) -> None:
        """What the writer thread does."""
        if self.commits == "failing" and self.pending:
            self.core.commit_failed(self.now_ns, self.pending[0].number, "disk full")
        elif self.commits == "done":
            for commit in self.pending:
                self.store.commit(commit.changes)
                self.core.committed(self.now_ns, commit.number)
            self.pending.clear()

    # --- messages ------------------------------------------------------------------------

    def tell(self, link: str, header: Header, message: Message, peer: bytes = b"peer") -> None:
        """A message arrives, alone in its batch."""
        self.core.receive(self.now_ns, link, peer, encode(header, message))
        self.settle()

    def answers(self, link: str = "jobs") -> list[tuple[Header, Message]]:
        """What was sent on a link since the last call."""
        found = [(header, message) for at, _, header, message in self.sent if at == link]
        self.sent = [item for item in self.sent if item[0] != link]
        return found

    def claims(
        self, claims: list[Claim], reports: list[ReportItem] | None = None, manager: int = 0
    ) -> ClaimResults | None:
        """A batch from a client manager, and its answer if there is one by now."""
        self.answers("managers")
        message = Claims(claims=claims, reports=reports or [])
        header = self.manager_header(manager, message.kind)
        self.tell("managers", header, message, peer=b"manager-%d" % manager)
        for _, answer in self.answers("managers"):
            if isinstance(answer, ClaimResults):
                return answer
        return None

    @staticmethod
    def manager_header(manager: int, kind: str) -> Header:
        """A client manager's header."""
        return Header(kind=kind, sender=f"client_manager-{manager}", session=7, request=1)

    def claim(
        self,
        who: int,
        job: int,
        round_: int = 0,
        *,
        request: int = 1,
        session: int = 1,
        body: bytes = b"accept",
        look_up: bool = False,
        manager: int = 0,
    ) -> ClaimResult:
        """One claim, answered."""
        digest = hashlib.blake2b(body, digest_size=16).digest()
        asked = Claim(device(who), session, request, digest, job, round_, look_up)
        answer = self.claims([asked], manager=manager)
        assert answer is not None
        return answer.claims[0]

    def report(
        self,
        who: int,
        job: int,
        token: bytes,
        outcome: Outcome = Outcome.COMPLETED,
        round_: int = 0,
        *,
        request: int = 2,
        session: int = 1,
        body: bytes = b"report",
    ) -> ReportResult:
        """One report, answered."""
        digest = hashlib.blake2b(body, digest_size=16).digest()
        item = ReportItem(device(who), session, request, digest, job, round_, token, outcome)
        answer = self.claims([], [item])
        assert answer is not None
        return answer.reports[0]

    def welcome_scheduler(self, incarnation: int = 55) -> None:
        """The scheduler takes the job manager's hello."""
        header = Header(kind="welcome", sender="scheduler", session=incarnation, request=0)
        self.tell("scheduler", header, Welcome(incarnation=incarnation), peer=b"")

    def from_scheduler(self, message: Message, incarnation: int = 55) -> None:
        """The scheduler says something."""
        header = Header(kind=message.kind, sender="scheduler", session=incarnation, request=1)
        self.tell("scheduler", header, message, peer=b"")

    # --- looking inside ------------------------------------------------------------------

    def job(self, number: int = 1) -> Job:
        """The job's record."""
        return self.core.book.jobs[number]

    def round(self, job: int = 1, number: int = 0) -> Round:
        """The round's record."""
        return self.core.book.rounds[job, number]

    def _sent(self, effect: Send) -> None:
        header = decode_header(effect.frames[0])
        message = decode_payload(header.kind, effect.frames[1])
        self.sent.append((effect.link, effect.peer, header, message))


class JobServer:
    """One session of a job server."""

    def __init__(self, rig: Rig, sender: str = "job-server", session: int = 11) -> None:
        self.rig = rig
        self.sender = sender
        self.session = session
        self.request = 0
        self.number = 0
        self.secret = b""

    @classmethod
    def registered(cls, rig: Rig, sender: str = "job-server", **changes: Any) -> JobServer:
        """A job server that has registered."""
        server = cls(rig, sender)
        answer = server.ask(registration(**changes))
        assert isinstance(answer, Registered), answer
        server.number, server.secret = answer.job, answer.secret
        return server

    def attached(self, session: int = 12) -> JobServer:
        """Another session of the same job."""
        server = JobServer(self.rig, self.sender, session)
        server.number, server.secret = self.number, self.secret
        assert server.ask(server.about(Attach)) == Ok()
        return server

    def about(self, cls: type[MessageT], **fields: Any) -> MessageT:
        """A message about this server's job."""
        return cls(**({"job": self.number, "secret": self.secret} | fields))

    def ask(self, message: Message, request: int | None = None) -> Message:
        """Say it and return the answer (an Error is an answer)."""
        answer = self.say(message, request)
        assert answer is not None, "no answer yet"
        return answer

    def say(self, message: Message, request: int | None = None) -> Message | None:
        """Say it; the answer to this very request, if it came."""
        if request is None:
            request = self.request = self.request + 1
        header = Header(
            kind=message.kind, sender=self.sender, session=self.session, request=request
        )
        self.rig.tell("jobs", header, message, peer=self.sender.encode())
        for item in self.rig.sent:
            link, _, answered, answer = item
            if (link, answered.session, answered.request) == ("jobs", self.session, request):
                self.rig.sent.remove(item)
                return answer
        return None

    def do(self, cls: type[Message], **fields: Any) -> Message:
        """Ask for a verb of this job."""
        return self.ask(self.about(cls, **fields))

    def refused(self, cls: type[Message], **fields: Any) -> ErrorCode:
        """Ask for a verb that is refused, and how."""
        return code_of(self.do(cls, **fields))

    def start(self, demand: int = 2, **fields: Any) -> int:
        """Open a round; its number."""
        answer = self.do(StartRequest, demand=demand, **fields)
        assert isinstance(answer, RequestStarted), answer
        return answer.round


def code_of(message: Message) -> ErrorCode:
    """The code of an error answer."""
    assert isinstance(message, Error), message
    return message.code


def raw_payload(message: Message, **changes: Any) -> bytes:
    """The payload with fields that its class would not take."""
    import msgspec

    fields = msgspec.msgpack.decode(encode_payload(message))
    return msgspec.msgpack.encode(fields | changes)
