from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

import propius
from propius.calls import Calls
from propius.messages import (
    PAYLOAD_BYTES_MAX,
    CheckIn,
    Error,
    ErrorCode,
    GetSchema,
    Header,
    Heartbeat,
    Message,
    Offer,
    Ok,
    Schema,
    WatchRound,
)
from propius.testing import FakeServer, TinyPropius
from tests.propius.twins import TWINS, Plain, one_of_twins

DEVICE = "ab" * 16
JOB: dict[str, Any] = {"name": "job", "requirement": {"ram": 1.0}, "demand": 1}
DEAF = "tcp://127.0.0.1:9"  # nobody listens there


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A tiny Propius on a free port."""
    with FakeServer() as running:
        yield running


@pytest.fixture(params=TWINS)
def sdk(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The blocking SDK and the asyncio one, each in its turn."""
    with one_of_twins(request.param) as twin:
        yield twin


def device(server: FakeServer, sdk: Any = Plain, **settings: Any) -> Any:
    """A client with four GB."""
    given: dict[str, Any] = {"spec": {"ram": 4.0}, "device_id": DEVICE}
    return sdk.Client(server.endpoint, **{**given, **settings})


def test_a_device_works_for_a_job(server: FakeServer, sdk: Any) -> None:
    """The whole story over real sockets: ask, offer, work, report, done."""
    with sdk.Job(server.endpoint, **JOB) as job, device(server, sdk) as client:
        round_no = job.start_request()
        task = client.auto_assign(10.0)
        assert task is not None
        with task:
            assert job.admit(task.token).device_id == client.device_id
            assert 0 < task.remaining_s <= task.lease_s
        assert task.outcome is propius.Outcome.COMPLETED
        status = job.watch_round(round_no)
        job.complete_job()
    assert (status.state, status.completed) == ("completed", 1)
    assert server.tiny.jobs[job.id].state == "completed"


def test_leaving_the_block_does_not_complete_the_job(server: FakeServer, sdk: Any) -> None:
    """A job server may go and come back: attach finds the job and its round."""
    with sdk.Job(server.endpoint, **JOB) as job:
        job.start_request()
        kept = job.id, job.secret
    again = sdk.Job.attach(server.endpoint, *kept)
    with again:
        assert again.show().state == "requesting"
        assert server.tiny.rounds[0].state == "open"
        again.end_request(0)
        assert again.start_request() == 1
    with pytest.raises(propius.AuthenticationError):
        sdk.Job.attach(server.endpoint, kept[0], b"guess")
    with pytest.raises(propius.UnknownJobError):
        sdk.Job.attach(server.endpoint, 99, kept[1])


def test_a_failed_block_reports_failed_and_the_error_goes_on(server: FakeServer, sdk: Any) -> None:
    """An exception in the task is reported and not hidden; the slot is open again."""
    server.tiny.open_round()
    with device(server, sdk) as client:
        task = client.auto_assign(10.0)
        assert task is not None
        with pytest.raises(ZeroDivisionError), task:
            raise ZeroDivisionError
        assert task.outcome is propius.Outcome.FAILED
    assert (server.tiny.rounds[0].failed, server.tiny.rounds[0].state) == (1, "open")


def test_an_interrupted_block_reports_dropped(server: FakeServer, sdk: Any) -> None:
    """Ctrl-C in the middle of a task gives the slot back at once."""
    server.tiny.open_round()
    with device(server, sdk) as client:
        task = client.auto_assign(10.0)
        assert task is not None
        with pytest.raises(KeyboardInterrupt), task:
            raise KeyboardInterrupt
        assert task.outcome is propius.Outcome.DROPPED


def test_an_explicit_report_is_the_only_one(server: FakeServer, sdk: Any) -> None:
    """A task that reported inside its block is not reported again by leaving it."""
    server.tiny.open_round()
    with device(server, sdk) as client:
        task = client.auto_assign(10.0)
        assert task is not None
        with task:
            with pytest.raises(propius.InvalidValueError, match="not one of completed"):
                task.report("expired")
            task.report("dropped")
    assert [header.kind for header, _ in server.requests].count("report") == 1


def test_a_report_that_fails_does_not_hide_the_error_of_the_task(sdk: Any) -> None:
    """The caller sees its own exception, with a note about the report."""

    class Refusing(TinyPropius):
        def receive(self, now_s: float, header: Header, message: Message) -> Any:
            if header.kind == "report":
                return [(header, Error(code=ErrorCode.STALE_TOKEN, text="expired"))]
            return super().receive(now_s, header, message)

    tiny = Refusing()
    tiny.open_round(demand=2)
    with FakeServer(tiny) as server, device(server, sdk) as client:
        task = client.auto_assign(10.0)
        assert task is not None
        with pytest.raises(ZeroDivisionError) as caught, task:
            raise ZeroDivisionError
        assert "expired" in caught.value.__notes__[0]
        with pytest.raises(propius.StaleTokenError), task:
            pass


