"""A job server over real daemons, with devices that the test plays itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from evaluation.jobs.job_server import JobServer, JobServerSettings
from evaluation.jobs.link import TaskLink
from evaluation.jobs.told import Attempted, JobOver, Scored, read_told
from evaluation.results.rows import JobRow, RoundRow
from propius import AsyncClient
from propius.aio import AsyncAssignment
from propius.cli.cluster import Cluster
from propius.errors import RefusedError

SPEC = {"cpu_f": 6.0, "ram": 4.0, "fp16_mem": 800.0, "android_os": 10.0}
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One system for all tests here."""
    with Cluster(tmp_path_factory.mktemp("system"), managers=1) as running:
        yield running


def server_of(cluster: Cluster, **profile: object) -> JobServer:
    settings = JobServerSettings(
        job=4,
        profile_no=0,
        profile={"demand": 2, "total_round": 1, "over_selection": 1.5, **profile},
        at_s=0.0,
        samples=1.0,
        kbit=2.0,
        speed_up=10.0,
        job_manager=cluster.endpoint("job_manager", "jobs"),
    )
    return JobServer(settings, None)


class Devices:
    """Devices that take a task each, and do with it what the test wants."""

    def __init__(self, cluster: Cluster) -> None:
        self.endpoint = cluster.endpoint("load_balancer", "clients")

    async def take(self, number: int) -> tuple[AsyncClient, AsyncAssignment]:
        device = AsyncClient(self.endpoint, spec=SPEC, device_id=f"{time.monotonic_ns():028x}"
                             f"{number:04x}")  # fmt: skip
        assignment = await device.auto_assign(TIMEOUT_S)
        assert assignment is not None
        return device, assignment

    async def work(self, number: int, link: TaskLink, taken: AsyncAssignment) -> str:
        """Start and hand in; "" or why not."""
        try:
            for verb in ("start", "hand_in"):
                await link.ask(verb, round_no=taken.round, token=taken.token,
                               client=number, timeout_s=TIMEOUT_S)  # fmt: skip
        except RefusedError as refused:
            return str(refused)
        return ""


def rows_of(said: str) -> tuple[list[RoundRow], JobRow]:
    told = [read_told(line) for line in said.splitlines()]
    rounds = [each.row for each in told if isinstance(each, Attempted)]
    (job,) = [each.row for each in told if isinstance(each, JobOver)]
    assert not [each for each in told if isinstance(each, Scored)]
    return rounds, job


def test_a_client_that_never_shows_up_costs_its_slot_and_nothing_else(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three devices one takes its slot and is gone; the round ends with the other two.

    Fault F12: such a round was never filled: it timed out, and began again from nothing.
    """

    async def scene() -> None:
        server = server_of(cluster)
        running = asyncio.create_task(server.run(time.monotonic_ns()))
        devices = Devices(cluster)
        taken = [await devices.take(number) for number in range(3)]
        async with TaskLink(taken[0][1].endpoint) as link:
            for number, (device, assignment) in enumerate(taken[:2]):
                assert not await devices.work(number, link, assignment)
                await device.report(assignment, "completed")
            await asyncio.wait_for(running, TIMEOUT_S)
        for device, _ in taken:
            await device.close()

    asyncio.run(scene())
    (row,), job = rows_of(capsys.readouterr().out)
    assert (row.state, row.demand, row.completed, row.version) == ("completed", 3, 2, 1)
    assert row.filled_s is not None
    assert (job.rounds, job.scheduling_timeouts, job.response_timeouts) == (1, 0, 0)


def test_a_failed_attempt_is_ended_and_the_round_tried_again(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Devices that never report: the round ends after exec_timeout, has its row, and is repeated.

    What was late for the first attempt is refused. Fault F12: nobody told the job manager that an
    attempt was over, so that its rounds and the job's drifted apart.
    """

    async def scene() -> None:
        server = server_of(cluster, exec_timeout=10.0)  # of the devices' time: 1 s
        running = asyncio.create_task(server.run(time.monotonic_ns()))
        devices = Devices(cluster)
        late = [await devices.take(number) for number in range(3)]
        on_time = [await devices.take(number) for number in range(3, 6)]
        assert {taken.round for _, taken in late} == {0}
        assert {taken.round for _, taken in on_time} == {1}
        async with TaskLink(late[0][1].endpoint) as link:
            assert await devices.work(0, link, late[0][1]) == "start: round 0 is over"
            for number, (device, assignment) in enumerate(on_time[:2], 3):
                assert not await devices.work(number, link, assignment)
                await device.report(assignment, "completed")
            await asyncio.wait_for(running, TIMEOUT_S)
        for device, _ in late + on_time:
            await device.close()

    asyncio.run(scene())
    rows, job = rows_of(capsys.readouterr().out)
    assert [(row.round, row.attempt, row.state) for row in rows] == [
        (0, 0, "timed_out_response"), (0, 1, "completed")
    ]  # fmt: skip
    assert rows[0].filled_s is not None
    assert rows[0].ended_s - rows[0].filled_s >= 10.0
    assert (job.rounds, job.response_timeouts) == (1, 1)


def test_a_round_that_nobody_fills_ends_after_sched_timeout(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few devices: the attempt is a scheduling time-out, and the job goes on asking."""

    async def scene() -> None:
        server = server_of(cluster, sched_timeout=5.0)
        running = asyncio.create_task(server.run(time.monotonic_ns()))
        await asyncio.sleep(1.6)  # three attempts of half a second each
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scene())
    rows = [read_told(line) for line in capsys.readouterr().out.splitlines()]
    states = [each.row.state for each in rows if isinstance(each, Attempted)]
    assert states[:2] == ["timed_out_scheduling"] * 2


def test_settings_travel_as_json() -> None:
    """What the parent writes is what the process reads."""
    settings = JobServerSettings(
        job=1, profile_no=2, profile={"demand": 3}, at_s=0.5, samples=1.0, kbit=2.0, speed_up=3.0,
        job_manager="tcp://127.0.0.1:1",
    )  # fmt: skip
    text = msgspec.json.encode(settings)
    assert msgspec.json.decode(text, type=JobServerSettings) == settings
    assert Path(settings.weights) == Path()
