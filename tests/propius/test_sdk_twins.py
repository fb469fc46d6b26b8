from __future__ import annotations

import asyncio
import inspect
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

import propius
from propius import aio, client, job
from propius.messages import (
    CheckIn,
    Error,
    ErrorCode,
    Header,
    Message,
    Offer,
    Task,
    decode_header,
    decode_payload,
    encode_payload,
)
from propius.testing import FakeServer, TinyPropius

DEVICE = "ab" * 16
TWINS = [
    (propius.Job, propius.AsyncJob),
    (propius.Client, propius.AsyncClient),
    (propius.SyncAssignment, propius.AsyncAssignment),
    (propius.Connection, propius.AsyncConnection),
]
RENAMED = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


def public(cls: type) -> dict[str, Any]:
    """The public methods and properties of a class."""
    return {
        RENAMED.get(name, name): member
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") or name in {"__init__", *RENAMED, *RENAMED.values()}
    }


def parameters(member: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of a method's parameters."""
    signature = inspect.signature(member)
    return [(each.name, each.kind, each.default) for each in signature.parameters.values()]


@pytest.mark.parametrize("blocking, asynchronous", TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_verbs_with_the_same_parameters(
    blocking: type, asynchronous: type
) -> None:
    """What one can do, so can the other, and it is called in the same way."""
    left, right = public(blocking), public(asynchronous)
    assert set(left) == set(right)
    for name, member in left.items():
        if callable(member):
            assert parameters(member) == parameters(right[name]), name


def cast_same_dice(patch: pytest.MonkeyPatch) -> None:
    """From here on the n-th session draws the n-th series of random numbers."""
    series = itertools.count()
    for module in (job, client, aio):
        patch.setattr(module, "fresh_dice", lambda: random.Random(next(series)))


class Moody(TinyPropius):
    """A tiny Propius that is busy at first, changes its schema once, and shows work to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.bad_mood = [
            Error(code=ErrorCode.BUSY, text="later"),
            Error(code=ErrorCode.SCHEMA_CHANGED, text="again"),
            Offer(tasks=[Task(9, 0, {"images": 1e9})], plan_version=1, retry_after_s=0.0),
            Offer(tasks=[Task(9, 1, {}), Task(1, 0, {})], plan_version=1, retry_after_s=0.0),
        ]

    def receive(self, now_s: float, header: Header, message: Message) -> Any:
        if isinstance(message, CheckIn) and self.bad_mood:
            return [(header, self.bad_mood.pop(0))]
        return super().receive(now_s, header, message)


def blocking_story(endpoint: str) -> list[Any]:
    """A job and a device, blocking."""
    seen: list[Any] = []
    with (
        propius.Job(endpoint, name="twin", requirement={"ram": 1.0}, demand=1) as server,
        propius.Client(endpoint, spec={"ram": 2.0}, private_spec={}, device_id=DEVICE) as device,
    ):
        seen.append(round_no := server.start_request(reports_min=1, lease_s=5))
        server.pause()
        server.resume()
        task = device.auto_assign(20.0)
        assert task is not None
        with task:
            seen.append(server.admit(task.token).device_id)
        seen.append(server.watch_round(round_no, wait_s=1.0).state)
        server.heartbeat()
        seen.append(server.start_request(2))
        server.end_request(1)
        seen.append(server.show().round)
        seen.append(device.check_in(0.0).tasks)
        device.decline([(1, 1)])
        again = propius.Job.attach(endpoint, server.id, server.secret)
        again.complete_job()
        again.close()
    return seen


async def asyncio_story(endpoint: str) -> list[Any]:
    """The same in asyncio, word for word."""
    seen: list[Any] = []
    async with (
        propius.AsyncJob(endpoint, name="twin", requirement={"ram": 1.0}, demand=1) as server,
        propius.AsyncClient(
            endpoint, spec={"ram": 2.0}, private_spec={}, device_id=DEVICE
        ) as device,
    ):
        seen.append(round_no := await server.start_request(reports_min=1, lease_s=5))
        await server.pause()
        await server.resume()
        task = await device.auto_assign(20.0)
        assert task is not None
        async with task:
            seen.append(server.admit(task.token).device_id)
        seen.append((await server.watch_round(round_no, wait_s=1.0)).state)
        await server.heartbeat()
        seen.append(await server.start_request(2))
        await server.end_request(1)
        seen.append((await server.show()).round)
        seen.append((await device.check_in(0.0)).tasks)
        await device.decline([(1, 1)])
        again = await propius.AsyncJob.attach(endpoint, server.id, server.secret)
        await again.complete_job()
        await again.close()
    return seen


def without_clock(frames: list[list[bytes]]) -> list[list[bytes]]:
    """The frames, with the time that was left for each check-in set to 0."""
    timeless = []
    for header, payload in frames:
        message = decode_payload(decode_header(header).kind, payload)
        if isinstance(message, CheckIn):
            payload = encode_payload(msgspec.structs.replace(message, wait_s=0.0))  # noqa: PLW2901
        timeless.append([header, payload])
    return timeless


def test_twins_say_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One script, told twice, puts the same frames on the wire in the same order."""
    cast_same_dice(monkeypatch)
    with FakeServer(Moody()) as one:
        left = blocking_story(one.endpoint)
    cast_same_dice(monkeypatch)
    with FakeServer(Moody()) as two:
        right = asyncio.run(asyncio_story(two.endpoint))
    assert left == right == [0, DEVICE, "completed", 1, 1, []]
    assert without_clock(one.frames) == without_clock(two.frames)
    assert {header.kind for header, _ in one.requests} >= {"decline", "accept", "report", "attach"}


ERRORS: list[tuple[type[BaseException], Callable[[Any], Any]]] = [
    (propius.UsageError, lambda party: party.end_request(0)),
    (propius.InvalidValueError, lambda party: party.cancel("x" * 2_000)),
    (propius.RequestTimeoutError, lambda party: party.register()),
]


@pytest.mark.parametrize("expected, verb", ERRORS, ids=lambda value: getattr(value, "__name__", ""))
def test_twins_fail_with_the_same_errors(
    expected: type[BaseException], verb: Callable[[Any], Any]
) -> None:
    """The same wrong call, or the same silence, raises the same exception with the same text."""
    texts = []
    settings: dict[str, Any] = {"name": "j", "requirement": {}, "demand": 1, "timeout_s": 0.1}
    with FakeServer(lambda header, message: None) as server:
        blocking = propius.Job(server.endpoint, **settings)
        asynchronous = propius.AsyncJob(server.endpoint, **settings)

        async def run(awaited: Awaitable[Any]) -> None:
            try:
                await awaited
            finally:
                await asynchronous.close()

        if expected is propius.InvalidValueError:
            for party in (blocking, asynchronous):
                party._session.fence = propius.fence.Fence(1, b"s")
        with pytest.raises(expected) as caught:
            verb(blocking)
        texts.append(str(caught.value))
        with pytest.raises(expected) as caught:
            asyncio.run(run(verb(asynchronous)))
        texts.append(str(caught.value))
        blocking.close()
    assert texts[0] == texts[1]
