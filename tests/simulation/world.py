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
import hashlib
import traceback
from collections.abc import Callable
from random import Random
from typing import Final

from daemons.client_manager.core import ClientManagerCore
from daemons.job_manager.book import Book
from daemons.job_manager.core import JobManagerCore
from daemons.load_balancer.core import LoadBalancerCore
from daemons.scheduler.core import SchedulerCore
from propius.core import Commit, Record, Send
from propius.messages import encode_payload
from tests.simulation.clock import SECOND_NS, START_NS, Clock
from tests.simulation.cluster import LEASE_GRACE_S, SCHEMA, SILENCE_S, Cluster
from tests.simulation.crowd import MARKER, PRIVATE_NAME, Crowd
from tests.simulation.durable import LIVE_JOB_STATES, Durable, check
from tests.simulation.faults import Faults
from tests.simulation.figures import Run
from tests.simulation.front import Front
from tests.simulation.host import Host, InvariantError, Surroundings
from tests.simulation.nemesis import Mortal, Nemesis
from tests.simulation.network import Network
from tests.simulation.news import News
from tests.simulation.oracle import Oracle
from tests.simulation.store import VirtualStore
from tests.simulation.trace import Trace

FAULTS_S: Final = 25.0  # how long faults rain
LIVENESS_S: Final = 240.0  # after them, how long all jobs may take to finish
ILL: Final = 0.4  # probability that a job server fails all its devices for a while
LAST_S: Final = 20  # after all have gone, how long something may still be kept for them
LEFTOVERS: Final = frozenset(
    {
        "answers_waiting_for_store", "claims_under_way", "clients_claiming", "clients_offered",
        "clients_waiting", "commits_under_way", "jobs_live", "leases_held", "open_rounds",
        "planner_jobs", "planner_open_rounds", "reports_under_way", "rounds_live", "watches_held",
    }
)  # fmt: skip
"""Gauges that are zero when nobody wants anything any more. The load balancer's pending requests
are not: one whose answer was lost, of a device that has gone, stays until its time is over."""
PROMISED: Final = frozenset(
    {
        "answers_waiting_for_store", "claims_under_way", "clients_waiting", "commits_under_way",
        "pending_requests", "reports_under_way", "watches_held",
    }
)  # fmt: skip
"""Gauges that are zero when a daemon has drained: nobody is left waiting for it."""
THOROUGH_EVERY: Final = 16  # steps of a core, from one look at all that it keeps to the next


class SeedError(AssertionError):
    """A seed found something; carries the trace of what led to it."""

    def __init__(self, seed: int, why: str, trace: Trace, command: str) -> None:
        super().__init__(f"SEED={seed} {why}\n  replay: {command}")
        self.seed, self.why, self.trace = seed, why, trace


def run(
    seed: int, *, faults: Faults | None = None, trace_max: int = 400, wall_seed: int = 0
) -> Run:
    """Run one seed to its end; raises SeedError if anything that must hold does not.

    ``wall_seed`` is what wall clocks show, which must not matter.
    """
    trace = Trace(trace_max)
    world = World(seed, trace, faults, wall_seed)
    searching = gc.isenabled()
    gc.disable()  # a search for cycles costs a fifth of the run, and finds next to nothing
    try:
        world.live()
    except Exception as error:  # InvariantError, or a core or the harness that broke
        why = f"{type(error).__name__}: {error}"
        if not isinstance(error, AssertionError):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            why += f" ({frame.filename}:{frame.lineno})"
        command = f"python scripts/dst.py --seeds {seed}-{seed} --trace"
        raise SeedError(seed, why, trace, command) from error
    finally:
        if searching:
            gc.enable()
    return world.report()


