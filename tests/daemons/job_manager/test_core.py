from __future__ import annotations

import random

import msgspec
import pytest

from propius.core import SECOND_NS, Commit, Send
from propius.messages import (
    PAYLOAD_BYTES_MAX,
    Beat,
    CheckIn,
    Claim,
    ClaimResults,
    CompleteJob,
    EndRequest,
    Error,
    ErrorCode,
    GetSchema,
    Header,
    Heartbeat,
    Hello,
    JobEvents,
    Message,
    NeedSnapshot,
    Ok,
    Pause,
    Reject,
    RequestStarted,
    Resume,
    Show,
    Snapshot,
    StartRequest,
    encode,
)
from tests.daemons.job_manager.rig import (
    SCHEMA,
    JobServer,
    Rig,
    code_of,
    device,
    raw_payload,
    registration,
)

# --- what strangers send -----------------------------------------------------------------------


def send_raw(rig: Rig, kind: str, payload: bytes) -> Message:
    """The answer to a payload that no class would make."""
    header = Header(kind=kind, sender="server", session=1, request=1)
    rig.core.receive(rig.now_ns, "jobs", b"peer", (msgspec.msgpack.encode(header), payload))
    rig.settle()
    answers = rig.answers()
    assert len(answers) == 1
    assert (answers[0][0].session, answers[0][0].request) == (1, 1)
    return answers[0][1]


@pytest.mark.parametrize(
    "field, value",
    [
        ("demand", 0),
        ("demand", -1),
        ("demand", 10**12),
        ("demand", (1 << 64) - 1),
        ("demand", 1.5),
        ("demand", "three"),
        ("rounds", -1),
        ("rounds", 10**12),
        ("requirement", [float("nan"), 1.0]),
        ("requirement", [-1.0, 1.0]),
        ("requirement", [float("inf"), 1.0]),
        ("requirement", [1.0] * 1_000),
        ("private_constraint", {"": 1.0}),
        ("private_constraint", {"samples": float("nan")}),
        ("name", ""),
        ("name", "x" * 1_000),
        ("endpoint", "x" * 1_000),
        ("extra", 1),
    ],
)
def test_a_bad_field_is_named(rig: Rig, field: str, value: object) -> None:
    """A registration with a wrong value is refused with the field, and makes no job."""
    answer = send_raw(rig, "register", raw_payload(registration(), **{field: value}))
    assert isinstance(answer, Error)
    assert answer.code is ErrorCode.INVALID
    assert answer.field.split("[")[0].startswith(field)
    assert not rig.core.book.jobs


@pytest.mark.parametrize("demand", [0, 10**12, -5])
def test_a_round_for_nobody_or_for_all(rig: Rig, demand: int) -> None:
    """A round of 0 or 10^12 devices is refused with its field."""
    server = JobServer.registered(rig)
    payload = raw_payload(server.about(StartRequest, demand=1), demand=demand)
    answer = send_raw(rig, "start_request", payload)
    assert isinstance(answer, Error)
    assert (answer.code, answer.field) == (ErrorCode.INVALID, "demand")
    assert rig.job().round == -1


def test_not_a_request_of_a_job_server(rig: Rig) -> None:
    """Unknown kinds, and kinds of other links, are refused by name."""
    check_in = CheckIn(schema="s", spec=[1.0], option=1.0)
    for kind in ("nonsense", "check_in", "claims", "hello", "ok", "error", "snapshot"):
        assert code_of(send_raw(rig, kind, raw_payload(check_in))) is ErrorCode.UNKNOWN_KIND
    assert code_of(send_raw(rig, "register", b"\0" * (PAYLOAD_BYTES_MAX + 1))) is (
        ErrorCode.TOO_LARGE
    )


def test_garbage_never_raises(rig: Rig) -> None:
    """Random bytes as header, as payload and as frames change nothing; real requests go on."""
    draw = random.Random(7)
    good = msgspec.msgpack.encode(Header(kind="register", sender="s", session=1, request=1))
    for link in ("jobs", "managers", "scheduler"):
        for _ in range(300):
            junk = draw.randbytes(draw.randrange(60))
            frames = draw.choice([(junk,), (junk, junk), (good, junk), (junk,) * 5, ()])
            rig.core.receive(rig.now_ns, link, b"x", frames)
            rig.settle()
    assert not rig.core.book.jobs
    assert rig.core.counters["refused_headers"] > 0
    assert rig.core.counters["refused_payloads"] > 0
    assert JobServer.registered(rig).number == 1


