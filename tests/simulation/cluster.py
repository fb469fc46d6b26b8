"""The daemons of a world: how each is made, with which limits, and who dials whom.

Client managers can be added while all runs, and can leave for good.

Not here: what is checked of them (:mod:`tests.simulation.world`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from daemons.client_manager.core import ClientManagerCore
from daemons.client_manager.settings import ClientManagerSettings
from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.settings import JobManagerSettings
from daemons.load_balancer.core import LoadBalancerCore
from daemons.load_balancer.settings import LoadBalancerSettings
from daemons.scheduler.core import SchedulerCore
from daemons.scheduler.settings import SchedulerSettings
from propius.core import Core
from propius.engine import POLICIES
from propius.messages import Schema
from tests.simulation.clock import SECOND_NS
from tests.simulation.host import Host, Surroundings
from tests.simulation.oracle import Oracle
from tests.simulation.store import VirtualStore

SILENCE_S: Final = 25.0  # of a job, until it is expired
LEASE_GRACE_S: Final = 2.0
MANAGERS_MAX: Final = 5  # that run at once
TWIN: Final = ".twin"  # after the name of a second process of one number
SCHEMA: Final = Schema(
    schema="simulated", attributes=[("cpu_f", 24.8), ("ram", 16.0), ("fp16_mem", 2800.0)]
)
IMPATIENT: Final = 0.4  # probability that a job that fails its devices is found out soon
TIGHT: Final = 0.15  # probability that a limit is so low that it is met
_LIMITS: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "load_balancer": {"pending_max": (12, 20)},
    "client_manager": {"waiting_max": (5, 9), "claims_max": (2, 5), "remembered_max": (6, 12)},
    "job_manager": {"staged_max": (8, 20), "leases_max": (4, 8)},
}
"""Each limit, from … to, where it is tight."""


def _impatience(seed: int) -> dict[str, Any]:
    """Limits of a job manager that loses patience soon, or none: then it hardly ever does.

    Drawn apart, so that nothing else in a seed depends on it.
    """
    random = Random(f"patience {seed}")
    if random.random() > IMPATIENT:
        return {}
    return {
        "backoff_after": random.randint(2, 4),
        "backoff_first_s": random.uniform(0.2, 2.0),
        "backoff_max_s": random.uniform(2.0, 6.0),
        "backoff_probes": random.randint(1, 2),
        "backoffs_max": random.randint(2, 5),
    }


class Cluster:
    """All daemons by name; ``wall`` is the wall clock, which jumps between any two starts."""

    def __init__(
        self,
        seed: int,
        around: Surroundings,
        store: VirtualStore,
        oracle: Oracle,
        master_key: bytes,
        wall: Random,
    ) -> None:
        self._seed, self._around, self._store, self._oracle = seed, around, store, oracle
        self._master_key, self._wall = master_key, wall
        self._random: Random = around.faults.random
        self._boots = 0
        self._settings: dict[str, Any] = {"schema": SCHEMA, "package_version": "simulated"}
        self._limits = {name: self._drawn(limits) for name, limits in _LIMITS.items()}
        self.job_manager_settings = _impatience(seed)  # in place of the usual ones
        self.hosts: dict[str, Host] = {}
        self.made: Callable[[Host], None] = lambda _host: None  # a host is there, not yet started
        self._managers_made = self._twins = 0

    def build(self, managers: int) -> None:
        """Make the daemons; nobody is started."""
        self.balancer = self._host("load_balancer", self._load_balancer)
        self.job_manager = self._host("job_manager", self._job_manager, store=self._store)
        self.scheduler = self._host("scheduler", self._scheduler)
        network = self._around.network
        for host, link in (
            (self.balancer, "clients"),
            (self.balancer, "managers"),
            (self.job_manager, "jobs"),
            (self.job_manager, "managers"),
            (self.scheduler, "inside"),
        ):
            network.bind(host, link)
        network.dial(self.job_manager, "scheduler", self.scheduler, "inside")
        for _ in range(managers):
            self._add_manager()

    @property
    def managers(self) -> list[Host]:
        """The client managers that have not left."""
        return [host for name, host in self.hosts.items() if name.startswith("client_manager")]

    def reboot(self) -> None:
        """The machine comes up again: another boot, and a monotonic clock near zero."""
        self._boots += 1
        self._oracle.rebooted()
        up_ns = self._random.randrange(100 * SECOND_NS)
        self._around.boot_ns = self._around.clock.now_ns - up_ns

    def join(self) -> bool:
        """One more client manager is started; False if there are enough."""
        if len(self.managers) >= MANAGERS_MAX:
            return False
        self._add_manager().start()
        return True

    def leave(self) -> bool:
        """A client manager leaves for good, drained or killed; False if it would be the last."""
        # Twins may end alone, and who is leaving already will not be here.
        managers = [h for h in self.managers if TWIN not in h.name and not h.retired]
        if len(managers) < 2:
            return False
        host = self._random.choice(managers)
        host.retired = True
        host.exited = lambda: self._gone(host)
        if host.core is None or host.frozen or self._random.random() < 0.5:
            self._bury(host)
        else:
            host.drain()
            self._around.clock.after(10 * SECOND_NS, self._bury, host)
        return True

    def twin(self) -> bool:
        """Somebody starts a client manager under a number that is taken; False if there is one."""
        managers = self.managers
        if any(TWIN in host.name for host in managers) or not managers:
            return False
        host = self._random.choice(managers)
        number = int(host.name.partition("-")[2])
        self._twins += 1
        self._add_manager(number, f"{TWIN}{self._twins}").start()
        return True

    # --- each daemon -----------------------------------------------------------------------------

    def _drawn(self, limits: dict[str, tuple[int, int]]) -> dict[str, Any]:
        random = self._random
        return {
            name: random.randint(*bounds)
            for name, bounds in limits.items()
            if random.random() < TIGHT
        }

    def _host(
        self, name: str, make: Callable[[int], Core], store: VirtualStore | None = None
    ) -> Host:
        host = Host(name, make, self._around, store=store)
        self.hosts[name] = host
        self.made(host)
        return host

    def _add_manager(self, number: int = -1, suffix: str = "") -> Host:
        """A client manager of the next number, or a second one of an old number."""
        if number < 0:
            number, self._managers_made = self._managers_made, self._managers_made + 1
        host = self._host(f"client_manager-{number}{suffix}", self._manager(number))
        host.ended = self._gone
        network = self._around.network
        network.dial(host, "load_balancer", self.balancer, "managers")
        network.dial(host, "scheduler", self.scheduler, "inside")
        network.dial(host, "job_manager", self.job_manager, "managers")
        return host

    def _bury(self, host: Host) -> None:
        """Whatever happened to it meanwhile, it is gone now."""
        host.crash()
        self._gone(host)

    def _gone(self, host: Host) -> None:
        self.hosts.pop(host.name, None)
        self._around.network.forget(host)

    def _load_balancer(self, incarnation: int) -> Core:
        settings = LoadBalancerSettings(**self._settings, **self._limits["load_balancer"])
        return LoadBalancerCore(settings, incarnation=incarnation)

    def _job_manager(self, incarnation: int) -> Core:
        usual = {
            "lease_default_s": 8.0,
            "lease_grace_s": LEASE_GRACE_S,
            "job_silence_max_s": SILENCE_S,
        }
        settings = JobManagerSettings(
            **self._settings,
            **self._limits["job_manager"],
            **(usual | self.job_manager_settings),
        )
        self._oracle.job_manager_started(settings)
        return JobManagerCore(
            settings,
            self._store.load(),
            boot_id=f"boot-{self._boots}",
            incarnation=incarnation,
            now_ns=self._around.clock.now_ns - self._around.boot_ns,
            wall_s=self._wall.uniform(0.0, 2e9),
            master_key=self._master_key,
        )

    def _scheduler(self, incarnation: int) -> Core:
        fair = self._seed // len(POLICIES) % 2  # every policy with and without
        settings = SchedulerSettings(
            **self._settings,
            policy=POLICIES[self._seed % len(POLICIES)],
            policy_options={"fairness": 2.0 * fair, "tiers": 2},
        )
        return SchedulerCore(settings, incarnation=incarnation, seed=self._seed)

    def _manager(self, number: int) -> Callable[[int], Core]:
        limits = self._limits["client_manager"]

        def make(incarnation: int) -> Core:
            settings = ClientManagerSettings(
                **self._settings, **limits, retry_max_s=5.0, retry_idle_s=1.0
            )
            return ClientManagerCore(settings, number, incarnation=incarnation, seed=incarnation)

        return make
