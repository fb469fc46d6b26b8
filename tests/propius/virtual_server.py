"""One server, one connection and a clock for the tests of sessions; all of it virtual."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from propius import messages
from propius.calls import Call, Calls
from propius.client_session import ClientSession, suits
from propius.core import SECOND_NS
from propius.fence import Fence
from propius.job_session import JobSession, JobTerms
from propius.messages import (
    Assignment,
    Header,
    Message,
    Offer,
    Ok,
    Schema,
    Task,
    decode_header,
    decode_payload,
    encode,
)
from propius.session import Talk

Frames = tuple[bytes, ...]
Server = Callable[[Header, Message], Message | None]
DEVICE = "ab" * 16
SECRET = b"s" * 32
TIMEOUT_S = 30.0
SCHEMA = Schema(schema="one", attributes=[("cpu_f", 24.8), ("ram", 16.0)])
TERMS = JobTerms(name="job", requirement={"ram": 4.0}, demand=10)


class World:
    """A server, a network that does what the test wants, and a clock; all virtual."""

    def __init__(self, server: Server, *, delay_s: float = 0.01) -> None:
        self.server = server
        self.now_ns = 5 * SECOND_NS
        self.calls = Calls()
        self.delay_ns = int(delay_s * SECOND_NS)
        self.sent: list[tuple[float, Frames]] = []
        self.lose_requests: set[int] = set()  # by their place in `sent`
        self.lose_replies: set[int] = set()
        self.duplicate_replies = False
        self.arrivals: list[tuple[int, int, Frames]] = []

    @property
    def now_s(self) -> float:
        return self.now_ns / SECOND_NS

    @property
    def kinds(self) -> list[str]:
        """The kinds of what was sent."""
        return [decode_header(frames[0]).kind for _, frames in self.sent]

    def run(self, talk: Talk[Any]) -> Any:
        """Carry one talk out."""
        call = self.calls.start(self.now_ns, talk)
        self.run_until(lambda: call.done)
        return call.result()

    def start(self, talk: Talk[Any]) -> Call[Any]:
        """Begin a talk beside others."""
        return self.calls.start(self.now_ns, talk)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Let things happen in order of time."""
        for _ in range(10_000):
            self._send()
            if done():
                return
            due_ns = self.calls.due_ns()
            if self.arrivals and (due_ns is None or self.arrivals[0][0] <= due_ns):
                at_ns, _, frames = heapq.heappop(self.arrivals)
                self.now_ns = max(self.now_ns, at_ns)
                self.calls.receive(self.now_ns, frames)
            else:
                assert due_ns is not None
                assert due_ns >= self.now_ns
                self.now_ns = due_ns
            self.calls.tick(self.now_ns)
        raise AssertionError("this does not end")

    def arrive(self, frames: Frames, after_s: float = 0.0) -> None:
        """Something arrives at the session."""
        at_ns = self.now_ns + int(after_s * SECOND_NS)
        heapq.heappush(self.arrivals, (at_ns, len(self.arrivals) + id(frames) % 97, frames))

    def _send(self) -> None:
        while self.calls.outbox:
            frames = self.calls.outbox.pop(next(iter(self.calls.outbox)))
            place = len(self.sent)
            self.sent.append((self.now_s, frames))
            if place in self.lose_requests:
                continue
            header = decode_header(frames[0])
            reply = self.server(header, decode_payload(header.kind, frames[1]))
            if reply is None or place in self.lose_replies:
                continue
            for _ in range(1 + self.duplicate_replies):
                self.arrive(answer(header, reply), self.delay_ns / SECOND_NS)


def answer(to: Header, message: Message) -> Frames:
    """A reply as frames."""
    header = Header(kind=message.kind, sender="server", session=to.session, request=to.request)
    return encode(header, message)


def client(**changes: Any) -> ClientSession:
    """A client session with a seed."""
    given: dict[str, Any] = {"sender": DEVICE, "timeout_s": TIMEOUT_S, "spec": {"ram": 8.0}}
    return ClientSession(dice=random.Random(1), peer="lb", **{**given, **changes})


def job(**changes: Any) -> JobSession:
    """A job session with a seed."""
    given: dict[str, Any] = {"sender": "job", "timeout_s": TIMEOUT_S, "terms": TERMS}
    return JobSession(dice=random.Random(2), peer="jm", **{**given, **changes})


def registered_job() -> JobSession:
    """A job session that has its id."""
    session = job()
    session.fence = Fence(7, SECRET)
    return session


def polite(header: Header, message: Message) -> Message | None:
    """A server that says yes to everything."""
    match message:
        case messages.GetSchema():
            return SCHEMA
        case messages.Register():
            return messages.Registered(job=7, secret=SECRET)
        case messages.StartRequest():
            return messages.RequestStarted(job=7, round=0)
        case messages.CheckIn():
            return Offer(tasks=[Task(7, 0, {})], plan_version=1, retry_after_s=1.0)
        case messages.Accept(job=number, round=round_no):
            return Assignment(job=number, round=round_no, endpoint="e", lease_s=9.0, token=b"t")
    return Ok()


def round_status(number: int, lost: list[int]) -> messages.RoundStatus:
    """A round in which these leases were lost."""
    return messages.RoundStatus(
        job=7, round=number, version=2, state="open", demand=3, allocated=0, held=0, completed=0,
        failed=1, expired=0, reports_min=3, filled_after_s=-1.0, ended_after_s=-1.0, lost=lost,
    )  # fmt: skip


def offer(*tasks: Task, retry_after_s: float = 0.1) -> Offer:
    """An offer of these tasks."""
    return Offer(tasks=list(tasks), plan_version=1, retry_after_s=retry_after_s)


def mine(private: dict[str, float]) -> Callable[[Any], list[Task]]:
    """The default rule for a private spec."""
    return lambda tasks: [task for task in tasks if suits(private, task)]
