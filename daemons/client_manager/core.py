"""A client manager's links and timers: who its peers are, and what it tells each at a batch's end.

It dials three peers and binds nothing: its ``hello`` is its membership.

=============  ==================================  ==========================================
peer           it sends                            we send
=============  ==================================  ==========================================
load_balancer  devices' requests, undeliverable    answers, whether we want new check-ins
scheduler      plans                               supply; our beat says which plan we have
job_manager    answers to claims and reports       claims and reports
=============  ==================================  ==========================================

When a peer comes (back): the load balancer may have told waiting devices to check in again, so
everybody who waits here hears that; the scheduler gets the last supply again; the job manager gets
again what it has not answered. Nothing here survives a restart, and nothing has to.

Read next: :mod:`daemons.client_manager.clients`.
"""

from __future__ import annotations

from typing import Final

from daemons.batches import in_batches
from daemons.client_manager.clients import Clients
from daemons.client_manager.settings import ClientManagerSettings
from daemons.client_manager.supply import SupplyFeed
from propius.core import Core, Frames, Link
from propius.engine import EngineError
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    Beat,
    ClaimResults,
    Claims,
    DecodeError,
    Deliver,
    Forward,
    Header,
    Hello,
    Message,
    Plan,
    SupplyBucket,
    Undeliverable,
    decode_payload,
)
from propius.peering import BEAT_NS, Dialer

__all__ = ["ClientManagerCore", "ClientManagerSettings"]

CLAIMS_MAX: Final = 10_000  # in one message to the job manager


