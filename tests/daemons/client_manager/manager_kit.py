"""A client manager core with its three peers played by the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daemons.client_manager.core import ClientManagerCore, ClientManagerSettings
from propius.messages import (
    Accept,
    Beat,
    CheckIn,
    Claim,
    ClaimResult,
    ClaimResults,
    Claims,
    Deliver,
    Forward,
    Header,
    Message,
    Offer,
    Outcome,
    Plan,
    PlannedGroup,
    PlannedRound,
    ReportItem,
    ReportResult,
    Welcome,
    decode_header,
    decode_payload,
    encode,
)
from propius.peering import BEAT_NS
from tests.daemons.client_manager.kit import SCHEMA, SECOND, VERSION, Driver, device_id

PEERS = ("load_balancer", "scheduler", "job_manager")


@dataclass
class Answer:
    """What a device hears."""

    tag: int
    header: Header
    message: Any


class World:
    """The manager, its peers, and the devices behind the load balancer."""

    def __init__(self, *, welcomed: bool = True, **settings: Any) -> None:
        values: dict[str, Any] = {"event_log": True, **settings}
        self.settings = ClientManagerSettings(schema=SCHEMA, package_version=VERSION, **values)
        self.incarnations = dict.fromkeys(PEERS, 9)
        self.tags = 0
        self.dropped: list[int] = []  # tags that get no answer any more
        self.versions = 0
        self.driver = self.boot(incarnation=5)
        if welcomed:
            self.welcome(*PEERS)

    def boot(self, incarnation: int) -> Driver:
        """Start the core (again), with nothing in memory."""
        core = ClientManagerCore(self.settings, 0, incarnation=incarnation, seed=1)
        now_ns = self.driver.now_ns if hasattr(self, "driver") else 1_000 * SECOND
        self.driver = Driver(core, now_ns)
        self.driver.start()
        return self.driver

    @property
    def core(self) -> ClientManagerCore:
        core = self.driver.core
        assert isinstance(core, ClientManagerCore)
        return core

    def say(self, peer: str, message: Message) -> None:
        """A peer says something."""
        self.driver.hear(peer, b"", message, sender=peer, session=self.incarnations[peer])

    def welcome(self, *peers: str) -> None:
        for peer in peers:
            self.say(peer, Welcome(incarnation=self.incarnations[peer]))

    def restart(self, peer: str) -> None:
        """A peer comes back with another incarnation, and knows nobody."""
        self.incarnations[peer] += 1
        self.say(peer, Beat())  # of an incarnation that we do not know
        self.welcome(peer)

    def advance(self, seconds: float, *, silent: tuple[str, ...] = ()) -> None:
        """Let time pass while the peers beat, but for the silent ones."""
        end_ns = self.driver.now_ns + int(seconds * SECOND)
        while self.driver.now_ns < end_ns:
            self.driver.advance(min(BEAT_NS, end_ns - self.driver.now_ns) / SECOND)
            for peer in PEERS:
                if peer not in silent:
                    self.say(peer, Beat())

    # --- devices -------------------------------------------------------------------------------

    def ask(
        self,
        device: int,
        message: Message,
        *,
        request: int,
        session: int = 3,
        tag: int | None = None,
    ) -> int:
        """A device's request, through the load balancer; returns its tag."""
        header = Header(
            kind=message.kind, sender=device_id(device), session=session, request=request
        )
        return self.ask_frames(*encode(header, message), tag=tag)

    def ask_frames(self, header: bytes, payload: bytes, *, tag: int | None = None) -> int:
        if tag is None:
            self.tags += 1
            tag = self.tags
        self.say("load_balancer", Forward(items=[(tag, header, payload)]))
        return tag

    def check_in(
        self,
        device: int,
        *,
        request: int = 1,
        session: int = 3,
        wait_s: float = 0.0,
        spec: tuple[float, ...] = (4.0, 4.0),
        schema: str = "s1",
    ) -> int:
        message = CheckIn(schema=schema, spec=list(spec), option=1.0, wait_s=wait_s)
        return self.ask(device, message, request=request, session=session)

    def accept(
        self, device: int, job: int, *, round: int = 0, request: int = 2, session: int = 3
    ) -> int:
        return self.ask(device, Accept(job=job, round=round), request=request, session=session)

    def answers(self) -> list[Answer]:
        """What devices heard since last asked."""
        answers = []
        for batch in self.driver.take(Deliver):
            for tag, header_frame, payload in batch.items:
                if not header_frame:
                    self.dropped.append(tag)
                    continue
                header = decode_header(header_frame)
                answers.append(Answer(tag, header, decode_payload(header.kind, payload)))
        return answers

    def answer(self) -> Any:
        """The only thing that was heard."""
        (answer,) = self.answers()
        return answer.message

    # --- the scheduler and the job manager -----------------------------------------------------

    def plan(
        self, *jobs: int, quota: int = 1, seq: int = 1, round: int = 0, bound: float = 2.0
    ) -> Plan:
        """A new plan with one group and these jobs, in this order; it is sent."""
        self.versions += 1
        rounds = [
            PlannedRound(job, round, rank, quota, {"images": float(job)})
            for rank, job in enumerate(jobs)
        ]
        plan = Plan(
            version=self.versions,
            seq=seq,
            ranked=True,
            groups=[PlannedGroup(0, [bound, bound], rounds)] if rounds else [],
            preferences=[],
            fallback=[0] if rounds else [],
        )
        self.say("scheduler", plan)
        return plan

    def claims(self) -> list[Claim]:
        """The claims that were sent since last asked."""
        return [claim for batch in self.driver.take(Claims) for claim in batch.claims]

    def reports(self) -> list[ReportItem]:
        return [report for batch in self.driver.take(Claims) for report in batch.reports]

    def claim(self) -> Claim:
        (claim,) = self.claims()
        return claim

    def grant(self, claim: Claim, *, seq: int = 2) -> None:
        self._result(claim, "", seq)

    def refuse(self, claim: Claim, error: str) -> None:
        self._result(claim, error, 2)

    def answer_report(self, item: ReportItem, error: str = "") -> None:
        result = ReportResult(item.device_id, item.session, item.request, error)
        self.say("job_manager", ClaimResults(seq=1, claims=[], reports=[result]))

    def _result(self, claim: Claim, error: str, seq: int) -> None:
        result = ClaimResult(
            claim.device_id,
            claim.session,
            claim.request,
            error,
            claim.job,
            claim.round,
            "" if error else "tcp://127.0.0.1:5000",
            0.0 if error else 60.0,
            b"" if error else b"token",
        )
        self.say("job_manager", ClaimResults(seq=seq, claims=[result], reports=[]))


def reportable() -> Outcome:
    """Any outcome that a device may report."""
    return Outcome.COMPLETED


def jobs_of(offer: Offer) -> list[int]:
    """The jobs of an offer's tasks, in order."""
    return [task.job for task in offer.tasks]


def offered(world: World, *jobs: int, device: int = 1) -> None:
    """A device that holds an offer of these jobs."""
    world.plan(*jobs)
    world.check_in(device)
    assert jobs_of(world.answer()) == list(jobs)
