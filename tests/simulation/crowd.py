"""Who lives in a world: job servers, devices, an operator and strangers, drawn from the seed.

At least six devices are strong enough for every job, so that each job can be served. Not here: what
they do (:mod:`tests.simulation.job_servers`, ``devices``, ``operators``, ``strangers``).
"""

from __future__ import annotations

import struct
from typing import Any, Final

from propius import tokens
from propius.job_session import JobTerms
from tests.simulation.actors import LINK, Actor
from tests.simulation.cluster import Cluster
from tests.simulation.devices import Device
from tests.simulation.host import Surroundings
from tests.simulation.job_servers import JobServer
from tests.simulation.operators import Operator
from tests.simulation.oracle import Oracle
from tests.simulation.strangers import Stranger

STRONG: Final = 6
MARKER: Final = b"\xd5\x1a\x7e\xc0\xde\x99"  # low bytes of every private value
PRIVATE_NAME: Final = "private_marker"  # an attribute that only devices know of
_REQUIREMENTS: Final[tuple[dict[str, float], ...]] = (
    {}, {"ram": 4.0}, {"cpu_f": 10.0}, {"cpu_f": 10.0, "ram": 8.0}, {"ram": 16.0},
)  # fmt: skip


def private_value(magnitude: float) -> float:
    """About this number, with the marker in the low bytes of its binary form."""
    value: float = struct.unpack(">d", struct.pack(">d", magnitude)[:2] + MARKER)[0]
    return value


class Crowd:
    """Everybody outside the daemons."""

    def __init__(self, around: Surroundings, oracle: Oracle, master_key: bytes) -> None:
        self._around, self._oracle = around, oracle
        random = self._random = around.faults.random
        self.jobs = [self._job_server(number) for number in range(random.randint(3, 4))]
        self.devices = [self._device(number) for number in range(random.randint(10, 16))]
        key = tokens.operator_key(master_key)
        self.operators = [Operator("operator", around, oracle, key)]
        self.strangers = [
            Stranger(f"stranger-{number}", around, oracle, pause_s=random.uniform(0.1, 1.0))
            for number in range(around.faults.strangers)
        ]

    @property
    def wanderers(self) -> list[Device | Operator]:
        """Those who go on until they are told to stop."""
        return [*self.devices, *self.operators]

    def connect(self, cluster: Cluster) -> None:
        """Everybody gets a line to their daemons."""
        network = self._around.network
        outside = {
            "jobs": (cluster.job_manager, "jobs"),
            "clients": (cluster.balancer, "clients"),
        }
        inside = {
            "balancer_inside": (cluster.balancer, "managers"),
            "job_manager_inside": (cluster.job_manager, "managers"),
            "scheduler_inside": (cluster.scheduler, "inside"),
        }
        actors: list[Actor] = [*self.jobs, *self.devices, *self.operators]
        for actor in actors:
            network.dial(actor, LINK, *outside[actor.outside])
        for stranger in self.strangers:
            for link, target in (outside | inside).items():
                network.dial(stranger, link, *target)

    def _job_server(self, number: int) -> JobServer:
        random = self._random
        demand = random.randint(1, 4)
        terms = JobTerms(
            name=f"job-{number}",
            requirement=random.choice(_REQUIREMENTS),
            private_constraint=random.choice(({}, {"images": 100.0}, {"images": 300.0})),
            demand=demand,
            rounds=random.randint(4, 6),
            server_endpoint=f"tcp://127.0.0.1:{number}",
        )
        settings: dict[str, Any] = {
            "reports_min": random.choice((0, 0, max(1, demand - 1))),
            "deadline_s": random.choice((0.0, 0.0, 20.0)),
            "lease_s": random.choice((0.0, 3.0, 6.0)),
        }  # and once_per_device, which the job server draws for each round
        return JobServer(f"job-{number}", self._around, self._oracle, terms, settings)

    def _device(self, number: int) -> Device:
        random = self._random
        strong = number < STRONG
        spec = {
            "cpu_f": 30.0 if strong else random.uniform(1.0, 24.0),
            "ram": 20.0 if strong else random.uniform(1.0, 16.0),
        }
        private = {
            "images": private_value(1000.0 if strong else random.uniform(50.0, 500.0)),
            PRIVATE_NAME: private_value(random.uniform(1.0, 100.0)),
        }
        return Device(
            f"{random.getrandbits(128):032x}",
            self._around,
            self._oracle,
            spec,
            private,
            pace=random.uniform(0.5, 2.0),
            reliable=strong,
        )
