from __future__ import annotations

from typing import Any

import pytest

from daemons.job_manager.states import JobState, RoundState
from propius.core import SECOND_NS
from propius.messages import (
    Attach,
    Cancel,
    CompleteJob,
    EndRequest,
    Error,
    ErrorCode,
    GetSchema,
    Heartbeat,
    JobChanged,
    JobList,
    JobRegistered,
    JobStatus,
    ListJobs,
    Message,
    Ok,
    Pause,
    Registered,
    RequestStarted,
    Resume,
    Show,
    StartRequest,
)
from tests.daemons.job_manager.rig import SCHEMA, JobServer, Rig, code_of, registration

ALL_VERBS: list[tuple[type[Message], dict[str, Any]]] = [
    (StartRequest, {"demand": 1}),
    (EndRequest, {"round": 0}),
    (CompleteJob, {}),
    (Cancel, {}),
    (Pause, {}),
    (Resume, {}),
    (Heartbeat, {}),
    (Show, {}),
    (Attach, {}),
]


@pytest.fixture
def server(rig: Rig) -> JobServer:
    """A job server with job 1."""
    return JobServer.registered(rig)


def finish(server: JobServer, state: JobState) -> None:
    """Bring the job to a final state."""
    if state is JobState.COMPLETED:
        assert server.do(CompleteJob) == Ok()
    elif state is JobState.CANCELLED:
        assert server.do(Cancel, reason="enough") == Ok()
    else:
        server.rig.advance(server.rig.settings.job_silence_max_s + 1)
    assert server.rig.job().state is state


FINAL = [JobState.COMPLETED, JobState.CANCELLED, JobState.EXPIRED]


def test_register_gives_ids_from_one_and_a_secret_each(rig: Rig) -> None:
    """Jobs are numbered from 1; equal requirements share an id, others get the next."""
    first = JobServer.registered(rig, "a")
    second = JobServer.registered(rig, "b")
    third = JobServer.registered(rig, "c", requirement=[5.0, 2.0])
    assert [server.number for server in (first, second, third)] == [1, 2, 3]
    assert len({first.secret, second.secret, third.secret}) == 3
    assert [rig.job(number).requirement_id for number in (1, 2, 3)] == [0, 0, 1]
    assert [event.job for event in rig.events if isinstance(event, JobRegistered)] == [1, 2, 3]


@pytest.mark.parametrize(
    "changes, code, field",
    [
        ({"requirement": [1.0]}, ErrorCode.INVALID, "requirement"),
        ({"requirement": [1.0, 2.0, 3.0]}, ErrorCode.INVALID, "requirement"),
        ({"schema": "other"}, ErrorCode.SCHEMA_CHANGED, "schema"),
    ],
)
def test_register_is_refused_in_one_line(
    rig: Rig, changes: dict[str, Any], code: ErrorCode, field: str
) -> None:
    """What is wrong with a registration is said with its field, and no job is made."""
    answer = JobServer(rig).ask(registration(**changes))
    assert isinstance(answer, Error)
    assert (answer.code, answer.field) == (code, field)
    assert "\n" not in answer.text
    assert not rig.core.book.jobs


def test_requirement_above_a_maximum_is_refused_with_both_numbers(rig: Rig) -> None:
    """No device can have more than the maximum, so nobody is asked for less instead."""
    answer = JobServer(rig).ask(registration(requirement=[1.0, 16.5]))
    assert isinstance(answer, Error)
    assert (answer.code, answer.field) == (ErrorCode.INVALID, "requirement")
    assert "ram is 16.5, above the operator's maximum of 16;" in answer.text
    assert not rig.core.book.jobs
    server = JobServer.registered(rig, requirement=[24.0, 16.0])
    status = server.do(Show)
    assert isinstance(status, JobStatus)
    assert status.requirement == [24.0, 16.0]


def test_register_twice_in_one_session(server: JobServer) -> None:
    """A session speaks for one job."""
    assert code_of(server.ask(registration())) is ErrorCode.WRONG_STATE
    assert list(server.rig.core.book.jobs) == [1]


def test_attach_opens_a_session(rig: Rig, server: JobServer) -> None:
    """A job server that came back may speak after attach, and not before."""
    again = JobServer(rig, session=12)
    again.number, again.secret = server.number, server.secret
    assert again.refused(StartRequest, demand=1) is ErrorCode.UNKNOWN_SESSION
    assert again.do(Attach) == Ok()
    assert again.start(1) == 0
    assert again.do(Attach) == Ok()


