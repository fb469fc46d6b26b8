"""Jobs that share a population with one whose server is dead, for an hour of virtual time.

``hour(seed, dead=…)`` runs the daemons' real cores on a perfect network, with devices that are just
enough for the healthy jobs, with or without the dead job beside them, and says how many rounds each
healthy job had done and what became of the dead job. ``python -m tests.simulation.neighbours
--seeds 1-10`` prints the table of ``docs/testing.md``.

Not here: faults (:mod:`tests.simulation.world`); what a job manager may do in a back-off
(:mod:`tests.simulation.patience`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.settings import JobManagerSettings
from propius.job_session import JobTerms
from propius.messages import LeaseEnded, LeaseGranted
from propius.session import Talk
from tests.simulation.actors import LINK
from tests.simulation.clock import SECOND_NS, Clock
from tests.simulation.cluster import LEASE_GRACE_S, SCHEMA, SILENCE_S, Cluster
from tests.simulation.devices import Device
from tests.simulation.durable import Durable
from tests.simulation.faults import Faults
from tests.simulation.host import Surroundings
from tests.simulation.job_servers import JobServer
from tests.simulation.network import Network
from tests.simulation.oracle import Oracle
from tests.simulation.store import VirtualStore
from tests.simulation.trace import Trace

HOUR_S: Final = 3_600.0
DEVICES: Final = 25  # as in the run that burnt 3,134 leases in 14 s
JOBS: Final = 4  # healthy ones
DEMAND: Final = 6  # of each; 24 devices work at a time
LEASE_S: Final = 300.0  # devices work for 2 to 15 % of it, by their pace
DEAD: Final = "tcp://127.0.0.1:9"


@dataclass(frozen=True)
class Hour:
    """What an hour came to."""

    rounds: list[int]  # done, of each healthy job
    burnt: int  # leases that the dead job got
    held_max: int  # of them, at once
    first_burst: int  # before its first back-off
    paused: bool  # the dead job was given up
    reason: str


class Neighbourhood:
    """One seed's processes; nothing goes wrong but the dead job."""

    def __init__(self, seed: int, *, dead: bool, job_manager: Mapping[str, Any]) -> None:
        self.random = Random(f"neighbours {seed}")
        faults, trace = Faults.none(self.random), Trace(0)
        self.clock = Clock()
        network = Network(self.clock, faults, trace, [])
        around = Surroundings(self.clock, network, faults, trace, ill={DEAD})
        self.durable, store = Durable(), VirtualStore(self.clock, faults)
        store.applied = lambda commit: self.durable.apply(commit.changes)
        key = self.random.randbytes(32)
        oracle = Oracle(self.clock, self.durable, SCHEMA, key, SILENCE_S, LEASE_GRACE_S)
        self.cluster = Cluster(seed, around, store, oracle, key, Random(0))
        self.cluster.job_manager_settings = {"job_silence_max_s": 2 * HOUR_S, **job_manager}
        self.cluster.build(2)
        self.cluster.job_manager.recorded = lambda _host, record: self._recorded(record.event)
        self.jobs = [self._job(around, oracle, number) for number in range(JOBS)]
        self.devices = [self._device(around, oracle, number) for number in range(DEVICES)]
        # The dead job is made last, so that all others are the same without it.
        self.dead = self._job(around, oracle, JOBS, DEAD) if dead else None
        for actor in [*self.jobs, *self.devices, *([self.dead] if self.dead else [])]:
            on_jobs = actor.outside == "jobs"
            host = self.cluster.job_manager if on_jobs else self.cluster.balancer
            network.dial(actor, LINK, host, actor.outside)
        self.held = self.held_max = self.burnt = self.first_burst = 0

    def live(self, seconds: float) -> None:
        """All start, and go on for so long."""
        for host in self.cluster.hosts.values():
            host.start()
        for actor in [*self.devices, *self.jobs]:
            self.clock.after(self.random.randrange(3 * SECOND_NS), actor.start)
        if self.dead:
            self.clock.after(SECOND_NS, self.dead.start)
        self.clock.run(self.clock.now_ns + int(seconds * SECOND_NS))

    def _recorded(self, event: object) -> None:
        """Follow the dead job's leases. It registers by its name, and has the id that it got."""
        number = self.dead._saved[0] if self.dead and self.dead._saved else -1
        match event:
            case LeaseGranted(job=job) if job == number:
                self.burnt, self.held = self.burnt + 1, self.held + 1
                self.held_max = max(self.held_max, self.held)
                if not self._core.book.jobs[number].backoffs:
                    self.first_burst = self.burnt
            case LeaseEnded(job=job) if job == number:
                self.held -= 1

    @property
    def _core(self) -> JobManagerCore:
        core = self.cluster.job_manager.core
        assert isinstance(core, JobManagerCore)
        return core

    def hour(self) -> Hour:
        """The figures so far."""
        book = self._core.book
        saved = self.dead._saved if self.dead else None
        record = book.jobs[saved[0]] if saved else None
        return Hour(
            rounds=[job.rounds_seen for job in self.jobs],
            burnt=self.burnt,
            held_max=self.held_max,
            first_burst=self.first_burst,
            paused=bool(record and record.paused),
            reason=record.reason if record else "",
        )

    def _job(
        self, around: Surroundings, oracle: Oracle, number: int, endpoint: str = ""
    ) -> JobServer:
        terms = JobTerms(
            name=f"job-{number}",
            requirement={},
            demand=DEMAND,
            rounds=1_000_000,
            server_endpoint=endpoint or f"tcp://127.0.0.1:{1000 + number}",
        )
        settings = {"lease_s": LEASE_S, "deadline_s": 0.0}
        made = DeadServer if endpoint else JobServer
        return made(f"job-{number}", around, oracle, terms, settings)

    def _device(self, around: Surroundings, oracle: Oracle, number: int) -> Device:
        return Device(
            f"{self.random.getrandbits(128):032x}",
            around,
            oracle,
            {"cpu_f": 20.0, "ram": 16.0},
            {},
            pace=self.random.uniform(0.5, 2.0),
            reliable=True,
        )


