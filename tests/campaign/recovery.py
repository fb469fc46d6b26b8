"""How long it takes until all is well again: after a kill, for a whole fleet, with a full store.

Everything runs as users have it: the daemons under supervisord (``propius up``), which starts a
killed one again; so the times hold supervisord's own delay and the start of Python. Not here:
whether anything was lost meanwhile (:mod:`tests.campaign.run`).
"""

from __future__ import annotations

import asyncio
import http.client
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zmq

from daemons.load_balancer.rendezvous import Rendezvous
from propius import AsyncClient, AsyncConnection, AsyncJob, Client, Job
from propius.cli.client_managers import STARTED_S
from propius.cli.cluster import Cluster
from propius.cli.status import status
from propius.job import Operator
from propius.messages import (
    CheckIn,
    GetSchema,
    Header,
    ListJobs,
    Message,
    Schema,
    decode_header,
    decode_payload,
    encode,
)
from tests.campaign.site import until

ANSWERS_S: Final = 3.0  # the limits of the product
FLEET_S: Final = 15.0
RELOAD_S: Final = 2.0
FLEET: Final = 1_000
JOBS: Final = 2_000
TRY_MS: Final = 100
DAEMONS: Final = ("scheduler", "job_manager", "load_balancer", "client_manager-0")
UNHURRIED_START_S: Final = 0.5  # of a daemon's `--check`, on a machine that does nothing else


