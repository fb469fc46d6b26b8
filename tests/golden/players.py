"""The places where a round's life is written, as players of golden conversations.

The job manager's core and the fake of ``propius.testing`` are spoken to by messages. The simulator
is played through the book that a run keeps (``engine.PlayedRounds``). Times are virtual, in whole
seconds of the conversation, so that all three come to the same numbers.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from daemons.job_manager.queries import offered_state
from evaluation.jobs.phases import Phases
from propius import messages
from propius.core import SECOND_NS
from propius.engine import PlayedRounds
from propius.messages import JobStatus, Outcome, RoundStatus
from propius.testing import TinyPropius
from propius.tokens import verify
from tests.daemons.job_manager.rig import JobServer, Rig, device, registration
from tests.golden.conversation import HistorySeen, Player, RoundSeen, Terms

UNDER_WAY = {"open", "filled"}


def mean(value_s: float | None) -> float | None:
    """-1 says that there is none."""
    return None if value_s is None or value_s < 0 else value_s


class MessagePlayer:
    """What the two have in common that speak the protocol: a job server and its devices.

    Of a job with ``scheduling`` and ``response`` the player is the evaluation's job server, too,
    which ends the round when a phase takes too long.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.round = -1
        self.phases = Phases(terms.scheduling, terms.response) if terms.scheduling else None
        self.tokens: dict[str, tuple[int, bytes]] = {}
        self.requests: dict[str, int] = {}

    # What differs.

    def verb(self, cls: Any, **fields: Any) -> Any:
        """What the job server asks for."""
        raise NotImplementedError

    def now_s(self) -> float:
        """Seconds of the conversation."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let it pass."""
        raise NotImplementedError

    def take(self, device: str, round_: int, request: int) -> bytes | None:
        """Accept; the token, or None if it was refused."""
        raise NotImplementedError

    def tell(self, device: str, round_: int, token: bytes, outcome: Outcome, request: int) -> None:
        """Report; it must be taken."""
        raise NotImplementedError

    def round_status(self, round_: int) -> RoundStatus:
        """As a job server watches it."""
        raise NotImplementedError

    # What does not.

    def open(self) -> None:
        terms = self.terms
        answer = self.verb(
            messages.StartRequest, demand=terms.demand, reports_min=terms.reports,
            deadline_s=terms.deadline, lease_s=terms.lease,
        )  # fmt: skip
        assert isinstance(answer, messages.RequestStarted), answer
        self.round, self.opened_s = answer.round, self.now_s()

    def end(self) -> None:
        assert self.verb(messages.EndRequest, round=self.round) == messages.Ok()

    def complete(self) -> None:
        assert self.verb(messages.CompleteJob) == messages.Ok()

    def grant(self, device: str, round_: int) -> bool:
        token = self.take(device, round_, self.request(device))
        if token is not None:
            self.tokens[device] = (round_, token)
        return token is not None

    def report(self, device: str) -> bool:
        in_time = self.round_status(self.tokens[device][0]).state in UNDER_WAY
        self.tell_of(device, Outcome.COMPLETED)
        return in_time

    def lose(self, device: str) -> None:
        self.tell_of(device, Outcome.FAILED)

    def tell_of(self, device: str, outcome: Outcome) -> None:
        round_, token = self.tokens.pop(device)
        self.tell(device, round_, token, outcome, self.request(device))

    def request(self, device: str) -> int:
        self.requests[device] = self.requests.get(device, 0) + 1
        return self.requests[device]

    def wait(self, seconds: float) -> None:
        end_s = self.now_s() + seconds
        while (due_s := self.phase_due_s()) <= end_s:
            self.pass_time(due_s - self.now_s())
            if self.phase_due_s() == due_s:
                self.end()
        self.pass_time(end_s - self.now_s())

    def phase_due_s(self) -> float:
        """When the job server will end the round."""
        status = self.round_status(self.round) if self.phases and self.round >= 0 else None
        if status is None or self.phases is None or status.state not in UNDER_WAY:
            return math.inf
        return self.opened_s + self.phases.due_after_s(status.filled_after_s)

    def seen(self, round_: int) -> RoundSeen:
        status = self.round_status(round_)
        state = status.state
        if state not in UNDER_WAY:
            enough = status.completed >= status.reports_min
            assert enough == (state in {"completed", "closed"}) or state == "ended", status
            state = "succeeded" if enough else "fell short"
        return RoundSeen(
            round_, state, status.allocated, status.completed, status.failed + status.expired,
            mean(status.filled_after_s), mean(status.ended_after_s),
        )  # fmt: skip

    def slots(self) -> dict[int, str]:
        leases = [
            (verify(self.secret, token), name)
            for name, (round_, token) in self.tokens.items()
            if round_ == self.round
        ]
        lost = set(self.round_status(self.round).lost)
        return {lease.slot: name for lease, name in leases if lease.lease not in lost}

    def status(self) -> list[str]:
        of_round, job = self.round_status(self.round), self.job_status()
        held, lost = of_round.held, list(of_round.lost)
        first = f"status: {of_round.state}, held {held}, completed {of_round.completed},"
        first += f" failed {of_round.failed}, expired {of_round.expired}, lost {lost}"
        second = f"job: {job.state}, {job.rounds_done} rounds done, devices"
        second += f" {job.devices_completed} completed, {job.devices_failed} failed,"
        second += f" {job.devices_expired} expired, waiting {job.waiting_s:g} s"
        return [first, second]

    secret = b""

    def job_status(self) -> JobStatus:
        """As ``show`` tells it."""
        answer = self.verb(messages.Show)
        assert isinstance(answer, JobStatus), answer
        return answer