def test_attach_to_another_job(rig: Rig, server: JobServer) -> None:
    """A session cannot change its job."""
    other = JobServer.registered(rig, "other")
    server.number, server.secret = other.number, other.secret
    assert server.refused(Attach) is ErrorCode.WRONG_STATE
    assert server.refused(StartRequest, demand=1) is ErrorCode.UNKNOWN_SESSION


@pytest.mark.parametrize("verb, fields", ALL_VERBS)
def test_wrong_secret_and_unknown_job(
    server: JobServer, verb: type[Message], fields: dict[str, Any]
) -> None:
    """Every verb checks who asks, and changes nothing for a stranger."""
    assert server.refused(verb, **fields, secret=b"wrong") is ErrorCode.WRONG_SECRET
    assert server.refused(verb, **fields, secret=b"") is ErrorCode.WRONG_SECRET
    assert server.refused(verb, **fields, job=99) is ErrorCode.UNKNOWN_JOB
    assert server.rig.job().state is JobState.IDLE
    assert server.rig.job().round == -1


def test_rounds_are_numbered_from_zero(server: JobServer) -> None:
    """A round opens only when the one before is over."""
    assert server.start() == 0
    assert server.rig.job().state is JobState.REQUESTING
    assert server.refused(StartRequest, demand=1) is ErrorCode.WRONG_STATE
    assert server.do(EndRequest, round=0) == Ok()
    assert server.rig.round().state is RoundState.ENDED
    assert server.rig.job().state is JobState.IDLE
    assert server.start() == 1


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"demand": 2, "reports_min": 3}, "reports_min"),
        ({"demand": 2, "lease_s": 86_401.0}, "lease_s"),
        ({"demand": 2, "lease_s": 1e-12}, "lease_s"),
        ({"demand": 2, "deadline_s": 1e-12}, "deadline_s"),
    ],
)
def test_start_request_that_cannot_be(
    server: JobServer, fields: dict[str, Any], field: str
) -> None:
    """A request that contradicts itself or the operator is refused with the field."""
    answer = server.do(StartRequest, **fields)
    assert isinstance(answer, Error)
    assert (answer.code, answer.field) == (ErrorCode.INVALID, field)
    assert server.rig.job().state is JobState.IDLE


def test_end_request_of_a_round_to_come_or_over(server: JobServer) -> None:
    """Ending what is over is done already; ending what never began is an error."""
    assert server.refused(EndRequest, round=0) is ErrorCode.WRONG_STATE
    server.start()
    assert server.do(EndRequest, round=0) == Ok()
    version = server.rig.round().version
    assert server.do(EndRequest, round=0) == Ok()
    assert server.rig.round().version == version
    assert server.refused(EndRequest, round=1) is ErrorCode.WRONG_STATE


@pytest.mark.parametrize("state", FINAL)
@pytest.mark.parametrize("requesting", [False, True])
def test_a_job_that_is_over(server: JobServer, state: JobState, requesting: bool) -> None:
    """A final state ends the open round, is in the log, and refuses whatever would change it."""
    if requesting:
        server.start()
    finish(server, state)
    if requesting:
        assert server.rig.round().state is RoundState.ENDED
    changes = [event for event in server.rig.events if isinstance(event, JobChanged)]
    assert [change.state for change in changes] == [state]
    assert bool(changes[0].reason) == (state is not JobState.COMPLETED)
    for verb, fields in ALL_VERBS:
        if verb in {Show, Attach, EndRequest} or (verb, state) == (Cancel, JobState.CANCELLED):
            continue
        assert server.refused(verb, **fields) is ErrorCode.WRONG_STATE, verb
    status = server.do(Show)
    assert isinstance(status, JobStatus)
    assert (status.state, status.waiting_s) == (state, 0.0)
    assert status.jct_s >= 0


def test_operator_cancels_without_a_session(rig: Rig, server: JobServer) -> None:
    """The operator's key cancels any job, says ok as often as asked, and trains none."""
    operator = JobServer(rig, "operator", 99)
    operator.number, operator.secret = server.number, rig.core.book.operator_key
    for verb in (CompleteJob, Heartbeat, Attach):
        assert operator.refused(verb) is ErrorCode.WRONG_SECRET
    assert isinstance(operator.do(Show), JobStatus)
    assert operator.do(Cancel, reason="maintenance") == Ok()
    assert operator.do(Cancel, reason="again") == Ok()
    assert rig.job().reason == "maintenance"


