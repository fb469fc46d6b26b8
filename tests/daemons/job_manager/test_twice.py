"""Any requests, each sent any number of times and with deaths between, have the effect of once.

Two job managers get the same requests in the same order. One gets each of them once and lives. The
other gets them again and again, at once or much later, and dies: before the request was durable,
or when it was but nobody had heard. Answers and stores must be equal at the end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemons.job_manager import answers
from daemons.job_manager.records import Meta
from propius.messages import (
    Cancel,
    Claim,
    ClaimResult,
    CompleteJob,
    EndRequest,
    Error,
    ErrorCode,
    Header,
    Message,
    Outcome,
    Pause,
    Registered,
    ReportItem,
    ReportResult,
    Resume,
    StartRequest,
)
from tests.daemons.job_manager.rig import Rig, device, registration

REMEMBERED: Final = 3  # answers of a session; a small number, so that some are forgotten
JOBS: Final = 2
DEVICES: Final = 4

Answer = Message | ClaimResult | ReportResult


@dataclass(frozen=True)
class Ask:
    """A request: of a job server (a verb), or of a device (a claim or a report)."""

    who: int
    verb: str
    number: int = 0  # demand, round or job, as the verb needs it
    copies: int = 1
    late: int = 0  # one more copy, after so many other requests; 0: none
    death: str = ""  # "before" it was durable, or "after"


ASKS = st.builds(
    Ask,
    who=st.integers(0, DEVICES - 1),
    verb=st.sampled_from(
        ["start"] * 3
        + ["claim"] * 6
        + ["completed", "failed"] * 3
        + ["end", "pause", "resume", "complete", "cancel"]
    ),
    number=st.integers(0, 2),
    copies=st.integers(1, 3),
    late=st.integers(0, 6),
    death=st.sampled_from(["", "", "before", "after"]),
)
# Every verb succeeds, with each kind of death.
SCRIPT: Final = [
    Ask(0, "start", 1, copies=2, death="before"),
    Ask(1, "start", 2, late=3, death="after"),
    Ask(0, "claim", 0, copies=2, death="before"),
    Ask(1, "claim", 0, late=2, death="after"),
    Ask(2, "claim", 1, late=1),
    Ask(0, "completed", late=2, death="before"),
    Ask(2, "failed", copies=3, death="after"),
    Ask(3, "claim", 1, death="before"),
    Ask(1, "pause", late=6, death="after"),
    Ask(1, "resume", death="before"),
    Ask(1, "end", 0, death="before"),
    Ask(0, "cancel", late=1, death="after"),
    Ask(1, "complete", copies=2, death="before"),
]
OF_DEVICES: Final = {"claim", "completed", "failed"}


def error_of(answer: Answer | None) -> str:
    """How it was refused; "" if it was not."""
    if isinstance(answer, Error):
        return answer.code
    return answer.error if isinstance(answer, ClaimResult | ReportResult) else ""


@dataclass
class Side:
    """One of the two job managers, and those who ask it."""

    rig: Rig = field(default_factory=Rig)
    secrets: dict[int, bytes] = field(default_factory=dict)
    tokens: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)  # of each device
    requests: dict[str, int] = field(default_factory=dict)  # the last number of each sender

    def __post_init__(self) -> None:
        for who in range(JOBS):
            answer = self.job(who, registration(), self.next(f"job-{who}"))
            assert isinstance(answer, Registered)
            self.secrets[who] = answer.secret

    def next(self, sender: str) -> int:
        """This sender's next request number."""
        self.requests[sender] = self.requests.get(sender, 0) + 1
        return self.requests[sender]

    def compose(self, ask: Ask) -> tuple[Any, int]:
        """What is said, and under which number; the same when it is said again."""
        if ask.verb in OF_DEVICES:
            number = self.next(f"device-{ask.who}")
            return self._of_device(ask, number, b"body"), number
        who = ask.who % JOBS
        about: dict[str, Any] = {"job": who + 1, "secret": self.secrets[who]}
        message: Message
        match ask.verb:
            case "start":
                message = StartRequest(**about, demand=1 + ask.number)
            case "end":
                message = EndRequest(**about, round=ask.number)
            case "pause":
                message = Pause(**about)
            case "resume":
                message = Resume(**about)
            case "complete":
                message = CompleteJob(**about)
            case _:
                message = Cancel(**about, reason="enough")
        return message, self.next(f"job-{who}")

    def _of_device(self, ask: Ask, number: int, body: bytes) -> Claim | ReportItem:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        who = device(ask.who)
        if ask.verb == "claim":
            job = self.rig.core.book.jobs[1 + ask.number % JOBS]
            return Claim(who, 1, number, digest, job.job, max(0, job.round), False)
        job_no, round_no, token = self.tokens.get(ask.who, (1, 0, b"none"))
        outcome = Outcome(ask.verb)
        return ReportItem(who, 1, number, digest, job_no, round_no, token, outcome)

    def say(self, ask: Ask, said: Any, number: int) -> Answer | None:
        """Say it, and what came back."""
        if isinstance(said, Message):
            return self.job(ask.who % JOBS, said, number)
        claim = isinstance(said, Claim)
        batch = self.rig.claims([said] if claim else [], [] if claim else [said])
        if batch is None:
            return None
        return batch.claims[0] if claim else batch.reports[0]

    def job(self, who: int, message: Message, number: int) -> Message | None:
        """A job server says this under this number."""
        header = Header(kind=message.kind, sender=f"job-{who}", session=5, request=number)
        self.rig.tell("jobs", header, message)
        said = [answer for to, answer in self.rig.answers() if to.request == number]
        return said[0] if said else None

    def learn(self, ask: Ask, said: Any, answer: Answer | None) -> None:
        """A device keeps its token."""
        if isinstance(answer, ClaimResult) and not answer.error:
            self.tokens[ask.who] = (said.job, said.round, answer.token)

    def durable(self) -> dict[str, dict[str, bytes]]:
        """What the store has, less what each start writes by itself."""
        tables = self.rig.store.load()
        meta = msgspec.msgpack.decode(tables.pop("meta")["state"], type=Meta)
        meta.seq_base = 0
        tables.pop("clock")
        return {**tables, "meta": {"state": msgspec.msgpack.encode(meta)}}