def test_an_own_rule_chooses_the_task(server: FakeServer, sdk: Any) -> None:
    """`select` replaces the private constraint: it filters and orders the offer."""
    server.tiny.open_round(private_constraint={"images": 1e9})
    wanted = server.tiny.open_round(private_constraint={"images": 1e9})
    with device(server, sdk, select=lambda tasks: list(tasks)[::-1]) as client:
        task = client.auto_assign(10.0)
        assert task is not None
        assert task.job == wanted.job


def test_it_waits_for_a_server_that_is_not_there_yet() -> None:
    """A request that is asked before the server starts is answered when it has started."""
    with FakeServer() as gone:
        endpoint = gone.endpoint
    with propius.Connection(endpoint) as connection:
        job = propius.Job(connection=connection, **JOB)
        asking = threading.Thread(target=job.register)
        asking.start()
        with FakeServer(endpoint=endpoint) as server:
            asking.join(20.0)
            assert not asking.is_alive()
        assert [header.kind for header, _ in server.requests] == ["get_schema", "register"]


class Mute(TinyPropius):
    """Answers everything but check-ins, and says when one has come."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def receive(self, now_s: float, header: Header, message: Message) -> Any:
        if isinstance(message, CheckIn):
            self.asked.set()
            return []
        return super().receive(now_s, header, message)


def test_a_held_check_in_survives_the_death_of_the_server() -> None:
    """It is repeated, as it was, as soon as a new server listens; not after the hold is over."""
    mute, tiny = Mute(), TinyPropius()
    tiny.open_round()
    offers: list[Offer] = []
    with FakeServer(mute) as first:
        client = device(first)
        asking = threading.Thread(target=lambda: offers.append(client.check_in(300.0)))
        asking.start()
        assert mute.asked.wait(10.0)
    with FakeServer(tiny, endpoint=first.endpoint) as second:
        asking.join(20.0)
        assert not asking.is_alive()
    client.close()
    assert len(offers[0].tasks) == 1
    assert first.frames[-1] == second.frames[0]


def test_an_asyncio_check_in_survives_the_death_of_the_server() -> None:
    """The same in asyncio."""
    mute, tiny = Mute(), TinyPropius()
    tiny.open_round()

    async def story() -> Offer:
        first = FakeServer(mute)
        async with propius.AsyncClient(
            first.endpoint, spec={"ram": 4.0}, device_id=DEVICE
        ) as client:
            asking = asyncio.create_task(client.check_in(300.0))
            assert await asyncio.to_thread(mute.asked.wait, 10.0)
            await asyncio.to_thread(first.close)
            with FakeServer(tiny, endpoint=first.endpoint):
                return await asyncio.wait_for(asking, 20.0)

    assert len(asyncio.run(story()).tasks) == 1


@pytest.mark.parametrize("endpoint", ["localhost:50001", "tcp://", "nonsense://x:1", "tcp://a:b:c"])
def test_a_wrong_endpoint_is_a_usage_error(endpoint: str, sdk: Any) -> None:
    """The message shows what was given and what an endpoint looks like."""
    with sdk.Connection(endpoint) as connection:
        job = sdk.Job(connection=connection, **JOB)
        with pytest.raises(propius.UsageError, match=r"tcp://127\.0\.0\.1:50001"):
            job.register()


def test_an_endpoint_or_a_connection_but_not_both(sdk: Any) -> None:
    """Where to connect is said exactly once."""
    with sdk.Connection(DEAF) as connection:
        with pytest.raises(propius.UsageError):
            sdk.Job(DEAF, **JOB, connection=connection)
        with pytest.raises(propius.UsageError):
            sdk.Client(spec={})


def test_nobody_there_is_a_timeout_that_names_the_endpoint(sdk: Any) -> None:
    """The caller learns where nobody answered, in the time it allowed."""
    began_s = time.monotonic()
    with (
        pytest.raises(propius.RequestTimeoutError, match=DEAF),
        sdk.Job(DEAF, **JOB, timeout_s=0.2),
    ):
        pass
    assert time.monotonic() - began_s < 5.0


def test_a_closed_object_says_so() -> None:
    """After close nothing is sent, and closing twice is nothing."""
    job = propius.Job(DEAF, **JOB)
    job.close()
    job.close()
    with pytest.raises(propius.SessionClosedError):
        job.register()

    async def story() -> None:
        client = propius.AsyncClient(DEAF, spec={}, device_id=DEVICE)
        await client.close()
        await client.close()
        with pytest.raises(propius.SessionClosedError):
            await client.check_in()

    asyncio.run(story())


def test_closing_ends_the_requests_that_wait() -> None:
    """A request under way on a connection that is closed fails instead of hanging."""

    async def story() -> None:
        client = propius.AsyncClient(DEAF, spec={}, device_id=DEVICE)
        asking = asyncio.create_task(client.check_in())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(propius.SessionClosedError):
            await asking

    asyncio.run(story())


def test_a_leaked_connection_is_a_resource_warning(server: FakeServer) -> None:
    """An object that was used and dropped without close is told about, and closed."""

    def leak() -> None:
        device(server).check_in(0.0)
        gc.collect()

    async def leak_in_asyncio() -> None:
        client = propius.AsyncClient(server.endpoint, spec={}, device_id=DEVICE)
        await client.check_in(0.0)

    def leak_loop() -> None:
        asyncio.run(leak_in_asyncio())
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed Connection to tcp"):
        leak()
    with pytest.warns(ResourceWarning, match="unclosed AsyncConnection to tcp"):
        leak_loop()


def test_what_is_too_large_is_not_sent(server: FakeServer, sdk: Any) -> None:
    """A 50 MB value is the caller's error before there is a connection."""
    with pytest.raises(propius.InvalidValueError, match="payload of 5000"):
        sdk.Job(server.endpoint, **{**JOB, "server_endpoint": "x" * 50_000_000})
    assert not server.frames