class DeadServer(JobServer):
    """Its process asks for devices and serves none; it never mends what is wrong."""

    def _resume(self, session: Any) -> Talk[None]:
        yield from session.pause(HOUR_S)


def hour(
    seed: int, *, dead: bool, seconds: float = HOUR_S, job_manager: Mapping[str, Any] | None = None
) -> Hour:
    """Run one seed; ``job_manager`` are settings in place of the defaults."""
    place = Neighbourhood(seed, dead=dead, job_manager=job_manager or {})
    place.live(seconds)
    return place.hour()


def burnt_max(settings: JobManagerSettings, held_max: int) -> int:
    """The most leases that a job may burn before it is paused, from the settings."""
    from daemons.job_manager.backoff import WORKING_SHARE

    first = max(settings.backoff_after, WORKING_SHARE * held_max) + held_max
    return first + settings.backoffs_max * settings.backoff_probes


def main() -> None:
    """Print how many rounds the healthy jobs lose, seed by seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="1-10")
    parser.add_argument("--seconds", type=float, default=HOUR_S)
    parser.add_argument("--never", action="store_true", help="without back-off, for comparison")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    settings = {"backoff_after": 10**9} if asked.never else {}
    lost = []
    for seed in range(int(first), int(last or first) + 1):
        alone = hour(seed, dead=False, seconds=asked.seconds)
        beside = hour(seed, dead=True, seconds=asked.seconds, job_manager=settings)
        lost.append(100 * (1 - sum(beside.rounds) / sum(alone.rounds)))
        print(
            f"seed {seed}: {sum(alone.rounds)} rounds alone, {sum(beside.rounds)} beside the dead"
            f" job: {lost[-1]:.1f} % lost; leases burnt {beside.burnt}, {beside.first_burst} at"
            f" first, {beside.held_max} at once; paused: {beside.paused}",
            flush=True,
        )
    if len(lost) > 1:
        half = 1.96 * statistics.stdev(lost) / len(lost) ** 0.5
        print(f"n {len(lost)}: {statistics.fmean(lost):.2f} % lost, 95 % interval ± {half:.2f}")


if __name__ == "__main__":
    main()
