"""A scheduler core with its peers played by the test."""

from __future__ import annotations

from typing import Any

from daemons.scheduler.core import SchedulerCore, SchedulerSettings
from propius.messages import (
    Beat,
    JobEvents,
    JobState,
    Plan,
    Snapshot,
    SupplyBucket,
)
from tests.daemons.client_manager.kit import (
    SCHEMA,
    SECOND,
    VERSION,
    DiallingPeer,
    Driver,
)

MS = SECOND // 1_000


def job(
    number: int,
    *,
    round: int = 0,
    demand: int = 10,
    allocated: int = 0,
    bounds: tuple[float, float] = (2.0, 2.0),
    requirement_id: int = 0,
) -> JobState:
    """A live job; ``round`` -1: none is open."""
    return JobState(
        number,
        requirement_id,
        list(bounds),
        {"images": float(number)},
        number,
        demand,
        5,
        round,
        demand,
        allocated,
        number,
    )


def bucket(start_s: float, devices: int = 10, spec: tuple[float, float] = (4.0, 4.0)) -> Any:
    return SupplyBucket(int(start_s * SECOND), devices, list(spec), [1.0])


class World:
    """A scheduler with its peers played by the test."""

    def __init__(self, managers: int = 1, *, jobs: bool = True, **settings: Any) -> None:
        values: dict[str, Any] = {"policy": "fifo", "event_log": True, "settle_s": 0.0, **settings}
        self.settings = SchedulerSettings(schema=SCHEMA, package_version=VERSION, **values)
        self.driver = Driver(SchedulerCore(self.settings, incarnation=4, seed=1))
        self.driver.start()
        self.managers = [self.manager(number) for number in range(managers)]
        for manager in self.managers:
            manager.hello()
        self.job_manager = DiallingPeer(self.driver, "inside", "job_manager", "job_manager")
        if jobs:
            self.job_manager.hello()

    @property
    def core(self) -> SchedulerCore:
        core = self.driver.core
        assert isinstance(core, SchedulerCore)
        return core

    def manager(self, number: int, **values: Any) -> DiallingPeer:
        name = f"client_manager-{number}"
        return DiallingPeer(self.driver, "inside", "client_manager", name, manager=number, **values)

    def snapshot(self, *jobs: JobState, seq: int = 10) -> None:
        self.job_manager.say(Snapshot(seq=seq, jobs=list(jobs)))

    def events(
        self, *jobs: JobState, first: int, seq: int = 0, removed: tuple[int, ...] = ()
    ) -> None:
        self.job_manager.say(
            JobEvents(first_seq=first, seq=seq or first, changed=list(jobs), removed=list(removed))
        )

    def plans(self) -> dict[str, list[Plan]]:
        """The plans that were sent since last asked, by manager."""
        plans: dict[str, list[Plan]] = {}
        for sent in self.driver.take_sent(Plan):
            plans.setdefault(sent.peer.decode(), []).append(sent.message)
        return plans

    def plan(self) -> Plan:
        (sent,) = self.driver.take(Plan)
        return sent

    def live(self, seconds: float, *without: DiallingPeer, seq: int | None = None) -> None:
        """Let time pass while everybody beats."""
        here = [peer for peer in self.managers if peer not in without]
        for _ in range(max(1, round(seconds / 0.25))):
            self.driver.advance(0.25)
            version = 0 if self.core.plan is None else self.core.plan.version
            for manager in here:
                manager.say(Beat(seq=version))
            if self.job_manager not in without:
                self.job_manager.say(Beat(seq=max(0, self.core.jobs.seq if seq is None else seq)))


def rounds_of(plan: Plan) -> list[tuple[int, int, int]]:
    """(job, round, quota) in the order of the plan."""
    return [(p.job, p.round, p.quota) for group in plan.groups for p in group.rounds]
