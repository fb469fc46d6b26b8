"""The scheduler's decisions: when a plan is made, and which manager has to hear it (again).

In come the jobs (snapshot and events of the job manager) and the supply (numbered buckets of the
client managers); out go plans, one message a manager, alike but for its quotas.

* The first plan after a change of the jobs leaves with the same batch; later ones are at least
  ``plan_interval_s`` apart. If only the supply changes, ``replan_s`` is soon enough.
* The very first one waits ``settle_s`` for the managers to say hello: they still work by a plan of
  the life before, and a whole round's demand for the first to come would be too much on top.
* A manager that comes or goes changes everybody's quotas, so it is a change like the others.
* A plan that got lost is noticed: a manager's beat says which one it has. (One that could not be
  delivered is not sent again at once: to a peer that is gone, that would go on for ever.)
* If the job manager is lost, the last plan stays in force. So it does if the policy fails, which
  only one of the operator's own can: that is counted, and said once until a plan is made again.

Nothing is stored: after a restart the job manager sends a snapshot and the managers their last
supply. Not here: the order of jobs, which is the engine's (:mod:`propius.engine`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from daemons.scheduler import plans
from daemons.scheduler.jobs import JobTable
from daemons.scheduler.settings import SchedulerSettings
from propius import driver, engine, messages
from propius.core import SECOND_NS, Core, Frames, Link
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    Beat,
    DecodeError,
    Header,
    Hello,
    JobEvents,
    Message,
    NeedSnapshot,
    Snapshot,
    Supply,
    SupplyBucket,
    decode_payload,
)
from propius.peering import Listener, Peer

__all__ = ["SchedulerCore", "SchedulerSettings"]

INSIDE: Final = "inside"
JOB_MANAGER: Final = "job_manager"
ASK_AGAIN_NS: Final = SECOND_NS // 2  # between requests for a snapshot
SEND_AGAIN_NS: Final = SECOND_NS  # before a plan that a manager does not confirm is sent again
SUPPLY_SEEN_MAX: Final = 1_024  # managers whose supply numbers are remembered


@dataclass(slots=True)
class Manager:
    """A client manager that is here now."""

    peer: Peer
    sent_version: int = -1  # of the last plan sent to it; -1: the next batch sends it again
    sent_ns: int = 0


class SchedulerCore(Core):
    """See the module. ``seed`` is the policy's."""

    links = (Link(INSIDE, "bind", outside=False),)

    def __init__(self, settings: SchedulerSettings, *, incarnation: int, seed: int) -> None:
        super().__init__("scheduler", incarnation)
        self.settings = settings
        self.listener = Listener(
            self,
            INSIDE,
            roles=frozenset({"job_manager", "client_manager"}),
            package_version=settings.package_version,
            schema=settings.schema.schema,
        )
        self._started = messages.PlannerStarted(
            policy=settings.policy,
            options=dict(settings.policy_options),
            dimensions=len(settings.schema.attributes),
            seed=seed,
            supply_window_ns=int(settings.supply_window_s * SECOND_NS),
            supply_samples_max=settings.supply_samples_max,
        )
        self.planner = driver.planner_of(self._started)
        self.jobs = JobTable(self.planner)
        self.plan: engine.Plan | None = None
        self._groups: list[engine.PlanGroup] = []  # the plan's, read out once
        self._planned_for: frozenset[int] = frozenset()  # managers that the plan has quotas for
        self.managers: dict[str, Manager] = {}
        self._plan_seq = 0  # the job event that the plan knows of
        self._planned_ns: int | None = None
        self._first_plan_ns = 0
        self._changed = False  # jobs or managers, since the last plan
        self._supply_changed = False
        self._policy_fails = False  # since the last plan; it was said
        self._asked_ns: int | None = None  # when a snapshot was last asked for, while one is due
        # manager id → (its incarnation, the last bucket taken); outlives the manager's absence.
        self._supply_seen: OrderedDict[int, tuple[int, int]] = OrderedDict()

    # --- the driver's side -------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        if self.settings.event_log:
            self.record(now_ns, self._started)
        self._first_plan_ns = now_ns + int(self.settings.settle_s * SECOND_NS)

    def on_message(
        self, now_ns: int, link: str, peer: bytes, header: Header, frames: Frames
    ) -> None:
        try:
            message = decode_payload(header.kind, frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        except DecodeError as error:
            self.count("refused_messages")
            self.say("warning", "refused_inside_message", sender=header.sender, why=str(error))
            self.refuse(link, peer, header, error)
            return
        spoke, fresh = self.listener.heard(now_ns, peer, header, message)
        if spoke is None:
            return
        if spoke.name == JOB_MANAGER:
            self._from_job_manager(now_ns, spoke, fresh, message)
        else:
            self._from_manager(now_ns, spoke, fresh, message)

    def undeliverable(self, now_ns: int, link: str, peer: bytes, frames: Frames) -> None:
        super().undeliverable(now_ns, link, peer, frames)
        self.listener.unreachable(now_ns, peer)

    def due_ns(self) -> int | None:
        times = [self.listener.due_ns(), self._plan_due_ns()]
        if self._asked_ns is not None and JOB_MANAGER in self.listener.peers:
            times.append(self._asked_ns + ASK_AGAIN_NS)
        return min((time for time in times if time is not None), default=None)

    def tick(self, now_ns: int) -> None:
        for lost in self.listener.tick(now_ns, Beat(seq=max(0, self.jobs.seq))):
            if lost.name in self.managers:
                self.planner.remove_manager(lost.manager)
                self._left(now_ns, self.managers.pop(lost.name))
        if self._asked_ns is not None and now_ns >= self._asked_ns + ASK_AGAIN_NS:
            self._ask_snapshot(now_ns)

    def flush(self, now_ns: int) -> None:
        for why in self.jobs.refused:
            self.count("refused_jobs")
            self.say("error", "planner_refused_job", why=why)
        self.jobs.refused.clear()
        due_ns = self._plan_due_ns()
        if due_ns is not None and now_ns >= due_ns:
            self._make_plan(now_ns)
        if self.plan is not None:
            for manager in self.managers.values():
                planned = manager.peer.manager in self._planned_for
                if planned and manager.sent_version != self.plan.version:
                    self._send_plan(now_ns, manager, self.plan)

    def not_ready(self) -> str:
        if JOB_MANAGER not in self.listener.peers:
            return "the job manager is not connected"
        return "" if self.jobs.known else "the job manager's snapshot has not arrived"

    def gauges(self) -> dict[str, float]:
        counts = {f"planner_{name}": float(value) for name, value in self.planner.counts().items()}
        version = 0 if self.plan is None else self.plan.version
        return {**counts, "managers": len(self.managers), "plan_version": version}

    def check_invariants(self) -> None:
        """What holds after every step; raises AssertionError where it does not."""
        self.jobs.check()
        assert len(self._supply_seen) <= SUPPLY_SEEN_MAX
        here = {p.name for p in self.listener.peers.values() if p.name != JOB_MANAGER}
        assert set(self.managers) == here, "a manager that is not here, or one that is overlooked"
        if self.plan is not None and self._planned_for:
            quotas = [self.plan.quotas(manager) for manager in sorted(self._planned_for)]
            rounds = [planned for _, _, rounds in self._groups for planned in rounds]
            for (job, number, _, remaining, _, _), *shares in zip(rounds, *quotas, strict=True):
                assert sum(shares) <= remaining + len(shares) - 1, (
                    f"round {job}.{number} over-woken"
                )
                assert max(shares) <= remaining, f"round {job}.{number}: a quota above its demand"

    # --- the job manager ---------------------------------------------------------------------

    def _from_job_manager(self, now_ns: int, peer: Peer, fresh: bool, message: Message) -> None:
        match message:
            case Hello() if fresh:  # it sends a snapshot when it is welcomed; ask if it gets lost
                self.jobs.behind = True
                self._asked_ns = now_ns
            case Beat():
                self.jobs.heard_of(peer.incarnation, message.seq)
            case Snapshot():
                if self.jobs.take_snapshot(peer.incarnation, message):
                    self._jobs_changed(now_ns, message.seq, message.jobs, None)
            case JobEvents():
                if self.jobs.take_events(peer.incarnation, message):
                    self._jobs_changed(now_ns, message.seq, message.changed, message.removed)
            case _:
                self.count("unexpected_messages")
        if not self.jobs.behind:
            self._asked_ns = None
        elif self._asked_ns is None:
            self._ask_snapshot(now_ns)

    def _jobs_changed(
        self,
        now_ns: int,
        seq: int,
        changed: list[messages.JobState],
        removed: list[int] | None,
    ) -> None:
        self._changed = True
        if self.settings.event_log:
            whole = removed is None
            event = messages.JobsReceived(
                whole=whole, seq=seq, changed=changed, removed=removed or []
            )
            self.record(now_ns, event)

    def _ask_snapshot(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        if (peer := self.listener.peers.get(JOB_MANAGER)) is not None:
            self.count("snapshots_asked")
            self.listener.send(now_ns, peer, NeedSnapshot())

    # --- client managers ---------------------------------------------------------------------

    def _from_manager(self, now_ns: int, peer: Peer, fresh: bool, message: Message) -> None:
        manager = self.managers.get(peer.name)
        if fresh or manager is None:
            if manager is not None:
                self._left(now_ns, manager)
            manager = self.managers[peer.name] = Manager(peer)
            self._joined(now_ns, peer)
        match message:
            case Hello():
                manager.sent_version = -1
            case Beat():
                self._confirm(now_ns, manager, message.seq)
            case Supply():
                self._take_supply(now_ns, peer, message)
            case _:
                self.count("unexpected_messages")

    def _joined(self, now_ns: int, peer: Peer) -> None:
        self.planner.add_manager(peer.manager)
        self._changed = True
        self.say("info", "manager_joined", manager=peer.name)
        if self.settings.event_log:
            event = messages.ManagerJoined(manager=peer.manager, incarnation=peer.incarnation)
            self.record(now_ns, event)

    def _left(self, now_ns: int, manager: Manager) -> None:
        self._changed = True
        if self.settings.event_log:
            number, incarnation = manager.peer.manager, manager.peer.incarnation
            self.record(now_ns, messages.ManagerLeft(manager=number, incarnation=incarnation))

    def _confirm(self, now_ns: int, manager: Manager, version: int) -> None:
        """A manager says which plan it works by; if the last one got lost, send it again."""
        unconfirmed = version != manager.sent_version
        if unconfirmed and now_ns >= manager.sent_ns + SEND_AGAIN_NS:
            manager.sent_version = -1

    def _take_supply(self, now_ns: int, peer: Peer, supply: Supply) -> None:
        """Count each bucket once: ``seq`` numbers the last one, those before it count down."""
        incarnation, last = self._supply_seen.get(peer.manager, (peer.incarnation, 0))
        if incarnation != peer.incarnation:
            last = 0
        news = supply.buckets[-(supply.seq - last) :] if supply.seq > last else []
        self._supply_seen[peer.manager] = (peer.incarnation, max(last, supply.seq))
        self._supply_seen.move_to_end(peer.manager)
        if len(self._supply_seen) > SUPPLY_SEEN_MAX:
            self._supply_seen.popitem(last=False)
        taken = [bucket for bucket in news if self._add_bucket(peer, bucket)]
        if taken:
            self._supply_changed = True
            if self.settings.event_log:
                event = messages.SupplyReceived(manager=peer.manager, seq=supply.seq, buckets=taken)
                self.record(now_ns, event)

    def _add_bucket(self, peer: Peer, bucket: SupplyBucket) -> bool:
        try:
            self.planner.add_supply(
                peer.manager,
                bucket.bucket_start_ns,
                bucket.distinct_devices,
                bucket.specs,
                bucket.options,
            )
        except engine.EngineError as error:
            self.count("refused_buckets")
            self.say("error", "planner_refused_supply", manager=peer.name, why=str(error))
            return False
        return True

    # --- plans -------------------------------------------------------------------------------

    def _plan_due_ns(self) -> int | None:
        """When the next plan is to be made; None: nothing changed, or no jobs are known yet."""
        if not self.jobs.known:
            return None
        if not (self._changed or self._supply_changed):
            return None if self.plan is None or self._policy_fails else self.plan.again_ns
        if self._planned_ns is None:
            return self._first_plan_ns
        wait_s = self.settings.plan_interval_s if self._changed else self.settings.replan_s
        return self._planned_ns + int(wait_s * SECOND_NS)

    def _make_plan(self, now_ns: int) -> None:
        self._planned_ns = now_ns
        self._changed = self._supply_changed = False
        try:
            plan = self.planner.plan(now_ns)
        except engine.PolicyError as error:
            self._policy_failed(now_ns, error)
            return
        self._policy_fails = False
        self.plan, self._plan_seq = plan, self.jobs.seq
        self._groups, self._planned_for = plan.groups, frozenset(plan.managers)
        self.count("plans")
        if self.settings.event_log:
            self.record(now_ns, driver.plan_made(plan, self._plan_seq, self.settings.policy))

    def _policy_failed(self, now_ns: int, error: engine.PolicyError) -> None:
        """The last plan stays; the policy is asked again after ``replan_s`` or the next change."""
        self.count("policy_errors")
        self._supply_changed = True
        if not self._policy_fails:
            self.say("error", "policy_failed", why=str(error))
        self._policy_fails = True
        if self.settings.event_log:
            self.record(now_ns, driver.plan_failed(error))

    def _send_plan(self, now_ns: int, manager: Manager, plan: engine.Plan) -> None:
        manager.sent_version, manager.sent_ns = plan.version, now_ns
        message = plans.to_message(
            plan,
            self._groups,
            manager=manager.peer.manager,
            seq=self._plan_seq,
            constraints=self.jobs.constraints,
        )
        self.listener.send(now_ns, manager.peer, message)
