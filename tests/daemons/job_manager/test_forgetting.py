"""Which remembered answer and session goes first, and whether a use keeps it longer."""

from __future__ import annotations

from daemons.job_manager import answers
from daemons.job_manager.answers import ANSWERS_PER_SESSION, REFUSED_SESSIONS_MAX, SESSIONS_PER_JOB
from propius.messages import ErrorCode, Ok, Pause, Registered
from tests.daemons.job_manager.rig import JobServer, Rig, code_of, registration


def granted(rig: Rig, job: int, who: int, request: int = 1, session: int = 1) -> tuple[int, str]:
    """A device's claim: the lease in its token if it is a new one, and the error."""
    before = rig.core.book.meta.next_lease
    result = rig.claim(who, job, request=request, session=session)
    return rig.core.book.meta.next_lease - before, result.error


def test_the_device_that_spoke_first_is_forgotten_first_and_speaking_keeps_it() -> None:
    """A new request of a device makes its answer the newest; a repeat of one does not."""
    rig = Rig(device_answers_max=3)
    server = JobServer.registered(rig, demand=9)
    server.start(9)
    tokens = {who: rig.claim(who, server.number).token for who in (1, 2, 3)}
    assert rig.report(1, server.number, tokens[1]).error == ""  # 1 is the newest now
    assert rig.claim(2, server.number).token == tokens[2]  # a repeat: 2 stays the oldest
    rig.claim(4, server.number)
    known = list(rig.core.book.device_answers._answers)
    assert known == [f"{who:032x}" for who in (3, 1, 4)]


def test_answers_are_kept_by_device_session_and_request() -> None:
    """Two devices with one session and request number are two; so are two sessions of a device."""
    rig = Rig()
    server = JobServer.registered(rig, demand=9)
    server.start(9)
    assert granted(rig, server.number, 1) == (1, "")
    assert granted(rig, server.number, 2) == (1, "")
    assert granted(rig, server.number, 1) == (0, "")
    assert granted(rig, server.number, 3, request=5) == (1, "")
    again = granted(rig, server.number, 3, request=1, session=2)
    assert again[1] not in {ErrorCode.CONFLICT, ErrorCode.STALE_REQUEST}
    other = rig.claim(2, server.number, request=1, body=b"another")
    assert other.error == ErrorCode.CONFLICT


def test_the_session_that_opened_first_is_forgotten_first_even_if_it_speaks() -> None:
    """At the limit a job server that attaches once more displaces the oldest, not the quietest."""
    rig = Rig()
    first = JobServer.registered(rig)
    others = [first.attached(session=20 + n) for n in range(SESSIONS_PER_JOB - 1)]
    assert first.do(Pause) == Ok()
    newest = first.attached(session=99)
    assert first.refused(Pause) == ErrorCode.UNKNOWN_SESSION
    assert all(each.do(Pause) == Ok() for each in [*others, newest])


def test_sessions_of_two_senders_with_one_number_are_two() -> None:
    """What was answered to one job server is not the answer to another."""
    rig = Rig()
    one, two = JobServer(rig, "one", 11), JobServer(rig, "two", 11)
    left, right = one.ask(registration(), 1), two.ask(registration(), 1)
    assert isinstance(left, Registered)
    assert isinstance(right, Registered)
    assert left.job != right.job
    assert one.ask(registration(), 1) == left


def test_the_lowest_number_of_a_session_is_forgotten_first() -> None:
    """The answers of a session go in the order of their numbers, used or not; then they are old."""
    rig = Rig()
    server = JobServer.registered(rig)
    for _ in range(ANSWERS_PER_SESSION):
        server.do(Pause)
    again = server.say(registration(), 1)
    assert again is not None
    assert code_of(again) == ErrorCode.STALE_REQUEST
    assert server.say(server.about(Pause), 2) == Ok()


def test_the_first_refused_register_is_forgotten_first() -> None:
    """At the limit of sessions without a job, those that have one are not touched."""
    rig = Rig(jobs_max=1)
    server = JobServer.registered(rig)
    for number in range(REFUSED_SESSIONS_MAX + 1):
        refused = JobServer(rig, "stranger", 100 + number).ask(registration())
        assert code_of(refused) == ErrorCode.LIMIT
    left = rig.core.book.sessions._by_job[answers.NO_JOB]
    assert next(iter(left)) == ("stranger", 101)
    assert list(left)[-1] == ("stranger", 100 + REFUSED_SESSIONS_MAX)
    assert server.do(Pause) == Ok()