def test_what_is_too_large_is_not_received(sdk: Any) -> None:
    """A server that sends a monster has its connection cut; the process does not grow with it."""
    monster: zmq.Socket[bytes]
    with zmq.Context.instance().socket(zmq.ROUTER) as monster:
        monster.setsockopt(zmq.LINGER, 0)
        port: int = monster.bind_to_random_port("tcp://127.0.0.1")
        client = sdk.Client(f"tcp://127.0.0.1:{port}", spec={}, device_id=DEVICE, timeout_s=0.5)

        def feed() -> None:
            parts: list[bytes] = monster.recv_multipart()
            monster.send_multipart([*parts[:2], b"x" * (PAYLOAD_BYTES_MAX + 1)])

        feeding = threading.Thread(target=feed)
        feeding.start()
        with client, pytest.raises(propius.RequestTimeoutError):
            client.check_in(0.0)
        feeding.join()


def test_threads_share_a_connection(server: FakeServer) -> None:
    """Requests of several threads take turns and each gets its own answer."""
    with propius.Connection(server.endpoint) as connection:
        jobs = [propius.Job(connection=connection, **{**JOB, "name": f"j{n}"}) for n in range(8)]
        threads = [threading.Thread(target=job.register) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        assert {job.show().name for job in jobs} == {f"j{n}" for n in range(8)}
    assert [header.kind for header, _ in server.requests].count("get_schema") == 1


def test_hundreds_of_clients_share_one_connection(server: FakeServer) -> None:
    """300 devices in one process on one connection work for one round of 300."""
    tiny_round = server.tiny.open_round(demand=300)

    async def live(connection: propius.AsyncConnection, number: int) -> None:
        client = propius.AsyncClient(
            connection=connection, spec={"ram": 4.0}, device_id=f"{number:032x}"
        )
        task = await client.auto_assign(30.0)
        assert task is not None
        async with task:
            pass

    async def story() -> None:
        async with propius.AsyncConnection(server.endpoint) as connection:
            await asyncio.gather(*(live(connection, number) for number in range(300)))

    asyncio.run(story())
    assert (tiny_round.completed, tiny_round.state) == (300, "completed")


def test_an_asyncio_job_beats_while_it_watches(server: FakeServer) -> None:
    """A held watch does not keep other verbs of the same job from being asked."""

    async def story() -> None:
        async with propius.AsyncJob(server.endpoint, **JOB) as job:
            round_no = await job.start_request()
            status = await job.watch_round(round_no)
            watching = asyncio.create_task(job.watch_round(round_no, seen=status.version))
            await job.heartbeat()
            assert not watching.done()
            await job.end_request(round_no)
            assert (await watching).state == "ended"

    asyncio.run(story())


def test_a_cancelled_task_reports_dropped(server: FakeServer) -> None:
    """A device whose asyncio task is cancelled in its block still gives the slot back."""
    server.tiny.open_round()

    async def story() -> None:
        working = asyncio.Event()

        async def work(client: propius.AsyncClient) -> None:
            task = await client.auto_assign(10.0)
            assert task is not None
            async with task:
                working.set()
                await asyncio.Event().wait()

        async with propius.AsyncClient(
            server.endpoint, spec={"ram": 4.0}, device_id=DEVICE
        ) as client:
            task = asyncio.create_task(work(client))
            await working.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())
    assert (server.tiny.rounds[0].failed, server.tiny.rounds[0].state) == (1, "open")