@dataclass
class Figure:
    """Times of one kind."""

    what: str
    limit_s: float = 0.0  # of the 99th percentile; 0: none is promised
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def p99_s(self) -> float:
        """The 99th percentile (of fewer than a hundred, the slowest)."""
        return sorted(self.seconds)[-1 - len(self.seconds) // 100]

    @property
    def slowest_s(self) -> float:
        """The greatest."""
        return max(self.seconds)


def to_json(figure: Figure) -> dict[str, Any]:
    """A figure for programs."""
    return {
        "what": figure.what,
        "limit_s": figure.limit_s,
        "times": len(figure.seconds),
        "median_s": round(figure.median_s, 3),
        "p99_s": round(figure.p99_s, 3),
        "slowest_s": round(figure.slowest_s, 3),
    }


def hurry() -> float:
    """How many times slower than alone this machine starts a daemon now; at least 1."""
    began_s = time.monotonic()
    script = Path(sys.executable).with_name("propius-controller-scheduler")
    subprocess.run([str(script), "--check"], check=True, capture_output=True)
    return max(1.0, (time.monotonic() - began_s) / UNHURRIED_START_S)


def ask(endpoint: str, sender: str, message: Message) -> Message | None:
    """One try on a fresh connection; None without an answer."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        header = Header(kind=message.kind, sender=sender, session=1, request=time.monotonic_ns())
        socket.send_multipart(encode(header, message))
        if not socket.poll(TRY_MS):
            return None
        frames = socket.recv_multipart()
    return decode_payload(decode_header(frames[0]).kind, frames[1])


# --- a killed daemon -----------------------------------------------------------------------------


class Prober:
    """Sees when the service of a daemon answers again, on fresh connections."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clients = cluster.endpoint("load_balancer", "clients")
        self.jobs = cluster.endpoint("job_manager", "jobs")
        self.key = bytes.fromhex((cluster.directory / "operator.key").read_text().strip())
        schema = ask(self.clients, "0f" * 16, GetSchema())
        assert isinstance(schema, Schema)
        # Too small for any job: a probe must not be offered what others wait for.
        self.check_in = CheckIn(schema=schema.schema, spec=[0.0] * len(schema.attributes), option=1)
        managers = Rendezvous(name for name in cluster.names if name.startswith("client_manager"))
        self.device = next(
            device
            for device in (f"{number:032x}" for number in range(1_000))
            if managers.pick(device) == "client_manager-0"
        )

    def answers(self, daemon: str) -> bool:
        """A device (of the killed manager) is served, jobs are listed, and the daemon is ready."""
        offer = ask(self.clients, self.device, self.check_in)
        jobs = ask(self.jobs, "operator", ListJobs(secret=self.key))
        if offer is None or jobs is None or (offer.kind, jobs.kind) != ("offer", "job_list"):
            return False
        return status(self.cluster.directory, daemon).state == "ready"


class Pair:
    """A job server and a device that were connected before the kill."""

    def __init__(self, cluster: Cluster) -> None:
        self.job = Job(
            cluster.endpoint("job_manager", "jobs"), name="pair", requirement={"ram": 1}, demand=1
        )
        self.job.register()
        self.client = Client(
            cluster.endpoint("load_balancer", "clients"), spec={"ram": 4}, device_id="ab" * 16
        )

    def cycle(self) -> None:
        """A round from its start to its end."""
        number = self.job.start_request(1)
        with_task = self.client.auto_assign(wait_s=60)
        assert with_task is not None
        with with_task:
            pass  # its work is done at once
        seen = -1
        while (now := self.job.watch_round(number, seen=max(seen, 0))).state != "completed":
            seen = now.version

    def close(self) -> None:
        """Let go."""
        self.job.close()
        self.client.close()


class Killer:
    """Kills daemons of a cluster and looks at the clock."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.prober = Prober(cluster)
        self.pair = Pair(cluster)

    def kill(self, daemon: str) -> tuple[float, float]:
        """kill -9: seconds until it answers again, and until a round from start to end passed.

        The daemon has been up for as long as supervisord wants to take it for started: one that
        ends sooner is a failed start, after each of which supervisord waits a second longer.
        """
        here = self.cluster.directory
        until(lambda: status(here, daemon).uptime_s > STARTED_S, f"{daemon} to be up for a while")
        self.pair.cycle()
        with ThreadPoolExecutor(1) as pool:
            killed_s = time.monotonic()
            pid = self.cluster.kill(daemon)
            until(lambda: self.cluster.pid(daemon) != pid, f"the death of {daemon}")
            cycle = pool.submit(self._cycle)
            until(lambda: self.prober.answers(daemon), f"answers after {daemon} was killed")
            answered_s = time.monotonic()
            cycled_s = cycle.result()
        self.cluster.wait_ready()
        return answered_s - killed_s, cycled_s - killed_s

    def _cycle(self) -> float:
        self.pair.cycle()
        return time.monotonic()


def kill_each(
    folder: Path, kills: int, say: Callable[[str], None] = lambda _: None
) -> list[Figure]:
    """kill -9 each daemon so many times: when it answers again, and when a whole round passes."""
    figures = []
    with Cluster(folder) as cluster:
        killer = Killer(cluster)
        for daemon in DAEMONS:
            answers = Figure(f"{daemon} killed → answers again", ANSWERS_S)
            cycles = Figure(f"{daemon} killed → a round from start to end")
            for number in range(kills):
                answered_s, cycled_s = killer.kill(daemon)
                answers.seconds.append(answered_s)
                cycles.seconds.append(cycled_s)
                said = f"answers after {answered_s:.2f} s, a round after {cycled_s:.2f} s"
                say(f"{daemon} {number + 1}/{kills}: {said}")
            figures += [answers, cycles]
        killer.pair.close()
    return figures


# --- a fleet -------------------------------------------------------------------------------------


def waiting(cluster: Cluster) -> int:
    """Devices whose check-in some client manager holds."""
    total = 0.0
    for name in cluster.names:
        if name.startswith("client_manager"):
            connection = http.client.HTTPConnection(cluster.admin(name), timeout=10)
            try:
                connection.request("GET", "/metrics")
                page = connection.getresponse().read().decode()
            finally:
                connection.close()
            lines = (line for line in page.splitlines() if line.startswith("propius_clients_wait"))
            total += sum(float(line.rpartition(" ")[2]) for line in lines)
    return int(total)


class Fleet:
    """Devices with a connection each, in a thread of their own, that wait for a task."""

    def __init__(self, endpoint: str, count: int) -> None:
        self.endpoint = endpoint
        self.count = count
        self.assigned_s: list[float] = []
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="fleet")
        self._thread.start()

    def join(self) -> None:
        """Wait until each has served once."""
        self._thread.join()

    async def _live(self) -> None:
        context: zmq.Context[Any] = zmq.Context()
        context.max_sockets = 4 * self.count + 100
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._device(context, number))
        context.term()

    async def _device(self, context: zmq.Context[Any], number: int) -> None:
        async with AsyncConnection(self.endpoint, context=context) as connection:
            client = AsyncClient(
                spec={"ram": 4}, device_id=f"{number:032x}", timeout_s=120, connection=connection
            )
            while (task := await client.auto_assign(wait_s=300)) is None:
                pass
            self.assigned_s.append(time.monotonic())
            async with task:
                pass  # its work is done at once


def fleet_back(folder: Path, victim: str, count: int = FLEET) -> Figure:
    """Devices wait for a task when a daemon is killed: when each of them has got one after all."""
    figure = Figure(f"{count:,} devices served after {victim} was killed", FLEET_S)
    with Cluster(folder) as cluster:
        fleet = Fleet(cluster.endpoint("load_balancer", "clients"), count)
        until(lambda: waiting(cluster) == count, f"{count} devices that wait", 120)
        jobs = cluster.endpoint("job_manager", "jobs")
        with Job(jobs, name="fleet", requirement={}, demand=count, timeout_s=60) as job:
            killed_s = time.monotonic()
            cluster.kill(victim)
            job.start_request(lease_s=600)
            fleet.join()
        figure.seconds = [each - killed_s for each in fleet.assigned_s]
    return figure


# --- a full store --------------------------------------------------------------------------------


async def _fill(endpoint: str, count: int) -> None:
    """Register jobs, each with an open round."""
    async with AsyncConnection(endpoint) as connection:

        async def one(number: int) -> None:
            job = AsyncJob(
                name=f"job-{number}",
                requirement={"ram": float(number % 16)},
                demand=10,
                connection=connection,
            )
            await job.register()
            await job.start_request()

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))


def reload(folder: Path, times: int, count: int = JOBS) -> Figure:
    """Start the job manager on a store with so many jobs: when an operator can list them all."""
    figure = Figure(f"job manager started with {count:,} jobs → lists them", RELOAD_S)
    with Cluster(folder, managers=1) as cluster:
        endpoint = cluster.endpoint("job_manager", "jobs")
        asyncio.run(_fill(endpoint, count))
    key = bytes.fromhex((cluster.directory / "operator.key").read_text().strip())
    script = Path(sys.executable).with_name("propius-controller-job-manager")
    command = [str(script), "--config", str(cluster.config_file)]
    for _ in range(times):
        began_s = time.monotonic()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                until(lambda: ask(endpoint, "operator", ListJobs(secret=key)), "an answer")
                with Operator(endpoint, key) as operator:
                    assert len(operator.list_jobs()) == count
                figure.seconds.append(time.monotonic() - began_s)
            finally:
                process.kill()
    return figure


def measure_all(
    folder: Path, kills: int, say: Callable[[str], None] = lambda _: None
) -> list[Figure]:
    """Everything, one after the other."""
    figures = kill_each(folder / "kills", kills, say)
    for number, victim in enumerate(DAEMONS):
        say(f"{FLEET:,} devices, {victim} killed")
        figures.append(fleet_back(folder / f"fleet-{number}", victim))
    say(f"{JOBS:,} jobs in the store")
    figures.append(reload(folder / "reload", times=10))
    return figures
