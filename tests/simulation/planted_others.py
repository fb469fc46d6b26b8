"""Planted bugs of the scheduler, the client managers, the load balancer and the SDK."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import pytest

from daemons.client_manager.clients import Clients
from daemons.client_manager.exchanges import Exchanges
from daemons.job_manager import core
from daemons.load_balancer.core import LoadBalancerCore
from daemons.load_balancer.pending import Pending
from daemons.load_balancer.rendezvous import Rendezvous
from daemons.scheduler import plans
from daemons.scheduler.jobs import JobTable
from propius import engine
from propius.messages import Beat, JobEvents, PlannedGroup, RoundRef, Snapshot
from propius.peering import Dialer, Listener, Peer
from tests.simulation.devices import Device
from tests.simulation.planted import bug

# --- plans and offers ----------------------------------------------------------------------------


@bug(found_by="told of other jobs", seed=1)
def snapshot_with_a_gap(plant: pytest.MonkeyPatch) -> None:
    """The newest job is missing in what a scheduler begins with."""

    def snapshot(*, seq: int, jobs: list[Any]) -> Snapshot:
        return Snapshot(seq=seq, jobs=jobs[:-1])

    plant.setattr(core, "Snapshot", snapshot)


@bug(found_by="hides rounds", seed=18)
def gap_in_job_events_overlooked(plant: pytest.MonkeyPatch) -> None:
    """A scheduler that misses an event goes on as if it had not."""
    right = JobTable.take_events

    def take_events(self: JobTable, incarnation: int, events: JobEvents) -> bool:
        if events.first_seq > self.seq + 1 and incarnation == self.incarnation:
            self.seq = events.first_seq - 1
        return right(self, incarnation, events)

    plant.setattr(JobTable, "take_events", take_events)
    plant.setattr(JobTable, "heard_of", lambda *_: None)


@bug(found_by=" has cpu_f ", seed=1)
def requirement_ignored(plant: pytest.MonkeyPatch) -> None:
    """Plans ask for nothing, so that everybody is eligible."""

    def group(requirement_id: int, requirement: list[float], rounds_: list[Any]) -> PlannedGroup:
        return PlannedGroup(requirement_id, [0.0] * len(requirement), rounds_)

    plant.setattr(plans, "PlannedGroup", group)


@bug(found_by="not finished", seed=1)
def quota_not_returned(plant: pytest.MonkeyPatch) -> None:
    """A refused claim keeps its charge in the client manager, plan after plan."""
    right = engine.Matcher

    class Matcher:
        def __init__(self, **settings: Any) -> None:
            self._right = right(**settings)
            self._claimed: dict[str, RoundRef] = {}
            self._lost: Counter[RoundRef] = Counter()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._right, name)

        def accept(self, now_ns: int, device: str, job: int, number: int) -> bool:
            self._claimed[device] = (job, number)
            return self._right.accept(now_ns, device, job, number)

        def refused(self, now_ns: int, device: str) -> bool:
            self._lost[self._claimed[device]] += 1
            return self._right.refused(now_ns, device)

        def apply_plan(self, now_ns: int, *, groups: Any, **plan: Any) -> None:
            cut = [
                (
                    rid,
                    vector,
                    [
                        (j, r, rank, max(0, q - self._lost[j, r]), *more)
                        for j, r, rank, q, *more in of
                    ],
                )
                for rid, vector, of in groups
            ]
            self._right.apply_plan(now_ns, groups=cut, **plan)

    plant.setattr(engine, "Matcher", Matcher)


@bug(found_by="hides rounds", seed=1)
def job_hidden_because_there_are_many(plant: pytest.MonkeyPatch) -> None:
    """Of the rounds with one requirement only the first is planned."""

    def group(requirement_id: int, requirement: list[float], rounds_: list[Any]) -> PlannedGroup:
        return PlannedGroup(requirement_id, requirement, rounds_[:1])

    plant.setattr(plans, "PlannedGroup", group)


# --- managers and the load balancer --------------------------------------------------------------


@bug(found_by=" went to ", seed=1)
def two_managers_for_one_device(plant: pytest.MonkeyPatch) -> None:
    """The load balancer sends each request of a device to the next manager."""
    turns = count()

    def pick(self: Rendezvous, device: str) -> str | None:
        return self.managers[next(turns) % len(self.managers)] if self.managers else None

    plant.setattr(Rendezvous, "pick", pick)


@bug(found_by="s of silence", seed=1)
def frozen_manager_never_noticed(plant: pytest.MonkeyPatch) -> None:
    """The load balancer takes a silent manager for a healthy one."""
    right = Listener.tick

    def tick(self: Listener, now_ns: int, beat: Beat) -> list[Peer]:
        if self.core.name == "load_balancer":
            for peer in self.peers.values():
                peer.heard_ns = now_ns
        return right(self, now_ns, beat)

    plant.setattr(Listener, "tick", tick)


@bug(found_by="a request was forgotten", seed=1)
def clients_not_told_to_check_in_again(plant: pytest.MonkeyPatch) -> None:
    """A manager is lost, and those who wait for it hear nothing."""
    right = LoadBalancerCore._answer_lost

    def answer_lost(self: LoadBalancerCore, now_ns: int, entry: Pending) -> None:
        if entry.header.kind == "check_in":
            self.pending.remove(entry)
        else:
            right(self, now_ns, entry)

    plant.setattr(LoadBalancerCore, "_answer_lost", answer_lost)


@bug(found_by="devices are sent to the wrong managers", seed=1)
def draining_manager_gets_devices(plant: pytest.MonkeyPatch) -> None:
    """The load balancer does not heed that a manager wants no more devices."""

    def managers_changed(self: LoadBalancerCore) -> None:
        self._rendezvous = Rendezvous(self.listener.peers)

    plant.setattr(LoadBalancerCore, "_managers_changed", managers_changed)


@bug(found_by="stops and forgets clients_waiting", seed=1)
def drain_forgets_clients(plant: pytest.MonkeyPatch) -> None:
    """A manager that is told to stop does so without a word to those who wait."""
    plant.setattr(Clients, "send_away", lambda *_: None)


@bug(found_by="more is remembered than allowed", seed=3)
def unbounded_table(plant: pytest.MonkeyPatch) -> None:
    """A client manager remembers every device for ever."""
    plant.setattr(Exchanges, "tidy", lambda *_: None)


@bug(found_by="not finished", seed=1)
def peer_sought_only_once(plant: pytest.MonkeyPatch) -> None:
    """A daemon whose hello is lost waits for ever."""
    right = Dialer.tick

    def tick(self: Dialer, now_ns: int, beat: Beat) -> None:
        if self._hello_ns is None:
            right(self, now_ns, beat)
        else:
            self._hello_ns = now_ns

    plant.setattr(Dialer, "tick", tick)


# --- devices -------------------------------------------------------------------------------------


@bug(found_by="a private spec is in a frame", seed=1)
def private_spec_on_the_wire(plant: pytest.MonkeyPatch) -> None:
    """A device takes its speed score from a private attribute."""
    right = Device.__init__

    def made(self: Device, *args: Any, **fields: Any) -> None:
        right(self, *args, **fields)
        self.pace = self.private_spec["images"]

    plant.setattr(Device, "__init__", made)
