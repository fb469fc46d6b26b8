from __future__ import annotations

from typing import Any

from daemons.job_manager.watches import WATCHES_PER_JOB
from propius.messages import (
    CompleteJob,
    EndRequest,
    ErrorCode,
    Header,
    Message,
    Outcome,
    RoundStatus,
    WatchRound,
)
from tests.daemons.job_manager.rig import JobServer, Rig, code_of


def watch(server: JobServer, **fields: Any) -> WatchRound:
    """A watch of round 0 that knows its present version."""
    seen = server.rig.round().version
    return server.about(WatchRound, **({"round": 0, "seen": seen, "wait_s": 60.0} | fields))


def status(answers: list[tuple[Header, Message]]) -> RoundStatus:
    """The one status that was sent."""
    assert len(answers) == 1
    message = answers[0][1]
    assert isinstance(message, RoundStatus)
    return message


def test_answers_at_once_what_was_not_seen(server: JobServer) -> None:
    """A watch without wait, or of another version, is answered without waiting."""
    now = server.ask(watch(server, seen=0))
    assert isinstance(now, RoundStatus)
    assert (now.state, now.version, now.filled_after_s, now.ended_after_s) == ("open", 1, -1, -1)
    assert server.ask(watch(server, wait_s=0.0)) == now


def test_waits_for_each_change(rig: Rig, server: JobServer) -> None:
    """A grant, the fill, a loss and the end each answer the watch that waits, once."""
    assert server.say(watch(server)) is None
    first = rig.claim(1, 1)
    assert status(rig.answers()).held == 1
    assert server.say(watch(server)) is None
    rig.claim(2, 1)
    assert status(rig.answers()).state == "filled"
    assert server.say(watch(server)) is None
    rig.report(1, 1, first.token, Outcome.FAILED)
    assert status(rig.answers()).lost == [1]
    assert server.say(watch(server)) is None
    rig.advance(601)
    assert status(rig.answers()).version == rig.round().version - 1
    assert rig.round().expired == 1
    assert server.say(watch(server)) is None
    server.attached().do(EndRequest, round=0)
    assert len(rig.core.watches) == 0


def test_gives_up_after_the_wait(rig: Rig, server: JobServer) -> None:
    """When nothing changes the answer comes after wait_s, with the version that was seen."""
    asked = watch(server, wait_s=5.0)
    assert server.say(asked) is None
    rig.advance(4.9)
    assert rig.answers() == []
    rig.advance(0.2)
    assert status(rig.answers()).version == asked.seen


def test_a_repeat_takes_its_place(rig: Rig, server: JobServer) -> None:
    """The same watch twice has one answer, a newer one of the session answers the older."""
    asked = watch(server)
    assert server.say(asked) is None
    assert server.say(asked, request=server.request) is None
    assert rig.answers() == []
    older = server.request
    assert server.say(watch(server, wait_s=50.0)) is None
    assert [header.request for header, _ in rig.answers()] == [older]
    assert len(rig.core.watches) == 1
    rig.claim(1, 1)
    assert [header.request for header, _ in rig.answers()] == [server.request]


def test_watches_of_a_job_are_limited(rig: Rig, server: JobServer) -> None:
    """The oldest of too many is answered with the round as it is."""
    for session in range(WATCHES_PER_JOB + 1):
        watcher = JobServer(rig, "watcher", session)
        watcher.number, watcher.secret = server.number, server.secret
        assert rig.answers() == []
        assert watcher.say(watch(watcher)) is None
    assert len(rig.core.watches) == WATCHES_PER_JOB
    assert [header.session for header, _ in rig.answers()] == [0]


def test_rounds_that_cannot_be_watched(rig: Rig, server: JobServer) -> None:
    """A round to come and a wrong secret are refused."""
    assert code_of(server.ask(watch(server, round=1))) is ErrorCode.WRONG_STATE
    assert code_of(server.ask(watch(server, secret=b"x"))) is ErrorCode.WRONG_SECRET


def test_old_rounds_may_be_watched(rig: Rig, server: JobServer) -> None:
    """Late reports of a round that is over are changes of it."""
    lease = rig.claim(1, 1)
    server.do(EndRequest, round=0)
    assert server.say(watch(server)) is None
    rig.report(1, 1, lease.token)
    assert status(rig.answers()).completed == 1


def test_draining_answers_all(rig: Rig, server: JobServer) -> None:
    """A job manager that stops leaves nobody waiting."""
    assert server.say(watch(server)) is None
    rig.core.drain(rig.now_ns)
    rig.settle()
    assert status(rig.answers()).state == "open"
    assert rig.core.drained()
    assert code_of(server.do(CompleteJob)) is ErrorCode.BUSY