class Again(Side):
    """The side on which everything happens more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[tuple[int, Ask, Any, int, Answer]] = []
        self.asked = 0

    def say(self, ask: Ask, said: Any, number: int) -> Answer | None:
        if ask.death == "before":
            self.rig.commits = "held"
            super().say(ask, said, number)
            self.rig.commits = "done"
            self.rig.start()
        first = super().say(ask, said, number)
        assert first is not None
        if ask.death == "after":
            self.rig.start()
        for _ in range(ask.copies - 1):
            assert super().say(ask, said, number) == first
        self._conflict(ask, said, number, first)
        if ask.late:
            self.late.append((self.asked + ask.late, ask, said, number, first))
        self.asked += 1
        self._say_late()
        return first

    def _conflict(self, ask: Ask, said: Any, number: int, first: Answer) -> None:
        """The same number with another body is an error; a stale token is not even remembered."""
        if not isinstance(said, Message):
            other = self._of_device(ask, number, b"another body")
            answer = super().say(ask, other, number)
            assert isinstance(answer, ClaimResult | ReportResult)
            assert answer.error in {ErrorCode.CONFLICT, ErrorCode.STALE_TOKEN}
            assert answer == first or answer.error == ErrorCode.CONFLICT
            return
        changed = StartRequest(job=said.job, secret=said.secret, demand=77)  # type: ignore[attr-defined]
        conflict = super().say(ask, changed, number)
        assert isinstance(conflict, Error)
        assert conflict.code is ErrorCode.CONFLICT

    def _say_late(self) -> None:
        """Copies that were under way for long: the same answer, or that it is too old to know."""
        due = [item for item in self.late if item[0] <= self.asked]
        self.late = [item for item in self.late if item[0] > self.asked]
        for _, ask, said, number, first in due:
            answer = super().say(ask, said, number)
            assert answer == first or error_of(answer) == ErrorCode.STALE_REQUEST


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions remember few answers."""
    monkeypatch.setattr(answers, "ANSWERS_PER_SESSION", REMEMBERED)


@pytest.mark.usefixtures("forgetful")
def test_twice_is_once() -> None:
    """Whatever is asked, how often, and whoever dies meanwhile: one effect and one answer each."""
    seen: set[str] = set()

    @settings(max_examples=200, deadline=None)
    @example(SCRIPT)
    @given(st.lists(ASKS, min_size=1, max_size=25))
    def holds(asks: list[Ask]) -> None:
        once, again = Side(), Again()
        for ask in asks:
            answered: list[Answer | None] = []
            for side in (once, again):
                said, number = side.compose(ask)
                answered.append(side.say(ask, said, number))
                side.learn(ask, said, answered[-1])
            assert answered[0] == answered[1], ask
            if not error_of(answered[0]):
                seen.add(ask.verb)
        assert once.durable() == again.durable()
        bounded(again)

    holds()
    assert seen >= {"start", "end", "pause", "resume", "complete", "cancel", *OF_DEVICES}


def bounded(side: Side) -> None:
    """What is remembered is no more than it may be, in memory and in the store."""
    tables = side.rig.store.load()
    assert len(tables.get("job_answers", {})) <= REMEMBERED * JOBS
    assert len(tables.get("sessions", {})) == JOBS
    assert len(tables.get("device_answers", {})) <= DEVICES
