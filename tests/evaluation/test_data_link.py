from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from evaluation.data_link import AsyncModelClient, ModelClient, ModelService
from evaluation.data_plane import ARRAY_BYTES_MAX, Pull, Refused, decode, encode
from propius.errors import (
    InvalidValueError,
    RefusedError,
    RequestTimeoutError,
    SessionClosedError,
    StaleTokenError,
)

WAIT_S = 10.0
WAIT_MS = 10_000


def admit(token: bytes) -> None:
    if token == b"stale":
        raise StaleTokenError("lease token: superseded")


@pytest.fixture
def service() -> Iterator[ModelService]:
    with ModelService(1, admit) as service:
        service.open_round(0, [np.zeros(3)])
        yield service


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    made.connect(endpoint)
    return made


def test_a_device_pulls_trains_and_pushes(service: ModelService) -> None:
    """The whole way over a real socket; the job server is woken by the update."""
    with ModelClient(service.endpoint, timeout_s=WAIT_S) as client:
        weights = client.pull(job=1, round_no=0, token=b"t")
        trained = [weights[0] + 2]
        client.push(job=1, round_no=0, token=b"t", samples=4, weights=trained)
        client.push(job=1, round_no=0, token=b"t", samples=4, weights=trained)
    assert service.wait_for_updates(1, WAIT_S) == 1
    assert service.close_round().mean()[0].tolist() == [2.0, 2.0, 2.0]


def test_refusals_reach_the_device_as_errors(service: ModelService) -> None:
    """A stale token is refused with the reason; NaN is not even sent."""
    with ModelClient(service.endpoint, timeout_s=WAIT_S) as client:
        with pytest.raises(RefusedError, match="superseded"):
            client.pull(job=1, round_no=0, token=b"stale")
        with pytest.raises(InvalidValueError, match="NaN"):
            client.push(
                job=1, round_no=0, token=b"t", samples=1, weights=[np.array([np.nan, 0, 0])]
            )
    assert service.updates == 0


def test_a_device_that_is_too_early_waits_for_its_round(service: ModelService) -> None:
    """A pull of a round that the job server has yet to open is answered once it is open."""
    asked = threading.Event()

    def pull(results: list[list[float]]) -> None:
        with ModelClient(service.endpoint, timeout_s=WAIT_S) as client:
            asked.set()
            results.append(client.pull(job=1, round_no=1, token=b"t")[0].tolist())

    results: list[list[float]] = []
    thread = threading.Thread(target=pull, args=(results,))
    thread.start()
    assert asked.wait(WAIT_S)
    service.open_round(1, [np.ones(3)])
    thread.join(WAIT_S)
    assert results == [[1.0, 1.0, 1.0]]


def test_many_devices_share_one_connection(service: ModelService) -> None:
    """60 devices in one process, at once: each update counts once."""

    async def device(client: AsyncModelClient, index: int) -> None:
        token = b"%d" % index
        weights = await client.pull(job=1, round_no=0, token=token)
        trained = [weights[0] + index]
        await client.push(job=1, round_no=0, token=token, samples=1, weights=trained)

    async def devices() -> None:
        async with AsyncModelClient(service.endpoint, timeout_s=WAIT_S) as client:
            await asyncio.gather(*(device(client, index) for index in range(60)))
            with pytest.raises(RefusedError, match="superseded"):
                await client.pull(job=1, round_no=0, token=b"stale")

    asyncio.run(devices())
    assert service.wait_for_updates(60, WAIT_S) == 60
    assert service.close_round().mean()[0].tolist() == [29.5] * 3


def test_no_answer_is_a_time_out_in_both_clients() -> None:
    """Nobody at the other end: one line that says that asking again is safe."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        silent.bind("tcp://127.0.0.1:*")
        endpoint = silent.getsockopt_string(zmq.LAST_ENDPOINT)
        with (
            ModelClient(endpoint, timeout_s=0.05) as client,
            pytest.raises(RequestTimeoutError, match="asking again is safe"),
        ):
            client.pull(job=1, round_no=0, token=b"t")

        async def pull() -> None:
            async with AsyncModelClient(endpoint, timeout_s=0.05) as client:
                with pytest.raises(RequestTimeoutError, match="asking again is safe"):
                    await client.pull(job=1, round_no=0, token=b"t")

        asyncio.run(pull())


def test_a_closed_asyncio_client_says_so() -> None:
    """Outside its block it neither hangs nor fails obscurely, and waiting requests end."""

    async def run() -> None:
        client = AsyncModelClient("tcp://127.0.0.1:9")
        with pytest.raises(SessionClosedError, match="async with"):
            await client.pull(job=1, round_no=0, token=b"t")
        async with client:
            waiting = asyncio.create_task(client.pull(job=1, round_no=0, token=b"t"))
            await asyncio.sleep(0)
        with pytest.raises(SessionClosedError, match="closed"):
            await waiting

    asyncio.run(run())


def test_garbage_many_frames_and_huge_messages_leave_the_service_up(service: ModelService) -> None:
    """Each is refused or its connection cut, and the next device is served."""
    with zmq.Context() as context:
        with dealer(context, service.endpoint) as peer:
            peer.send_multipart([b"\x00" * 10, b"\xff"])
            assert peer.poll(WAIT_MS)
            assert isinstance(decode(peer.recv_multipart()).message, Refused)
            peer.send_multipart([b"x"] * 1000)
            assert peer.poll(WAIT_MS)
            reply = decode(peer.recv_multipart()).message
            assert isinstance(reply, Refused)
            assert "frames" in reply.reason
            peer.send_multipart([b""])
            assert peer.poll(WAIT_MS)
        with dealer(context, service.endpoint) as peer:
            monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            peer.send_multipart([b"x" * (ARRAY_BYTES_MAX + 1), b""])
            assert monitor.poll(WAIT_MS)
            peer.disable_monitor()
            monitor.close()
    with ModelClient(service.endpoint, timeout_s=WAIT_S) as client:
        assert client.pull(job=1, round_no=0, token=b"t")[0].tolist() == [0.0] * 3


def test_an_answer_that_cannot_be_delivered_is_counted(service: ModelService) -> None:
    """A device that goes away after asking costs nothing but a count."""
    service._deliver(b"gone!", encode(1, Pull(job=1, round=0, token=b"t")))
    assert service.undelivered == 1


def test_a_port_in_use_is_one_clear_line(service: ModelService) -> None:
    """The error names the address and what to do."""
    with pytest.raises(OSError, match=r"cannot bind tcp://127.0.0.1:\d+.*choose another"):
        ModelService(2, admit, bind=service.endpoint)


def test_waiting_for_updates_ends_in_time_and_reports_how_many(service: ModelService) -> None:
    """A round that does not fill up does not hold the job server for ever."""
    assert service.wait_for_updates(5, 0.01) == 0


def test_what_ends_the_thread_is_raised_to_the_job_server() -> None:
    """A bug in the job's own check is not hidden in a thread that died."""

    def broken(token: bytes) -> None:
        raise ZeroDivisionError("bug")

    caught: list[BaseException | None] = []
    hook, threading.excepthook = threading.excepthook, lambda args: caught.append(args.exc_value)
    try:
        with ModelService(1, broken) as service:
            service.open_round(0, [np.zeros(3)])
            with (
                ModelClient(service.endpoint, timeout_s=0.2) as client,
                pytest.raises(RequestTimeoutError),
            ):
                client.pull(job=1, round_no=0, token=b"t")
            with pytest.raises(ZeroDivisionError):
                service.wait_for_updates(1, WAIT_S)
    finally:
        threading.excepthook = hook
    assert len(caught) == 1
