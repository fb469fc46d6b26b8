"""How long a verb may take against servers that are odd, hostile, slow or gone; in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from propius import errors, messages
from propius.client_session import ClientSession
from propius.job_session import JobSession
from propius.messages import Assignment, Error, ErrorCode, Header, Message, Offer, Task
from propius.session import Talk
from tests.propius.virtual_server import (
    SCHEMA,
    Server,
    World,
    client,
    job,
    mine,
    offer,
    polite,
    registered_job,
    round_status,
)

TIMEOUT_S = 10.0
WAIT_S = 4.0
SLACK_S = 0.1
TASKS = [Task(number, 0, {}) for number in range(1, 9)]


def says(code: ErrorCode, retry_after_s: float = 0.0, *, to: type[Message] = Message) -> Server:
    """A server that refuses these so; it offers much work, and is polite about the rest."""

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, to) and not isinstance(message, messages.GetSchema):
            return Error(code=code, text="no", retry_after_s=retry_after_s)
        return offer(*TASKS) if isinstance(message, messages.CheckIn) else polite(header, message)

    return server


def answers(to: type[Message], answer: Message | None) -> Server:
    """A server that answers these so."""
    return lambda header, message: answer if isinstance(message, to) else polite(header, message)


def slow_schema() -> Server:
    """The schema comes at the third time of asking; then nothing comes."""
    asked: list[Message] = []

    def server(header: Header, message: Message) -> Message | None:
        asked.append(message)
        return SCHEMA if len(asked) == 3 else None

    return server


def one_by_one(code: ErrorCode) -> Server:
    """Each task is put off for a while and then refused."""
    seen: dict[tuple[int, int], int] = {}

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.CheckIn):
            return offer(*TASKS)
        if isinstance(message, messages.Accept):
            key = header.session, header.request
            seen[key] = seen.get(key, 0) + 1
            again = seen[key] < 3
            return Error(
                code=ErrorCode.BUSY if again else code, text="no", retry_after_s=2.0 * again
            )
        return polite(header, message)

    return server


ODD: dict[str, Callable[[], Server]] = {
    "silent": lambda: lambda header, message: None,
    "slow schema": slow_schema,
    "silent to accepts": lambda: answers(messages.Accept, None),
    "silent to declines": lambda: answers(messages.Decline, None),
    "each task refused slowly": lambda: one_by_one(ErrorCode.ROUND_FULL),
    "no task to be had": lambda: says(ErrorCode.ROUND_FULL, to=messages.Accept),
    "nothing, at once": lambda: answers(messages.CheckIn, offer(retry_after_s=0.0)),
    "what does not suit": lambda: answers(
        messages.CheckIn, offer(Task(1, 0, {"x": 1e9}), retry_after_s=0.0)
    ),
    "device_busy after 0.0 s": lambda: says(ErrorCode.DEVICE_BUSY, to=messages.Accept),
    **{
        f"{code.value} after {wait_s} s": lambda code=code, wait_s=wait_s: says(code, wait_s)  # type: ignore[misc]
        for code in (
            ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.CHECK_IN_AGAIN,
            ErrorCode.SCHEMA_CHANGED,
        )
        for wait_s in (0.0, 1.0, 1_000.0)
    },
}  # fmt: skip

VERBS: dict[str, tuple[float, Callable[[], Talk[Any]]]] = {
    "auto_assign": (WAIT_S, lambda: patient_client().auto_assign(mine({}), WAIT_S)),
    "check_in": (WAIT_S, lambda: patient_client().check_in(WAIT_S)),
    "accept": (0.0, lambda: patient_client().accept(1, 0)),
    "register": (0.0, lambda: job(timeout_s=TIMEOUT_S).register()),
    "heartbeat": (0.0, lambda: patient_job().heartbeat()),
    "watch_round": (WAIT_S, lambda: patient_job().watch_round(0, wait_s=WAIT_S)),
}


def patient_client() -> ClientSession:
    """A client that waits 10 s for an answer."""
    return client(timeout_s=TIMEOUT_S)


def patient_job() -> JobSession:
    """A job that does."""
    session = registered_job()
    session.timeout_s = TIMEOUT_S
    return session


@pytest.mark.parametrize("delay_s", [0.01, 3.0])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("server", ODD)
def test_a_verb_takes_no_longer_than_its_caller_allows(
    server: str, verb: str, delay_s: float
) -> None:
    """Whatever the server says, and when: it is over after the wait and one time-out."""
    wait_s, talk = VERBS[verb]
    world = World(ODD[server](), delay_s=delay_s)
    call, began_s = world.start(talk()), world.now_s
    world.run_until(lambda: call.done)
    assert world.now_s - began_s <= wait_s + TIMEOUT_S + SLACK_S
    sent = [at for at, _ in world.sent]
    assert len(sent) <= 60, "that is no pause"
    assert all(at < began_s + wait_s + TIMEOUT_S for at in sent), "nobody would hear the answer"


RESTLESS = [name for name in ODD if name.endswith("after 0.0 s")]
RESTLESS += ["no task to be had", "nothing, at once", "what does not suit"]


@pytest.mark.parametrize("server", RESTLESS)
def test_pauses_of_every_loop_grow(server: str) -> None:
    """A server that refuses at once, or offers what leads to nothing, is asked ever less often."""
    world = World(ODD[server](), delay_s=0.0)
    session = client(timeout_s=60.0)
    session.dice = Middle()
    call = world.start(session.auto_assign(mine({}), 60.0))
    world.run_until(lambda: call.done)
    turns = [
        at for (at, _), kind in zip(world.sent, world.kinds, strict=True) if kind == "check_in"
    ]
    gaps = [later - sooner for sooner, later in pairwise(turns)]
    if server.startswith("schema_changed"):
        assert len(turns) == 3
        return
    grown = gaps[:6]
    assert len(grown) == 6
    assert grown == sorted(grown)
    assert grown[-1] > 3 * grown[0]
    assert len(turns) < 50


class Middle:
    """Dice that always fall on the middle, so that what grows is seen to."""

    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2

    def getrandbits(self, k: int, /) -> int:
        return 1 << (k - 1)


def test_a_server_that_comes_back_holds_a_check_in_beyond_the_time() -> None:
    """auto_assign ends in time even so, with None: that server is there, and has no work."""
    world = World(answers(messages.CheckIn, None))
    call = world.start(patient_client().auto_assign(mine({}), 100.0))
    began_s = world.now_s
    world.run_until(lambda: "check_in" in world.kinds)
    world.now_ns += 95 * 10**9
    world.calls.reconnected(world.now_ns)
    world.run_until(lambda: call.done)
    assert call.result() is None
    assert world.now_s - began_s <= 100.0 + TIMEOUT_S + SLACK_S


def test_a_check_in_made_anew_waits_only_for_the_rest() -> None:
    """After check_in_again the server is asked to hold it for what is left of the wait."""
    waits: list[float] = []

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.CheckIn):
            waits.append(message.wait_s)
            if len(waits) < 3:
                return Error(code=ErrorCode.CHECK_IN_AGAIN, text="gone", retry_after_s=5.0)
        return polite(header, message)

    World(server).run(patient_client().check_in(30.0))
    assert waits[0] == 30.0
    assert waits[1] <= 25.0
    assert waits[2] <= 20.0


def test_a_time_out_says_how_long_was_waited() -> None:
    """A report with two seconds of its own does not speak of the ten of others."""
    world = World(lambda header, message: None)
    talk = patient_client().report(1, 0, b"t", messages.Outcome.DROPPED, 2.0)
    with pytest.raises(errors.RequestTimeoutError, match="within 2 s"):
        world.run(talk)


def test_a_schema_that_changed_once_too_often_is_fetched_by_the_next_verb() -> None:
    """What was just called stale is not sent once more."""
    world = World(says(ErrorCode.SCHEMA_CHANGED))
    session = patient_client()
    with pytest.raises(errors.SchemaChangedError):
        world.run(session.check_in(0.0))
    world.server = polite
    del world.sent[:]
    world.run(session.check_in(0.0))
    assert world.kinds == ["get_schema", "check_in"]


def assignment(number: int, round_no: int) -> Assignment:
    """An assignment of this round."""
    return Assignment(job=number, round=round_no, endpoint="e", lease_s=9.0, token=b"t")


@pytest.mark.parametrize(
    "talk, answer",
    [
        (lambda: patient_client().accept(1, 0), assignment(2, 0)),
        (lambda: patient_client().accept(1, 0), assignment(1, 1)),
        (lambda: patient_client().auto_assign(mine({}), WAIT_S), assignment(8, 0)),
        (lambda: patient_job().start_request(), messages.RequestStarted(job=8, round=0)),
        (lambda: patient_job().watch_round(1), round_status(0, [])),
    ],
)
def test_an_answer_about_another_job_or_round_is_not_believed(
    talk: Callable[[], Talk[Any]], answer: Message
) -> None:
    """A device works only for the round that it accepted; a job hears only of its own."""

    def server(header: Header, message: Message) -> Message | None:
        if isinstance(message, messages.CheckIn):
            return Offer(tasks=[Task(7, 0, {})], plan_version=1, retry_after_s=0.0)
        return answer

    world = World(lambda h, m: SCHEMA if isinstance(m, messages.GetSchema) else server(h, m))
    with pytest.raises(errors.ProtocolError, match="answered about"):
        world.run(talk())


def test_what_was_put_off_leaves_the_outbox() -> None:
    """A repeat that the socket has not taken yet is not sent after the server said: later."""
    world, session = World(lambda header, message: None), patient_job()
    call = world.start(session.heartbeat())
    world.run_until(lambda: len(world.sent) == 1)
    world.calls.tick(world.calls.due_ns() or 0)
    assert world.calls.outbox, "silence: it is asked again, but the socket is full"
    header = messages.decode_header(world.sent[0][1][0])
    busy = Error(code=ErrorCode.BUSY, text="later", retry_after_s=2.0)
    reply = Header(kind="error", sender="s", session=header.session, request=header.request)
    world.calls.receive(world.now_ns, messages.encode(reply, busy))
    assert not world.calls.outbox
    assert not call.done
