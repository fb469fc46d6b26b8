"""A job server over real daemons, with devices that the test plays itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.aggregators import Update
from evaluation.executor.handle import Executor, JobModel
from evaluation.jobs import job_server
from evaluation.jobs.attempt import Attempt
from evaluation.jobs.job_server import JobServer, JobServerSettings
from evaluation.jobs.link import Answer, Ask, Here, TaskLink
from evaluation.jobs.told import Attempted, Happened, JobOver, Scored, read_told
from evaluation.results.rows import JobRow, RoundRow
from evaluation.training.specs import Hyper, Score
from propius import AsyncClient
from propius.aio import AsyncAssignment
from propius.cli.cluster import Cluster
from propius.errors import RefusedError

SPEC = {"cpu_f": 6.0, "ram": 4.0, "fp16_mem": 800.0, "android_os": 10.0}
TIMEOUT_S = 30.0
LATE_S = 100
"""By how much training is late, of the server's clock: more than exec_timeout."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One system for all tests here."""
    with Cluster(tmp_path_factory.mktemp("system"), managers=1) as running:
        yield running


def server_of(
    cluster: Cluster, executor: Executor | None = None, weights: str = "", **profile: object
) -> JobServer:
    settings = JobServerSettings(
        job=4,
        profile_no=0,
        profile={"demand": 2, "total_round": 1, "over_selection": 1.5, **profile},
        at_s=0.0,
        samples=1.0,
        kbit=2.0,
        speed_up=10.0,
        job_manager=cluster.endpoint("job_manager", "jobs"),
        weights=weights,
    )
    return JobServer(settings, executor)


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