class JobManager(MessagePlayer):
    """The job manager's core, with a store in memory."""

    name: ClassVar[str] = "job_manager"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.rig = Rig(lease_grace_s=0.0)  # it has not just come back
        self.server = JobServer.registered(self.rig, demand=terms.demand)
        self.secret, self.began_ns = self.server.secret, self.rig.now_ns

    def verb(self, cls: Any, **fields: Any) -> Any:
        return self.server.do(cls, **fields)

    def now_s(self) -> float:
        return (self.rig.now_ns - self.began_ns) / SECOND_NS

    def pass_time(self, seconds: float) -> None:
        self.rig.advance(seconds)

    def take(self, device: str, round_: int, request: int) -> bytes | None:
        answer = self.rig.claim(int(device[1:]), self.server.number, round_, request=request)
        return None if answer.error else answer.token

    def tell(self, device: str, round_: int, token: bytes, outcome: Outcome, request: int) -> None:
        who, job = int(device[1:]), self.server.number
        answer = self.rig.report(who, job, token, outcome, round_, request=request)
        assert answer.error == "", answer

    def round_status(self, round_: int) -> RoundStatus:
        answer = self.server.do(messages.WatchRound, round=round_, seen=0, wait_s=0.0)
        assert isinstance(answer, RoundStatus), answer
        return answer

    def history(self) -> HistorySeen:
        told = offered_state(self.rig.core.book, self.rig.job(self.server.number)).history
        job = self.job_status()
        return HistorySeen(
            told.rounds_succeeded, told.devices_served, told.rounds_ns / SECOND_NS,
            told.last_scheduling_ns / SECOND_NS, told.last_response_ns / SECOND_NS,
            mean(job.mean_scheduling_delay_s), mean(job.mean_response_s),
        )  # fmt: skip


class Fake(MessagePlayer):
    """The fake that programs are tested with."""

    name: ClassVar[str] = "fake"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.tiny = TinyPropius({"cpu_f": 24.0, "ram": 16.0})
        self.time_s, self.asked = 0.0, 0
        answer = self.ask("server", registration(schema="tiny", demand=terms.demand))
        assert isinstance(answer, messages.Registered), answer
        self.job, self.secret = answer.job, answer.secret

    def ask(self, sender: str, message: messages.Message) -> messages.Message:
        """Say it; the answer to it."""
        self.asked += 1
        header = messages.Header(kind=message.kind, sender=sender, session=1, request=self.asked)
        told = self.tiny.receive(self.time_s, header, message)
        answers = {to.request: answer for to, answer in told}
        return answers[self.asked]

    def verb(self, cls: Any, **fields: Any) -> Any:
        return self.ask("server", cls(job=self.job, secret=self.secret, **fields))

    def now_s(self) -> float:
        return self.time_s

    def pass_time(self, seconds: float) -> None:
        end_s = self.time_s + seconds
        while (due_s := self.tiny.due_s()) <= end_s:
            self.time_s = due_s
            list(self.tiny.tick(due_s))
        self.time_s = end_s

    def take(self, device: str, round_: int, request: int) -> bytes | None:
        answer = self.ask(_id(device), messages.Accept(job=self.job, round=round_))
        return answer.token if isinstance(answer, messages.Assignment) else None

    def tell(self, device: str, round_: int, token: bytes, outcome: Outcome, request: int) -> None:
        report = messages.Report(job=self.job, round=round_, token=token, outcome=outcome)
        assert self.ask(_id(device), report) == messages.Ok()

    def round_status(self, round_: int) -> RoundStatus:
        answer = self.verb(messages.WatchRound, round=round_, seen=0, wait_s=0.0)
        assert isinstance(answer, RoundStatus), answer
        return answer

    def history(self) -> HistorySeen:
        told, job = self.tiny.jobs[self.job].history, self.job_status()
        return HistorySeen(
            told.rounds_succeeded, told.devices_served, told.rounds_s,
            told.last_delay_s, told.last_response_s,
            mean(job.mean_scheduling_delay_s), mean(job.mean_response_s),
        )  # fmt: skip