def test_an_asyncio_connection_belongs_to_its_loop(server: FakeServer) -> None:
    """Using it from another event loop is an error and not a hang."""
    connection = propius.AsyncConnection(server.endpoint)
    client = propius.AsyncClient(connection=connection, spec={}, device_id=DEVICE)

    async def ask() -> Offer:
        return await client.check_in(0.0)

    async def close() -> None:
        await connection.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask())
    with pytest.raises(propius.UsageError, match="event loop"):
        asyncio.run(ask())
    loop.run_until_complete(close())
    loop.close()


def test_an_operator_lists_shows_and_cancels(server: FakeServer) -> None:
    """With the operator's key every job can be seen and stopped; with another, none."""
    for demand in (1, 2, 3):
        server.tiny.open_round(demand=demand)
    with propius.Operator(server.endpoint, server.tiny.operator_key) as operator:
        assert [job.job for job in operator.list_jobs()] == [1, 2, 3]
        operator.cancel(2, "test")
        assert (operator.show(2).state, operator.show(2).reason) == ("cancelled", "test")
        assert [job.job for job in operator.list_jobs(active_only=True)] == [1, 3]
    with (
        propius.Operator(server.endpoint, b"guess") as stranger,
        pytest.raises(propius.AuthenticationError),
    ):
        stranger.list_jobs()


def test_a_handler_says_what_the_test_wants(sdk: Any) -> None:
    """A fake server with a handler of one's own, and its errors, reach the test."""

    def handler(header: Header, message: Message) -> Message | None:
        match message:
            case GetSchema():
                return Schema(schema="s", attributes=[])
            case CheckIn():
                return Error(code=ErrorCode.LIMIT, text="full house")
        raise RuntimeError("unexpected")

    fake = FakeServer(handler)
    with sdk.Client(fake.endpoint, spec={}, device_id=DEVICE, timeout_s=0.3) as client:
        with pytest.raises(propius.BusyError, match="full house"):
            client.check_in(0.0)
        with pytest.raises(propius.RequestTimeoutError):
            client.accept((1, 0))
    with pytest.raises(RuntimeError, match="unexpected"):
        fake.close()


def test_a_fake_server_works_inside_the_process_too(sdk: Any) -> None:
    """inproc needs no port at all."""
    with (
        FakeServer(endpoint="inproc://test_sdk_sockets") as server,
        sdk.Job(server.endpoint, **JOB) as job,
    ):
        assert job.show().name == "job"


def test_garbage_at_a_fake_server_is_answered(server: FakeServer, sdk: Any) -> None:
    """Bytes that are no message get an error reply, and the server goes on."""
    stranger: zmq.Socket[bytes]
    with zmq.Context.instance().socket(zmq.DEALER) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(server.endpoint)
        for frames in ([b"x"], [b"x", b"y"], [b"x", b"y", b"z"], [b""]):
            stranger.send_multipart(frames)
            assert stranger.poll(5_000)
            assert b"error" in stranger.recv_multipart()[0]
    with sdk.Job(server.endpoint, **JOB) as job:
        assert job.id == 1


def test_answers_in_any_order_reach_the_right_talks() -> None:
    """A shared connection sorts shuffled answers by session and request."""
    calls = Calls()
    assert len(calls) == 0
    held: list[tuple[Header, Message]] = []

    class Shuffling(TinyPropius):
        def receive(self, now_s: float, header: Header, message: Message) -> Any:
            if not isinstance(message, Heartbeat):
                return super().receive(now_s, header, message)
            held.append((header, Ok()))
            if len(held) < 5:
                return []
            random.Random(3).shuffle(held)
            return held

    async def story(endpoint: str) -> None:
        async with propius.AsyncConnection(endpoint) as connection:
            jobs = [propius.AsyncJob(connection=connection, **JOB) for _ in range(5)]
            await asyncio.gather(*(job.register() for job in jobs))
            await asyncio.wait_for(asyncio.gather(*(job.heartbeat() for job in jobs)), 10.0)

    with FakeServer(Shuffling()) as server:
        asyncio.run(story(server.endpoint))


def test_a_watch_is_held_by_a_fake_server_until_something_changes(
    server: FakeServer, sdk: Any
) -> None:
    """watch_round waits for a change, and returns at the end of its wait without one."""
    with sdk.Job(server.endpoint, **JOB) as job:
        job.start_request()
        first = job.watch_round(0, wait_s=10.0)
        same = job.watch_round(0, seen=first.version, wait_s=0.05)
        assert same == first
    assert any(isinstance(message, WatchRound) for _, message in server.requests)