def test_pause_and_resume(rig: Rig, server: JobServer) -> None:
    """A paused job's round is kept and given to nobody; both verbs may be repeated."""
    server.start()
    assert server.do(Pause) == server.do(Pause) == Ok()
    assert rig.claim(1, 1).error == ErrorCode.ROUND_CLOSED
    status = server.do(Show)
    assert isinstance(status, JobStatus)
    assert (status.state, status.round_state) == ("paused", "open")
    assert server.do(Resume) == server.do(Resume) == Ok()
    assert rig.claim(1, 1, request=2).error == ""


def test_show_tells_waits_and_counts(rig: Rig, server: JobServer) -> None:
    """Scheduling delay is opened → filled, response filled → enough reports, in seconds."""
    server.start(2)
    rig.advance(3)
    status = server.do(Show)
    assert isinstance(status, JobStatus)
    assert (status.waiting_s, status.mean_scheduling_delay_s) == (3.0, -1.0)
    granted = [rig.claim(who, 1) for who in (1, 2)]
    rig.advance(4)
    for who, lease in zip((1, 2), granted, strict=True):
        assert rig.report(who, 1, lease.token).error == ""
    assert server.do(CompleteJob) == Ok()
    rig.advance(5)
    status = server.do(Show)
    assert isinstance(status, JobStatus)
    assert (status.mean_scheduling_delay_s, status.mean_response_s) == (3.0, 4.0)
    assert (status.rounds_done, status.devices_completed) == (1, 2)
    assert (status.jct_s, status.age_s) == (7.0, 12.0)
    assert status.registered_at_s == pytest.approx(1e9)


def test_list_jobs_in_pages(rig: Rig) -> None:
    """Jobs come in order of id, a page at a time, only to the operator."""
    servers = [JobServer.registered(rig, f"server-{n}") for n in range(5)]
    assert servers[2].do(CompleteJob) == Ok()
    key = rig.core.book.operator_key
    asker = JobServer(rig, "operator")
    page = asker.ask(ListJobs(secret=key, after=1, limit=2))
    assert isinstance(page, JobList)
    assert ([job.job for job in page.jobs], page.more) == ([2, 3], True)
    page = asker.ask(ListJobs(secret=key, after=1, active_only=True))
    assert isinstance(page, JobList)
    assert ([job.job for job in page.jobs], page.more) == ([2, 4, 5], False)
    assert code_of(asker.ask(ListJobs(secret=servers[0].secret))) is ErrorCode.WRONG_SECRET


def test_get_schema(rig: Rig) -> None:
    """Anybody may ask which attributes the operator matches on."""
    assert JobServer(rig).ask(GetSchema()) == SCHEMA


def test_live_jobs_are_limited() -> None:
    """The job above the limit is refused, also when asked again; a finished job makes room."""
    rig = Rig(jobs_max=1)
    first = JobServer.registered(rig, "a")
    second = JobServer(rig, "b")
    assert code_of(second.ask(registration())) is ErrorCode.LIMIT
    assert first.do(CompleteJob) == Ok()
    assert code_of(second.ask(registration(), request=1)) is ErrorCode.LIMIT
    answer = second.ask(registration())
    assert isinstance(answer, Registered)
    second.number, second.secret = answer.job, answer.secret
    assert second.do(StartRequest, demand=1) == RequestStarted(job=2, round=0)


def test_old_rounds_are_forgotten() -> None:
    """A job keeps its newest rounds, and any that somebody holds a lease of."""
    rig = Rig(rounds_kept_max=2)
    server, token = JobServer.registered(rig), b""
    for number in range(5):
        assert server.start(2) == number
        if number == 1:
            token = rig.claim(1, 1, number).token
        server.do(EndRequest, round=number)
    assert list(rig.core.book.rounds_of[1]) == [1, 4]
    assert server.do(EndRequest, round=0) == Ok()
    assert rig.report(1, 1, token, round_=1).error == ""
    server.start(2)
    assert list(rig.core.book.rounds_of[1]) == [4, 5]


def test_requirement_ids_are_never_used_again(rig: Rig) -> None:
    """A requirement that no job has is forgotten; its number is not given to another."""
    server = JobServer.registered(rig, "a", requirement=[3.0, 3.0])
    assert server.do(Cancel) == Ok()
    rig.advance(rig.settings.keep_finished_s + 1)
    assert not rig.core.book.jobs
    assert not rig.core.book.requirements
    assert JobServer.registered(rig, "b", requirement=[3.0, 3.0]).number == 2
    assert rig.job(2).requirement_id == 1


def test_age_is_counted_from_registration(rig: Rig, server: JobServer) -> None:
    """Ages are monotonic time."""
    rig.advance(10)
    status = server.do(Show)
    assert isinstance(status, JobStatus)
    assert status.age_s * SECOND_NS == 10 * SECOND_NS