class ClientManagerCore(Core):
    """See the module. ``manager`` is its number; ``seed`` samples supply and spreads retries."""

    links = (
        Link("load_balancer", "dial", outside=False),
        Link("scheduler", "dial", outside=False),
        Link("job_manager", "dial", outside=False),
    )

    def __init__(
        self, settings: ClientManagerSettings, manager: int, *, incarnation: int, seed: int
    ) -> None:
        super().__init__(f"client_manager-{manager}", incarnation)
        self.settings = settings
        self.manager = manager
        hello = Hello(
            role="client_manager",
            manager=manager,
            package_version=settings.package_version,
            schema=settings.schema.schema,
        )
        self.load_balancer = Dialer(self, "load_balancer", hello)
        self.scheduler = Dialer(self, "scheduler", hello)
        self.job_manager = Dialer(self, "job_manager", hello)
        self.dialers = {
            dialer.link: dialer for dialer in (self.load_balancer, self.scheduler, self.job_manager)
        }
        self.clients = Clients(self, settings, manager=manager, seed=seed)
        self.supply = SupplyFeed()
        self._draining = False
        self._told_ns = 0  # when the load balancer was last told that we are draining

    # --- the driver's side -------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        self.clients.start(now_ns)
        for dialer in self.dialers.values():
            dialer.start(now_ns)

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        try:
            message = decode_payload(header.kind, frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        except DecodeError as error:
            self.count("refused_messages")
            self.say("warning", "refused_inside_message", sender=header.sender, why=str(error))
            return
        dialer = self.dialers[link]
        if dialer.heard(now_ns, header, message):
            self._came_up(now_ns, dialer)
        elif dialer.up:
            self._from_peer(now_ns, message)

    def due_ns(self) -> int | None:
        due_ns = min([dialer.due_ns() for dialer in self.dialers.values()])
        clients_ns = self.clients.due_ns(sending=self.job_manager.up)
        if clients_ns is not None:
            due_ns = min(due_ns, clients_ns)
        if self._draining and self.load_balancer.up:
            due_ns = min(due_ns, self._told_ns + BEAT_NS)
        return due_ns

    def tick(self, now_ns: int) -> None:
        beat = self._beat()
        for dialer in self.dialers.values():
            dialer.tick(now_ns, beat)
        if self._draining and now_ns >= self._told_ns + BEAT_NS:
            self._tell_draining(now_ns)
        self.clients.expire(now_ns)
        for bucket in self.clients.matcher.take_supply(now_ns):
            self.supply.add(SupplyBucket(*bucket))

    def flush(self, now_ns: int) -> None:
        self.clients.offer_waiting(now_ns)
        if self.job_manager.up:
            self._send_claims(now_ns)
        if self.scheduler.up and (supply := self.supply.take()) is not None:
            self.scheduler.send(now_ns, supply)
        self._send_deliveries(now_ns)
        self.clients.exchanges.tidy(now_ns)

    def drain(self, now_ns: int) -> None:
        self._draining = self.clients.draining = True
        self._tell_draining(now_ns)
        self.clients.send_away(now_ns, "this client manager is stopping")

    def drained(self) -> bool:
        return not len(self.clients.claims) and not len(self.clients.reports)

    def not_ready(self) -> str:
        if self._draining:
            return "stopping"
        for name, dialer in self.dialers.items():
            if dialer.rejected:
                return dialer.rejected
            if not dialer.up:
                return f"the {name.replace('_', ' ')} is not connected"
        return "" if self.clients.plans.known else "no plan yet from the scheduler"

    def must_end(self) -> str:
        """Another process has our id; the load balancer alone decides which of the two stays."""
        if not self.load_balancer.taken:
            return ""
        return f"{self.load_balancer.rejected}: start this one with another id, or stop that one"

    def gauges(self) -> dict[str, float]:
        counts = self.clients.matcher.counts()
        return {
            **{f"clients_{key}": counts[key] for key in ("waiting", "offered", "claiming")},
            "signatures": counts["signatures"],
            "open_rounds": counts["open_rounds"],
            "clients_remembered": len(self.clients.exchanges),
            "claims_under_way": len(self.clients.claims),
            "reports_under_way": len(self.clients.reports),
            "plan_version": self.clients.plans.version,
        }

    def check_invariants(self, *, thorough: bool = True) -> None:
        """What holds after every step; raises AssertionError (or EngineError) where it does not.

        Not ``thorough``: without the tables of what was answered.
        """
        self.clients.check(thorough=thorough)

    # --- peers -------------------------------------------------------------------------------

    def _came_up(self, now_ns: int, dialer: Dialer) -> None:
        self.say("info", "peer_joined", link=dialer.link)
        if dialer is self.load_balancer:
            self.clients.send_away(now_ns, "the load balancer lost this client manager")
            if self._draining:
                self._tell_draining(now_ns)
        elif dialer is self.scheduler:
            self.clients.met_scheduler(now_ns, dialer.incarnation)
            self.supply.send_all_again()
        else:
            self.clients.claims.send_all_again()
            self.clients.reports.send_all_again()

    def _from_peer(self, now_ns: int, message: Message) -> None:
        match message:
            case Forward():
                for tag, header, payload in message.items:
                    self.clients.handle(now_ns, tag, header, payload)
            case ClaimResults():
                self.clients.take_results(now_ns, message)
            case Plan():
                self._take_plan(now_ns, message)
            case Undeliverable():
                self.clients.cannot_reach(now_ns, message.tags)

    def _take_plan(self, now_ns: int, plan: Plan) -> None:
        try:
            self.clients.apply_plan(now_ns, plan)
        except EngineError as error:  # the plan before it stays in force
            self.count("refused_plans")
            self.say("error", "plan_refused", version=plan.version, why=str(error))

    def _beat(self) -> Beat:
        return Beat(ready=not self._draining, seq=self.clients.plans.version)

    def _tell_draining(self, now_ns: int) -> None:
        """Say it outright: the usual beat is left out while there is other traffic."""
        self._told_ns = now_ns
        if self.load_balancer.up:
            self.load_balancer.send(now_ns, self._beat())

    # --- the end of a batch ------------------------------------------------------------------

    def _send_claims(self, now_ns: int) -> None:
        claims = self.clients.claims.take(now_ns)
        reports = self.clients.reports.take(now_ns)
        while claims or reports:
            batch = Claims(claims=claims[:CLAIMS_MAX], reports=reports[:CLAIMS_MAX])
            self.job_manager.send(now_ns, batch)
            claims, reports = claims[CLAIMS_MAX:], reports[CLAIMS_MAX:]

    def _send_deliveries(self, now_ns: int) -> None:
        deliveries = self.clients.answers.take()
        if not self.load_balancer.up:  # it has told its devices to check in again
            self.count("undelivered_answers", len(deliveries))
            return
        for batch in in_batches(deliveries):
            self.load_balancer.send(now_ns, Deliver(items=batch))