# --- commits -----------------------------------------------------------------------------------


def test_a_batch_is_one_commit(rig: Rig) -> None:
    """Many claims and verbs of one batch are committed at once, each record once."""
    server = JobServer.registered(rig)
    server.start(50)
    before = len(rig.commit_log)
    claims = [Claim(device(who), 1, 1, b"d", 1, 0, False) for who in range(40)]
    assert rig.claims(claims) is not None
    assert len(rig.commit_log) == before + 1
    changes = [(change.table, change.key) for change in rig.commit_log[-1].changes]
    assert len(changes) == len(set(changes))
    tables = {table: sum(at == table for at, _ in changes) for table, _ in changes}
    assert tables == {"meta": 1, "leases": 40, "rounds": 1, "device_answers": 40}


def test_questions_commit_nothing(rig: Rig) -> None:
    """Show, heartbeat and refusals that touch nothing write nothing."""
    server = JobServer.registered(rig)
    before = len(rig.commit_log)
    server.do(Show)
    server.do(Heartbeat)
    server.do(Pause, secret=b"wrong")
    server.ask(GetSchema())
    assert len(rig.commit_log) == before


def test_a_slow_commit_holds_answers_back(rig: Rig) -> None:
    """No answer leaves before the commit it depends on, not even that of a question."""
    server = JobServer.registered(rig)
    rig.commits = "held"
    assert server.say(server.about(StartRequest, demand=1)) is None
    asked = server.request
    assert server.say(server.about(Show)) is None
    assert server.say(server.about(StartRequest, demand=1), request=asked) is None
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    answers = rig.answers()
    assert [header.request for header, _ in answers] == [asked, asked + 1, asked]
    assert answers[0][1] == answers[2][1]
    assert answers[0][1] == RequestStarted(job=1, round=0)


def test_a_failed_commit(rig: Rig) -> None:
    """Nothing is acknowledged, everybody hears `busy`, and nothing is lost when there is room."""
    server = JobServer.registered(rig)
    server.start(2)
    rig.commits = "failing"
    assert server.say(server.about(Pause)) is None
    paused = server.request
    busy = server.ask(server.about(Resume))
    assert isinstance(busy, Error)
    assert busy.code is ErrorCode.BUSY
    assert 0 < busy.retry_after_s <= 2 * rig.settings.busy_retry_s
    assert "disk full" in busy.text
    assert "disk full" in rig.core.not_ready()
    assert rig.claim(1, 1).error == ErrorCode.BUSY
    assert rig.report(1, 1, b"").error == ErrorCode.BUSY
    assert server.ask(GetSchema()) == SCHEMA
    assert rig.answers() == []
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    assert [(header.request, message) for header, message in rig.answers()] == [(paused, Ok())]
    assert "disk" not in rig.core.not_ready()
    assert server.do(Resume) == Ok()
    assert rig.claim(1, 1, request=2).error == ""
    assert [say.event for say in rig.said if say.level == "error"] == ["commit_failed"]


def test_a_failed_commit_then_a_crash(rig: Rig) -> None:
    """What was not acknowledged may be gone; its repeat is done as if new, once."""
    server = JobServer.registered(rig)
    rig.commits = "failing"
    assert server.say(server.about(StartRequest, demand=1)) is None
    rig.commits = "done"
    rig.start()
    assert rig.job().round == -1
    assert server.ask(server.about(StartRequest, demand=1), request=server.request) is not None
    assert rig.job().round == 0


def test_time_stands_still_while_commits_fail(rig: Rig) -> None:
    """No lease and no job dies of a silence that the job manager itself caused."""
    server = JobServer.registered(rig)
    server.start(1, lease_s=60.0)
    lease = rig.claim(1, 1)
    rig.commits = "failing"
    server.say(server.about(Pause))
    rig.now_ns += 5_000 * SECOND_NS
    rig.tick()
    assert len(rig.core.book.leases) == 1
    due_ns = rig.core.due_ns()
    assert due_ns is not None
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    rig.tick()
    rig.hello()
    assert rig.report(1, 1, lease.token).error == ""
    assert server.do(Heartbeat) == Ok()


