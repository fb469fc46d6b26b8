"""A whole Propius in one process, under virtual time and faults, all of it drawn from one seed.

``run(seed)`` builds the daemons' real cores, job servers and devices with the SDK's real sessions,
lets faults rain for a while, checks what must hold after every step, then ends the faults and
demands that everything comes to an end. It returns a :class:`Run`, or raises
:class:`SeedError`, which knows the trace.

Not here: the parts (see the other modules of this folder) and how seeds are tried in numbers
(``scripts/dst.py``).
"""

from __future__ import annotations

import gc
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from daemons.client_manager.core import ClientManagerCore
from daemons.client_manager.settings import ClientManagerSettings
from daemons.job_manager.book import Book
from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.settings import JobManagerSettings
from daemons.load_balancer.core import LoadBalancerCore
from daemons.load_balancer.settings import LoadBalancerSettings
from daemons.scheduler.core import SchedulerCore
from daemons.scheduler.settings import SchedulerSettings
from propius.core import Commit, Core, Record
from propius.job_session import JobTerms
from propius.messages import Schema
from tests.simulation.actors import LINK, Actor, Device, JobServer
from tests.simulation.clock import SECOND_NS, Clock
from tests.simulation.durable import LIVE_JOB_STATES, Durable, check
from tests.simulation.faults import Fault, Faults
from tests.simulation.host import Host, InvariantError, Surroundings
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.news import News
from tests.simulation.oracle import Oracle
from tests.simulation.store import VirtualStore
from tests.simulation.trace import Trace

FAULTS_S: Final = 45.0  # how long faults rain
LIVENESS_S: Final = 240.0  # after them, how long all jobs may take to finish
LAST_S: Final = 20  # after all have gone, how long something may still be kept for them
SILENCE_S: Final = 60.0  # of a job, until it is expired
LEASE_GRACE_S: Final = 2.0
SCHEMA: Final = Schema(
    schema="simulated", attributes=[("cpu_f", 24.8), ("ram", 16.0), ("fp16_mem", 2800.0)]
)
MARKER: Final = b"\xd5\x1a\x7e\xc0\xde\x99"  # low bytes of every private value
LEFTOVERS: Final = frozenset(
    {
        "answers_waiting_for_store", "claims_under_way", "clients_claiming", "clients_offered",
        "clients_waiting", "commits_under_way", "jobs_live", "leases_held", "open_rounds",
        "planner_jobs", "planner_open_rounds", "reports_under_way", "rounds_live", "watches_held",
    }
)  # fmt: skip
"""Gauges that are zero when nobody wants anything any more. The load balancer's pending requests
are not: one whose answer was lost, of a device that has gone, stays until its time is over."""
THOROUGH_EVERY: Final = 16  # steps of a core, from one look at all that it keeps to the next
PRIVATE_NAME: Final = "private_marker"  # an attribute that only devices know of


@dataclass
class Run:
    """What one seed did."""

    seed: int
    digest: str = ""
    delivered: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    rounds: int = 0
    offers: int = 0
    assignments: int = 0
    reports: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    coverage: Counter[tuple[str, Fault]] = field(default_factory=Counter)


class SeedError(AssertionError):
    """A seed found something; carries the trace of what led to it."""

    def __init__(self, seed: int, why: str, trace: Trace, command: str) -> None:
        super().__init__(f"SEED={seed} {why}\n  replay: {command}")
        self.seed, self.why, self.trace = seed, why, trace


def run(seed: int, *, faults: Faults | None = None, trace_max: int = 400) -> Run:
    """Run one seed to its end; raises SeedError if anything that must hold does not."""
    trace = Trace(trace_max)
    world = World(seed, trace, faults)
    searching = gc.isenabled()
    gc.disable()  # a search for cycles costs a fifth of the run, and finds next to nothing
    try:
        world.live()
    except AssertionError as error:  # InvariantError, or a core's own check
        why = f"{type(error).__name__}: {error}"
        command = f"python scripts/dst.py --seeds {seed}-{seed} --trace"
        raise SeedError(seed, why, trace, command) from error
    finally:
        if searching:
            gc.enable()
    return world.report()