class Simulator:
    """The book that a simulated run keeps of a job; its rounds open by themselves, one by one."""

    name: ClassVar[str] = "simulator"

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.now_ns = 0
        self.round = -1
        self.rounds: PlayedRounds | None = None
        self.round_of: dict[str, int] = {}
        self.ended: dict[int, Any] = {}

    @property
    def played(self) -> PlayedRounds:
        """The book; there is one as soon as the job's first round was opened."""
        assert self.rounds is not None, "no round was opened"
        return self.rounds

    def open(self) -> None:
        terms, self.round = self.terms, self.round + 1
        if self.rounds is None:
            job: dict[str, Any] = {
                "start_s": 0.0, "participants": terms.demand, "rounds": 1_000, "requirement": 0,
                "min_response": (terms.reports or terms.demand) / terms.demand,
                "kind": "sync" if terms.deadline or terms.scheduling else "refill",
                "deadline_s": terms.deadline,
            }  # fmt: skip
            if terms.scheduling:
                job |= {
                    "scheduling_timeout_s": terms.scheduling,
                    "response_timeout_s": terms.response,
                }
            self.rounds = PlayedRounds(job, self.now_ns)
        number, opened_ns, *_ = self.played.open_round or (-1, -1)
        assert (number, opened_ns) == (self.round, self.now_ns), "rounds open as others end here"

    def grant(self, device: str, round_: int) -> bool:
        if not self.played.grant(self.now_ns, round_, int(device[1:])):
            return False
        self.round_of[device] = round_
        return True

    def report(self, device: str) -> bool:
        return self.played.report(self.now_ns, self.round_of.pop(device))

    def lose(self, device: str) -> None:
        self.played.lose(self.round_of.pop(device))

    def wait(self, seconds: float) -> None:
        end_ns = self.now_ns + int(seconds * SECOND_NS)
        while (due_ns := self.played.due_ns) is not None and due_ns <= end_ns:
            self.now_ns = due_ns
            self.played.tick(due_ns)
        self.now_ns = end_ns

    def seen(self, round_: int) -> RoundSeen:
        self.ended |= {it[2]: it for it in self.played.take_ended()}
        if round_ in self.ended:
            _, _, _, (opened_s, filled_s, over_s), counts, is_success = self.ended[round_][:6]
            given, completed, lost = counts
            return RoundSeen(
                round_, "succeeded" if is_success else "fell short",
                given - lost, completed, lost,
                None if filled_s is None else filled_s - opened_s, over_s - opened_s,
            )  # fmt: skip
        under_way = self.played.open_round
        assert under_way is not None, "the job goes on"
        number, opened_ns, filled_ns, is_full, allocated, completed, lost = under_way
        assert number == round_
        filled_s = None if filled_ns is None else (filled_ns - opened_ns) / SECOND_NS
        state = "filled" if is_full else "open"
        return RoundSeen(round_, state, allocated, completed, lost, filled_s, None)

    def history(self) -> HistorySeen:
        succeeded, served, delay_ns, response_ns, rounds_ns = self.played.history
        return HistorySeen(
            succeeded, served, rounds_ns / SECOND_NS, delay_ns / SECOND_NS,
            response_ns / SECOND_NS, *self.played.means_s,
        )  # fmt: skip

    def end(self) -> None:
        raise NotImplementedError("rounds end by reports and deadlines")

    def complete(self) -> None:
        raise NotImplementedError("a job is done with its last round")

    def slots(self) -> dict[int, str]:
        raise NotImplementedError("slots have no numbers")

    def status(self) -> list[str]:
        raise NotImplementedError("there is no show")


def _id(name: str) -> str:
    return device(int(name[1:]))


PLAYERS: tuple[type[Player], ...] = (JobManager, Simulator, Fake)