def test_more_answers_than_the_store_keeps_up_with() -> None:
    """Above the mark new requests hear `busy` instead of filling the memory."""
    rig = Rig(staged_max=10)
    server = JobServer.registered(rig)
    rig.commits = "held"
    server.say(server.about(Pause))
    for _ in range(30):
        server.say(server.about(Show))
    assert len(rig.core._outbox) == 10
    assert server.refused(Show) is ErrorCode.BUSY
    assert "wait for the store" in rig.core.not_ready()
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    assert not rig.core._outbox
    assert server.do(Resume) == Ok()


def test_busy_spreads_the_callers() -> None:
    """Different callers are told different times, the same caller the same."""
    rig = Rig(staged_max=1)
    rig.commits = "held"
    JobServer(rig).say(registration())
    told = {}
    for number in range(50):
        answer = JobServer(rig, f"server-{number}").ask(registration())
        assert isinstance(answer, Error)
        told[number] = answer.retry_after_s
    assert len(set(told.values())) > 40
    assert max(told.values()) - min(told.values()) > rig.settings.busy_retry_s / 2


def test_draining(rig: Rig) -> None:
    """New requests are turned away; the job manager has drained when its commits are done."""
    server = JobServer.registered(rig)
    rig.commits = "held"
    server.say(server.about(Pause))
    rig.core.drain(rig.now_ns)
    rig.settle()
    assert not rig.core.drained()
    assert server.refused(Resume) is ErrorCode.BUSY
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    assert rig.core.drained()
    assert "stopping" in rig.core.not_ready()


# --- peers -------------------------------------------------------------------------------------


def news(rig: Rig) -> list[Snapshot | JobEvents]:
    """What the scheduler was told since the last call."""
    told = [message for _, message in rig.answers("scheduler")]
    return [message for message in told if isinstance(message, Snapshot | JobEvents)]


def test_the_scheduler_gets_a_snapshot_then_events(rig: Rig) -> None:
    """Whole job states, without gaps in their numbers, each batch's changes in one message."""
    first = JobServer.registered(rig, "a")
    assert first.start(2) == 0
    JobServer.registered(rig, "gone").do(CompleteJob)
    assert "scheduler" in rig.core.not_ready()
    rig.welcome_scheduler()
    assert rig.core.not_ready() == ""
    (snapshot,) = news(rig)
    assert isinstance(snapshot, Snapshot)
    (state,) = snapshot.jobs
    assert (state.job, state.round, state.demand, state.allocated) == (1, 0, 2, 0)
    assert state.private_constraint == {"samples": 10.0}
    seq = snapshot.seq
    second = JobServer.registered(rig, "b", requirement=[3.0, 3.0])
    rig.claims([Claim(device(who), 1, 1, b"d", 1, 0, False) for who in (1, 2)])
    first.do(Pause)
    second.do(CompleteJob)
    told = news(rig)
    for events in told:
        assert isinstance(events, JobEvents)
        assert events.first_seq == seq + 1
        seq = events.seq
    told_events = [events for events in told if isinstance(events, JobEvents)]
    changed = [[(s.job, s.round, s.allocated) for s in events.changed] for events in told_events]
    assert changed == [[(3, -1, 0)], [(1, 0, 2)], [(1, -1, 0)], []]
    assert [events.removed for events in told_events] == [[], [], [], [3]]


def test_a_gap_is_healed_by_a_snapshot(rig: Rig) -> None:
    """Asked for, or because the scheduler is a new one; a beat tells the last number."""
    rig.welcome_scheduler()
    server = JobServer.registered(rig)
    told = news(rig)
    rig.from_scheduler(NeedSnapshot())
    (snapshot,) = news(rig)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.seq == told[-1].seq
    rig.now_ns += SECOND_NS
    rig.tick()
    beats = [message for _, message in rig.answers("scheduler") if isinstance(message, Beat)]
    assert [beat.seq for beat in beats] == [snapshot.seq]
    rig.from_scheduler(Beat(), incarnation=56)
    server.do(Pause)
    assert news(rig) == []
    rig.welcome_scheduler(incarnation=56)
    (snapshot,) = news(rig)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.seq > told[-1].seq