def private_value(magnitude: float) -> float:
    """About this number, with the marker in the low bytes of its binary form."""
    value: float = struct.unpack(">d", struct.pack(">d", magnitude)[:2] + MARKER)[0]
    return value


class World:
    """One seed's processes."""

    def __init__(self, seed: int, trace: Trace, faults: Faults | None) -> None:
        self.seed, self.trace = seed, trace
        self.random = Random(f"propius {seed}")
        self.faults = faults or Faults.drawn(self.random)
        self.faults.random = self.random
        self.clock = Clock()
        markers = [MARKER, PRIVATE_NAME.encode()]
        self.network = Network(self.clock, self.faults, trace, markers)
        self.network.leaked = _leaked
        self.around = Surroundings(self.clock, self.network, self.faults, trace)
        self.store = VirtualStore(self.clock, self.faults)
        self.durable = Durable()
        self.master_key = self.random.randbytes(32)
        self.oracle = Oracle(
            self.clock, self.durable, SCHEMA, self.master_key, SILENCE_S, LEASE_GRACE_S
        )
        self.news = News()
        self._boots = 0
        self._settings: dict[str, Any] = {"schema": SCHEMA, "package_version": "simulated"}
        self.hosts = self._daemons(managers=self.random.randint(1, 3))
        self.jobs = self._job_servers()
        self.devices = self._devices()
        self._connect()
        mortals: list[Any] = [*self.jobs, *self.jobs, *self.devices]
        self.nemesis = Nemesis(
            self.around,
            list(self.hosts.values()),
            self.store,
            mortals,
            self._reboot,
            pause_s=self.random.uniform(0.5, 2.5),
        )
        self.store.applied = self._applied

    # --- from birth to the end -------------------------------------------------------------------

    def live(self) -> None:
        """Faults, then none, then the end; raises AssertionError where something does not hold."""
        for host in self.hosts.values():
            self.clock.after(self.random.randrange(2 * SECOND_NS), host.start)
        for actor in [*self.jobs, *self.devices]:
            self.clock.after(self.random.randrange(3 * SECOND_NS), actor.start)
        self._run(FAULTS_S if self.faults.active else 0.0, self._jobs_finished)
        self.trace.note(self.clock.now_ns, "faults end")
        self.nemesis.stop()
        if not self._run(LIVENESS_S, self._jobs_finished):
            raise InvariantError(f"not finished {LIVENESS_S:g} s after faults: {self._left()}")
        for device in self.devices:
            device.stopping = True
        if not self._run(LIVENESS_S, lambda: all(device.finished for device in self.devices)):
            left = [device.name for device in self.devices if not device.finished]
            raise InvariantError(f"devices that never come to rest: {left}")
        self._run(2 * SILENCE_S, self._at_rest)
        self.oracle.finish()
        left = self._leftovers()
        for _ in range(LAST_S):
            self._run(1.0, lambda: False)
            if not (left := self._leftovers()):
                break
        check(not left, f"kept for nobody {LAST_S} s after all have gone", left)

    def report(self) -> Run:
        """The run's figures."""
        return Run(
            seed=self.seed,
            digest=self.trace.digest(),
            delivered=self.network.delivered,
            steps=sum(host.steps for host in self.hosts.values()),
            virtual_s=self.clock.now_ns / SECOND_NS - 1_000,
            rounds=len(self.oracle.rounds_finished),
            offers=self.oracle.offers,
            assignments=self.oracle.assignments,
            reports=self.oracle.reports,
            faults=self.faults.counts,
            coverage=self.faults.coverage,
        )

    def _run(self, seconds: float, done: Callable[[], bool]) -> bool:
        return self.clock.run(self.clock.now_ns + int(seconds * SECOND_NS), done)

    def _jobs_finished(self) -> bool:
        return all(job.finished for job in self.jobs)

    def _at_rest(self) -> bool:
        live = any(job.state in LIVE_JOB_STATES for job in self.durable.jobs.values())
        return not live and not self.durable.leases

    def _left(self) -> str:
        jobs = [f"{job.name} has {job.rounds_seen} rounds" for job in self.jobs if not job.finished]
        rounds = [
            f"round {r.job}/{r.round} {r.state} {r.allocated} of {r.demand}"
            for r in self.durable.rounds.values()
            if r.state in {"open", "filled"}
        ]
        return "; ".join(jobs + rounds)

    # --- checks ----------------------------------------------------------------------------------

    def _stepped(self, host: Host) -> None:
        core = host.core
        thorough = host.steps % THOROUGH_EVERY == 0
        if isinstance(core, SchedulerCore):
            core.check_invariants()
            self.news.compare(core.jobs)
            return
        assert isinstance(core, JobManagerCore | ClientManagerCore | LoadBalancerCore)
        core.check_invariants(thorough=thorough)
        if (
            isinstance(core, JobManagerCore)
            and not core.commits_under_way
            and not core.book.changes
        ):
            self._compare(core.book)

    def _compare(self, book: Book) -> None:
        """The job manager has nothing to store: what it knows is what is durable."""
        check(book.jobs == self.durable.jobs, "jobs differ from the store", book.jobs)
        check(book.rounds == self.durable.rounds, "rounds differ", book.rounds)
        check(book.leases == self.durable.leases, "leases differ", book.leases)

    def _recorded(self, host: Host, record: Record) -> None:
        if isinstance(host.core, JobManagerCore):
            self.oracle.logged(record.now_ns + self.around.boot_ns, record.event)

    def _applied(self, commit: Commit) -> None:
        self.durable.apply(commit.changes)
        self.nemesis.on_applied()

    def _leftovers(self) -> list[str]:
        """What is still kept, though everybody has gone."""
        left, unknown = [], set(LEFTOVERS)
        for host in self.hosts.values():
            assert host.core is not None
            gauges = host.core.gauges()
            kept = sorted(name for name in LEFTOVERS & gauges.keys() if gauges[name])
            left += [f"{host.name} has {gauges[name]:g} {name}" for name in kept]
            unknown -= gauges.keys()
        check(not unknown, "no daemon has these gauges", unknown)
        return left

    # --- building --------------------------------------------------------------------------------

    def _daemons(self, managers: int) -> dict[str, Host]:
        makes: dict[str, Callable[[int], Core]] = {
            "load_balancer": self._load_balancer,
            "job_manager": self._job_manager,
            "scheduler": self._scheduler,
        }
        for number in range(managers):
            makes[f"client_manager-{number}"] = self._manager(number)
        hosts = {
            name: Host(name, make, self.around, store=self.store if name == "job_manager" else None)
            for name, make in makes.items()
        }
        hosts["job_manager"].sending = self.news.sent
        for host in hosts.values():
            host.stepped, host.recorded = self._stepped, self._recorded
        return hosts

    def _load_balancer(self, incarnation: int) -> Core:
        settings = LoadBalancerSettings(**self._settings)
        return LoadBalancerCore(settings, incarnation=incarnation)

    def _job_manager(self, incarnation: int) -> Core:
        self.oracle.job_manager_started()
        settings = JobManagerSettings(
            **self._settings,
            lease_default_s=8.0,
            lease_grace_s=LEASE_GRACE_S,
            job_silence_max_s=SILENCE_S,
        )
        return JobManagerCore(
            settings,
            self.store.load(),
            boot_id=f"boot-{self._boots}",
            incarnation=incarnation,
            now_ns=self.clock.now_ns - self.around.boot_ns,
            wall_s=self.random.uniform(0.0, 2e9),  # a wall clock that jumps decides nothing
            master_key=self.master_key,
        )

    def _scheduler(self, incarnation: int) -> Core:
        policies = ("fifo", "random", "srsf", "irs")
        settings = SchedulerSettings(**self._settings, policy=policies[self.seed % 4])
        return SchedulerCore(settings, incarnation=incarnation, seed=self.seed)

    def _manager(self, number: int) -> Callable[[int], Core]:
        def make(incarnation: int) -> Core:
            settings = ClientManagerSettings(**self._settings, retry_max_s=5.0, retry_idle_s=1.0)
            return ClientManagerCore(settings, number, incarnation=incarnation, seed=incarnation)

        return make

    def _job_servers(self) -> list[JobServer]:
        random = self.random
        jobs = []
        for number in range(random.randint(2, 4)):
            demand = random.randint(1, 4)
            terms = JobTerms(
                name=f"job-{number}",
                requirement=random.choice(
                    ({}, {"ram": 4.0}, {"cpu_f": 10.0}, {"cpu_f": 10.0, "ram": 8.0}, {"ram": 99.0})
                ),
                private_constraint=random.choice(({}, {"images": 100.0}, {"images": 300.0})),
                demand=demand,
                rounds=random.randint(4, 6),
                server_endpoint=f"tcp://127.0.0.1:{number}",
            )
            settings = {
                "reports_min": random.choice((0, 0, max(1, demand - 1))),
                "deadline_s": random.choice((0.0, 0.0, 20.0)),
                "lease_s": random.choice((0.0, 3.0, 6.0)),
            }
            jobs.append(JobServer(f"job-{number}", self.around, self.oracle, terms, settings))
        return jobs

    def _devices(self) -> list[Device]:
        random = self.random
        devices = []
        for number in range(random.randint(9, 18)):
            strong = number < 6  # enough for every job
            spec = {
                "cpu_f": 30.0 if strong else random.uniform(1.0, 24.0),
                "ram": 20.0 if strong else random.uniform(1.0, 16.0),
            }
            private = {
                "images": private_value(1000.0 if strong else random.uniform(50.0, 500.0)),
                PRIVATE_NAME: private_value(random.uniform(1.0, 100.0)),
            }
            device = Device(
                f"{random.getrandbits(128):032x}",
                self.around,
                self.oracle,
                spec,
                private,
                pace=random.uniform(0.5, 2.0),
            )
            devices.append(device)
        return devices

    def _connect(self) -> None:
        network, hosts = self.network, self.hosts
        balancer, scheduler = hosts["load_balancer"], hosts["scheduler"]
        job_manager = hosts["job_manager"]
        for host, link in (
            (balancer, "clients"),
            (balancer, "managers"),
            (job_manager, "jobs"),
            (job_manager, "managers"),
            (scheduler, "inside"),
        ):
            network.bind(host, link)
        network.dial(job_manager, "scheduler", scheduler, "inside")
        for name, host in hosts.items():
            if name.startswith("client_manager"):
                network.dial(host, "load_balancer", balancer, "managers")
                network.dial(host, "scheduler", scheduler, "inside")
                network.dial(host, "job_manager", job_manager, "managers")
        actors: list[tuple[Actor, Host, str]] = [(job, job_manager, "jobs") for job in self.jobs]
        actors += [(device, balancer, "clients") for device in self.devices]
        for actor, host, link in actors:
            network.dial(actor, LINK, host, link)

    def _reboot(self) -> None:
        """The machine comes up again: another boot, and a monotonic clock near zero."""
        self._boots += 1
        self.around.boot_ns = self.clock.now_ns - self.random.randrange(100 * SECOND_NS)


def _leaked(sender: str, frames: tuple[bytes, ...]) -> None:
    raise InvariantError(f"a private spec is in a frame of {sender}: {frames}")
