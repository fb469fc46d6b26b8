"""Real processes, real sockets: what they decided is what the engine decides of their inputs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evaluation.replay import order, replay, what_if
from propius import AsyncClient, AsyncJob
from propius.cli.cluster import Cluster
from propius.errors import PropiusError

DEVICES = 24
ROUNDS = 4
JOBS = [("any", {}, 5), ("large", {"ram": 6.0}, 4), ("larger", {"ram": 8.0, "cpu_f": 8.0}, 3)]
LIMIT_S = 120.0


async def device(endpoint: str, number: int, done: asyncio.Event) -> None:
    """One that takes what it is offered; every third declines now and then, or fails."""
    spec = {"ram": 2.0 + number % 8, "cpu_f": 4.0 + number % 12}
    turn = number
    async with AsyncClient(
        endpoint, spec=spec, option=1.0 + number, device_id=f"{number:032x}", timeout_s=60.0
    ) as client:
        while not done.is_set():
            turn += 1
            offer = await client.check_in(wait_s=0.5)
            if not offer.tasks:
                continue
            if turn % 7 == 0:
                await client.decline(offer.tasks)
                continue
            try:
                assignment = await client.accept(offer.tasks[0])
                await assignment.report("failed" if turn % 11 == 0 else "completed")
            except PropiusError:  # the round was filled before
                continue


async def job(endpoint: str, name: str, requirement: dict[str, float], demand: int) -> None:
    """So many rounds, one after the other."""
    async with AsyncJob(endpoint, name=name, requirement=requirement, demand=demand) as server:
        for _ in range(ROUNDS):
            number = await server.start_request(once_per_device=False)  # few devices
            seen, state = 0, ""
            while state not in {"completed", "ended"}:
                found = await server.watch_round(number, seen=seen, wait_s=5.0)
                seen, state = found.version, found.state
        await server.complete_job()


async def work(cluster: Cluster) -> None:
    """All jobs get all their rounds; the scheduler dies in between."""
    done = asyncio.Event()
    clients = cluster.endpoint("load_balancer", "clients")
    jobs = cluster.endpoint("job_manager", "jobs")
    devices = [asyncio.create_task(device(clients, each, done)) for each in range(DEVICES)]
    async with asyncio.timeout(LIMIT_S):
        first, *others = [asyncio.create_task(job(jobs, *terms)) for terms in JOBS]
        await first
        cluster.kill("scheduler")
        again = asyncio.create_task(job(jobs, *JOBS[0]))
        await asyncio.gather(again, *others)
        done.set()
        await asyncio.gather(*devices)


@pytest.mark.parametrize("policy", ["venn", "random-per-client"])
def test_live_decisions_are_the_engines(policy: str, tmp_path: Path) -> None:
    """Four daemons, jobs and devices; every offer and plan in their logs comes out again."""
    events = tmp_path / "events"
    overrides = {
        "event_log": {"directory": str(events)},
        "scheduler": {"policy": policy, "policy_options": {"fairness": 1.0}},
    }
    with Cluster(tmp_path / "state", managers=1, overrides=overrides) as cluster:
        asyncio.run(work(cluster))
    report = replay(events)
    assert report.same, [daemon.differences for daemon in report.daemons]
    found = {daemon.daemon: daemon for daemon in report.daemons}
    assert found["scheduler"].lives == 2
    assert found["scheduler"].decisions["plan_made"] > ROUNDS
    offers = ROUNDS * (sum(demand for _, _, demand in JOBS) + JOBS[0][2])
    assert found["client_manager-0"].decisions["offered"] >= offers
    instants = list(what_if(events, policy="fifo"))
    assert all(sorted(order(each.other)) == sorted(order(each.logged)) for each in instants)