def test_the_scheduler_never_hears_what_a_crash_could_undo(rig: Rig) -> None:
    """Events and snapshots wait for the commit, and so does the number in the beat."""
    rig.welcome_scheduler()
    server = JobServer.registered(rig)
    seq = news(rig)[-1].seq
    rig.commits = "held"
    server.say(server.about(StartRequest, demand=1))
    rig.from_scheduler(NeedSnapshot())
    rig.now_ns += SECOND_NS
    rig.tick()
    sent = [message for _, message in rig.answers("scheduler")]
    assert [message.seq for message in sent if isinstance(message, Beat)] == [seq]
    assert not [message for message in sent if isinstance(message, Snapshot | JobEvents)]
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    assert [type(message) for message in news(rig)] == [JobEvents, Snapshot]


def test_managers_of_another_version_are_refused(rig: Rig) -> None:
    """The refusal is one line that names both."""
    hello = Hello(role="client_manager", manager=4, package_version="2", schema=SCHEMA.schema)
    rig.tell("managers", rig.manager_header(4, "hello"), hello, peer=b"manager-4")
    (_, answer) = rig.answers("managers")[-1]
    assert isinstance(answer, Reject)
    assert "job_manager 1" in answer.text
    assert "client_manager 2" in answer.text


def test_results_go_to_the_manager_that_asked(rig: Rig) -> None:
    """A manager that was replaced before the commit gets no answers of its predecessor."""
    JobServer.registered(rig).start(2)
    rig.commits = "held"
    assert rig.claims([Claim(device(1), 1, 1, b"d", 1, 0, False)]) is None
    (address,) = [peer.address for peer in rig.core.managers.peers.values()]
    rig.core.undeliverable(rig.now_ns, "managers", address, ())
    header = Header(kind="hello", sender="client_manager-0", session=8, request=1)
    hello = Hello(role="client_manager", manager=0, package_version="1", schema=SCHEMA.schema)
    rig.tell("managers", header, hello, peer=b"new")
    assert rig.core.managers.peers["client_manager-0"].incarnation == 8
    rig.commits = "done"
    rig.work_off_commits()
    rig.carry_out()
    told = [message for _, message in rig.answers("managers")]
    assert not [message for message in told if isinstance(message, ClaimResults)]
    assert rig.round().allocated == 1


def test_every_timer_is_in_due_ns(rig: Rig) -> None:
    """The driver is told when to tick, and a tick at that time leaves no time of the past."""
    server = JobServer.registered(rig)
    server.start(1, lease_s=10.0, deadline_s=20.0)
    rig.claim(1, 1)
    for _ in range(400):
        due_ns = rig.core.due_ns()
        assert due_ns is not None
        assert due_ns > rig.now_ns or rig.core.take_effects() == []
        rig.now_ns = max(rig.now_ns, due_ns)
        rig.tick()
        assert (rig.core.due_ns() or 0) > rig.now_ns
    assert rig.round().ended_ns != -1


def test_the_same_inputs_give_the_same_effects() -> None:
    """Two cores that hear the same say the same, byte by byte."""

    def effects() -> list[object]:
        rig = Rig()
        rig.commits = "held"
        out: list[object] = []
        for request, message in enumerate([registration(), registration(demand=2)], start=1):
            header = Header(kind="register", sender="s", session=request, request=request)
            rig.core.receive(rig.now_ns, "jobs", b"p", encode(header, message))
        rig.core.flush(rig.now_ns)
        for effect in rig.core.take_effects():
            out.append(effect)
            if isinstance(effect, Commit):
                rig.core.committed(rig.now_ns, effect.number)
        out += rig.core.take_effects()
        return out

    once, twice = effects(), effects()
    assert once == twice
    assert any(isinstance(effect, Send) for effect in once)


def test_gauges_and_counters(rig: Rig) -> None:
    """Levels and counts are there for the metrics, without a key for each client."""
    server = JobServer.registered(rig)
    server.start(1)
    rig.claim(1, 1)
    rig.claim(2, 1)
    gauges = rig.core.gauges()
    assert (gauges["jobs_live"], gauges["leases_held"], gauges["rounds_live"]) == (1, 1, 1)
    counters = rig.core.counters
    assert (counters["claims_granted"], counters["claims_round_full"]) == (1, 1)
    assert counters["requests_register"] == 1
    server.do(EndRequest, round=0)
    assert rig.core.gauges()["rounds_live"] == 0