class LateExecutor:
    """Trains nobody until the test says so; what comes after that is trained at once."""

    def __init__(self) -> None:
        self.on_time = False
        self._asked: list[tuple[Future[list[Update]], Sequence[int]]] = []

    def train(
        self,
        job: int,
        round_no: int,
        version: int,
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> Future[list[Update]]:
        future: Future[list[Update]] = Future()
        self._asked.append((future, clients))
        if self.on_time:
            self.answer()
        return future

    def answer(self) -> None:
        """All training is done, now and from now on."""
        self.on_time = True
        for future, clients in self._asked:
            future.set_result([Update(one, {"w": np.ones(1)}, 10, 0.5) for one in clients])
        self._asked.clear()

    def score(self, job: int, version: int) -> Future[Score]:
        future: Future[Score] = Future()
        future.set_result(Score(10, 5.0, 4, 9))
        return future

    def set_weights(self, job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None: ...
    def register(self, job: JobModel) -> None: ...
    def forget(self, job: int) -> None: ...
    def close(self) -> None: ...


class Clock:
    """The server's clock, which the test can put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0
        monkeypatch.setattr(job_server, "monotonic_ns", self._now_ns)

    def _now_ns(self) -> int:
        return time.monotonic_ns() + self.ahead_s * 1_000_000_000


class Seen:
    """What a server does that no caller sees, as events."""

    def __init__(self, server: JobServer) -> None:
        self.both_wait = asyncio.Event()
        self.looked_late = asyncio.Event()
        self._server, self._take, self._waits = server, server.take, server._waits_for_training
        self._looks = 0
        server.take = self._taken  # type: ignore[method-assign]
        server._waits_for_training = self._look  # type: ignore[method-assign]

    def _taken(self, ask: Ask, respond: Callable[[Answer], None]) -> None:
        self._take(ask, respond)
        if len(self._server._waiting) == 2:
            self.both_wait.set()

    def _look(self) -> bool:
        """Asked only when the attempt's time is over."""
        self._looks += 1
        if self._looks == 2:
            self.looked_late.set()
        return self._waits()


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
        # What no device here has: the job is still there when the others' devices come.
        scarce = {"cpu_f": 24.0}
        server = server_of(cluster, sched_timeout=5.0, public_constraint=scarce)
        running = asyncio.create_task(server.run(time.monotonic_ns()))
        await asyncio.sleep(1.6)  # three attempts of half a second each
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scene())
    rows = [read_told(line) for line in capsys.readouterr().out.splitlines()]
    states = [each.row.state for each in rows if isinstance(each, Attempted)]
    assert states[:2] == ["timed_out_scheduling"] * 2


def test_training_that_is_late_sets_the_pace_and_that_is_said(
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Devices that are done wait for their training, also beyond exec_timeout, and it is reported.

    The second round's training is there before its devices are: they wait for nothing.
    """
    np.savez(tmp_path / "weights.npz", w=np.zeros(1))
    monkeypatch.setattr(job_server, "WATCH_MAX_S", 0.05)
    monkeypatch.setattr(job_server, "WATCH_LATE_S", 0.05)
    clock, executor = Clock(monkeypatch), LateExecutor()

    async def scene() -> None:
        server = server_of(cluster, executor, str(tmp_path / "weights.npz"), total_round=2)
        seen = Seen(server)
        running = asyncio.create_task(server.run(time.monotonic_ns()))
        devices = Devices(cluster)
        for number in range(2):
            first = 3 * number
            taken = [await devices.take(first + place) for place in range(3)]
            async with TaskLink(taken[0][1].endpoint) as link:
                at_work = [
                    asyncio.create_task(devices.work(first + place, link, taken[place][1]))
                    for place in range(2)
                ]
                if number == 0:
                    await _is_late(seen, clock, executor, at_work)
                assert await asyncio.gather(*at_work) == ["", ""]
            for device, assignment in taken[:2]:
                await device.report(assignment, "completed")
            for device, _ in taken:
                await device.close()
        await asyncio.wait_for(running, TIMEOUT_S)

    asyncio.run(scene())
    told = [read_told(line) for line in capsys.readouterr().out.splitlines()]
    rows = [each.row for each in told if isinstance(each, Attempted)]
    assert [(row.round, row.state, row.version) for row in rows] == [
        (0, "completed", 1), (1, "completed", 2)
    ]  # fmt: skip
    assert rows[0].training_wait_s >= LATE_S * 10.0  # the clock runs ten times faster
    assert rows[1].training_wait_s <= job_server.PACE_S * 10.0
    (happened,) = [each for each in told if isinstance(each, Happened)]
    assert happened.what == "training_set_the_pace"
    assert happened.values == {
        "job": 4, "round": 0, "attempt": 0, "wait_s": rows[0].training_wait_s
    }  # fmt: skip


async def _is_late(
    seen: Seen, clock: Clock, executor: LateExecutor, at_work: list[asyncio.Task[str]]
) -> None:
    """Both devices hand in; exec_timeout passes; only then is their training done."""
    async with asyncio.timeout(TIMEOUT_S):
        await seen.both_wait.wait()
        clock.ahead_s = LATE_S
        await seen.looked_late.wait()
    assert not any(task.done() for task in at_work)
    executor.answer()


class Recorder:
    """An executor that only notes what it is asked to train."""

    def __init__(self) -> None:
        self.trained: list[tuple[Any, Any]] = []

    def train(self, *asked: Any) -> Future[list[Any]]:
        self.trained.append((asked[3], asked[5]))
        done: Future[list[Any]] = Future()
        done.set_result([])
        return done


@pytest.mark.parametrize("steps, trained", [(10, [(7, 8), (3, 10)]), (0, [(7, 8), None])])
def test_a_device_is_given_as_many_steps_as_it_says_it_has_time_for(
    tmp_path: Path, steps: int, trained: list[Any]
) -> None:
    """The answer to its start costs no more, and the executor trains so many; or all do the same.

    Device 7 is there for 3.5 of 10 seconds, and device 8 for as long as it takes.
    """
    np.savez(tmp_path / "weights.npz", w=np.zeros(2))
    settings = JobServerSettings(
        job=1, profile_no=0, profile={"demand": 2, "total_round": 1, "gradient_policy": "fed-prox"},
        at_s=0.0, samples=1_000.0, kbit=5.0, steps=steps, speed_up=1.0, job_manager="",
        weights=str(tmp_path / "weights.npz"),
    )  # fmt: skip
    executor = Recorder()
    answers: list[Answer] = []

    async def scene() -> None:
        server = JobServer(settings, executor)  # type: ignore[arg-type]
        server.attempt = Attempt(0, trains=True)
        server._job = SimpleNamespace(admit=lambda _token: SimpleNamespace(round=0))  # type: ignore[assignment]
        for client, left_s in ((7, 3.5), (8, 99.0)):
            here = Here(left_s, speed_ms=10.0, kbps=10.0)
            server.take(Ask(client, "start", 0, b"", client, here), answers.append)
        await asyncio.gather(*server._tasks)

    asyncio.run(scene())
    assert executor.trained == [tuple(trained)]
    cut = 300.0 if steps else 1_000.0
    assert [(it.samples, it.kbit) for it in answers] == [(cut, 5.0), (1_000.0, 5.0)]


@pytest.mark.parametrize("here", [[1.0, 0.0, 1.0], [-1.0, 1.0, 1.0], [1.0, 1.0, float("nan")]])
def test_what_a_device_says_of_itself_is_bounded(here: list[float]) -> None:
    """No speed of 0, no time below 0, no number that is none."""
    text = msgspec.msgpack.encode([1, "start", 0, b"", 7, here])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(text, type=Ask)


def test_settings_travel_as_json() -> None:
    """What the parent writes is what the process reads."""
    settings = JobServerSettings(
        job=1, profile_no=2, profile={"demand": 3}, at_s=0.5, samples=1.0, kbit=2.0, speed_up=3.0,
        job_manager="tcp://127.0.0.1:1",
    )  # fmt: skip
    text = msgspec.json.encode(settings)
    assert msgspec.json.decode(text, type=JobServerSettings) == settings
    assert Path(settings.weights) == Path()