class World:
    """One seed's processes."""

    def __init__(self, seed: int, trace: Trace, faults: Faults | None, wall_seed: int) -> None:
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
        self.news, self.front = News(), Front(self.clock, self.network)
        self.cluster = Cluster(
            seed, self.around, self.store, self.oracle, self.master_key, Random(f"wall {wall_seed}")
        )
        self.cluster.made = self._watch
        self.managers = self.random.randint(1, 3)
        self.cluster.build(self.managers)
        self.crowd = Crowd(self.around, self.oracle, self.master_key)
        self.crowd.connect(self.cluster)
        self.jobs, self._decisions = self.crowd.jobs, hashlib.blake2b(digest_size=16)
        self.store.applied = self._applied
        self._fall_ill(Random(f"illness {seed}"))
        self.pause_s = self.random.uniform(0.25, 1.0)  # between two large faults
        self.nemesis = self._nemesis()
        self.faults_end_ns = self.clock.now_ns

    def _fall_ill(self, random: Random) -> None:
        """One job server serves no device for a while; drawn apart, as wall clocks are."""
        if self.faults.active and random.random() < ILL:
            job, ill = random.choice(self.jobs), self.around.ill
            self.clock.after(int(random.uniform(0, 8) * SECOND_NS), ill.add, job.endpoint)
            well_s = random.uniform(12, FAULTS_S)
            self.clock.after(int(well_s * SECOND_NS), ill.discard, job.endpoint)

    def _nemesis(self) -> Nemesis:
        crowd, cluster = self.crowd, self.cluster
        mortals: list[Mortal] = [*crowd.jobs, *crowd.jobs, *crowd.devices, *crowd.operators]
        return Nemesis(
            self.around,
            lambda: list(cluster.hosts.values()),
            self.store,
            mortals,
            cluster.reboot,
            pause_s=self.pause_s,
            join=cluster.join,
            leave=cluster.leave,
            twin=cluster.twin,
        )

    # --- from birth to the end -------------------------------------------------------------------

    def live(self) -> None:
        """Faults, then none, then the end; raises AssertionError where something does not hold."""
        for host in self.cluster.hosts.values():
            self.clock.after(self.random.randrange(2 * SECOND_NS), host.start)
        for actor in [*self.jobs, *self.crowd.wanderers, *self.crowd.strangers]:
            self.clock.after(self.random.randrange(3 * SECOND_NS), actor.start)
        self._run(FAULTS_S if self.faults.active else 0.0, self._jobs_finished)
        self.trace.note(self.clock.now_ns, "faults end")
        self.faults_end_ns = self.clock.now_ns
        self.around.ill.clear()
        self.nemesis.stop()
        if not self._run(LIVENESS_S, self._jobs_finished):
            raise InvariantError(f"not finished {LIVENESS_S:g} s after faults: {self._left()}")
        wanderers = self.crowd.wanderers
        for actor in wanderers:
            actor.stopping = True
        if not self._run(LIVENESS_S, lambda: all(actor.finished for actor in wanderers)):
            left = [actor.name for actor in wanderers if not actor.finished]
            raise InvariantError(f"never come to rest: {left}")
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
            decisions=self._decisions.hexdigest(),
            delivered=self.network.delivered,
            steps=sum(host.steps for host in self.cluster.hosts.values()),
            virtual_s=(self.clock.now_ns - START_NS) / SECOND_NS,
            faults_s=(self.faults_end_ns - START_NS) / SECOND_NS,
            pause_s=self.pause_s,
            message_rate=sum(self.faults.rates.values()),
            managers=self.managers,
            rounds_asked=sum(job.terms.rounds for job in self.jobs),
            jobs_cut_short=sum(job.rounds_seen < job.terms.rounds for job in self.jobs),
            rounds=len(self.durable.rounds_over),
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

    def _watch(self, host: Host) -> None:
        """A daemon was made: look at all that it does."""
        host.stepped, host.recorded, host.drained = self._stepped, self._recorded, _drained
        if host.name == "job_manager":
            host.sending = self.news.sent
        elif host.name == "scheduler":
            host.sending = lambda send: self._planned(host, send)
        elif host.name == "load_balancer":
            host.sending, host.arrived = self.front.sent, self.front.arrived

    def _stepped(self, host: Host) -> None:
        core = host.core
        thorough = host.steps % THOROUGH_EVERY == 0
        checked = host.busy or thorough  # beats alone change nothing that is looked at
        if isinstance(core, SchedulerCore):
            if checked:
                core.check_invariants()
            self.news.compare(core.jobs)
            return
        assert isinstance(core, JobManagerCore | ClientManagerCore | LoadBalancerCore)
        if checked:
            core.check_invariants(thorough=thorough)
        if isinstance(core, LoadBalancerCore):
            self.front.stepped(host, core)
        elif isinstance(core, JobManagerCore):
            self.oracle.job_manager_stepped(core, host.now_ns)
            if checked and not core.commits_under_way and not core.book.changes:
                self._compare(core.book)
                self.news.complete(core)

    def _planned(self, host: Host, send: Send) -> None:
        assert isinstance(host.core, SchedulerCore)
        self.news.planned(host.core, send)

    def _compare(self, book: Book) -> None:
        """The job manager has nothing to store: what it knows is what is durable."""
        check(book.jobs == self.durable.jobs, "jobs differ from the store", book.jobs)
        check(book.rounds == self.durable.rounds, "rounds differ", book.rounds)
        check(book.leases == self.durable.leases, "leases differ", book.leases)

    def _recorded(self, host: Host, record: Record) -> None:
        if isinstance(host.core, JobManagerCore):
            time_ns, event = record.now_ns + self.around.boot_ns, record.event
            self._decisions.update(b"%d %s " % (time_ns, event.kind.encode()))
            self._decisions.update(encode_payload(event))
            self.oracle.logged(time_ns, event)

    def _applied(self, commit: Commit) -> None:
        self.durable.apply(commit.changes)
        self.nemesis.on_applied()

    def _leftovers(self) -> list[str]:
        """What is still kept, though everybody has gone."""
        left, unknown = [], set(LEFTOVERS)
        for host in self.cluster.hosts.values():
            assert host.core is not None
            gauges = host.core.gauges()
            kept = sorted(name for name in LEFTOVERS & gauges.keys() if gauges[name])
            left += [f"{host.name} has {gauges[name]:g} {name}" for name in kept]
            unknown -= gauges.keys()
        check(not unknown, "no daemon has these gauges", unknown)
        return left


def _drained(host: Host) -> None:
    """A daemon that was told to stop is about to: nobody may be left waiting for it."""
    assert host.core is not None
    gauges = host.core.gauges()
    for name in PROMISED & gauges.keys():
        check(not gauges[name], f"{host.name} stops and forgets {name}", gauges[name])


def _leaked(sender: str, frames: tuple[bytes, ...]) -> None:
    raise InvariantError(f"a private spec is in a frame of {sender}: {frames}")
