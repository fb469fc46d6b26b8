"""The job manager dies: at every commit, on this boot and before the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from daemons.job_manager.queries import job_status
from daemons.job_manager.records import Meta
from daemons.job_manager.states import JobState, RoundState
from daemons.store import StoreError
from propius import tokens
from propius.core import SECOND_NS, Commit, Frames, Put, Send
from propius.messages import (
    Claim,
    Claims,
    CompleteJob,
    EndRequest,
    ErrorCode,
    Header,
    Message,
    Outcome,
    Pause,
    ReportItem,
    Resume,
    StartRequest,
    decode_header,
    decode_payload,
    encode,
    encode_payload,
)
from tests.daemons.job_manager.rig import JobServer, Rig, device, registration

Step = tuple[str, Header, Message]


def secret() -> bytes:
    """The secret of job 1 under the first start's master key."""
    return tokens.job_secret(bytes([1]) * 32, 1)


def token(lease: int, slot: int, who: int, round_: int = 0) -> bytes:
    """The token that a grant of the script makes."""
    return tokens.sign(
        secret(), tokens.Lease(job=1, round=round_, slot=slot, lease=lease, device_id=device(who))
    )


def script() -> list[Step]:
    """A job's life with two devices that fail and one that comes back, each step a request."""
    steps: list[Step] = []

    def job(message: Message) -> None:
        number = 1 + sum(link == "jobs" for link, _, _ in steps)
        header = Header(kind=message.kind, sender="server", session=3, request=number)
        steps.append(("jobs", header, message))

    def managers(claims: list[Claim], reports: list[ReportItem]) -> None:
        header = Header(kind="claims", sender="client_manager-0", session=7, request=1)
        steps.append(("managers", header, Claims(claims=claims, reports=reports)))

    def claim(who: int, request: int, round_: int = 0) -> Claim:
        return Claim(device(who), 1, request, b"claim", 1, round_, False)

    def report(
        who: int, request: int, given: bytes, outcome: Outcome, round_: int = 0
    ) -> ReportItem:
        return ReportItem(device(who), 1, request, b"report", 1, round_, given, outcome)

    about: dict[str, Any] = {"job": 1, "secret": secret()}
    job(registration())
    job(StartRequest(**about, demand=2))
    managers([claim(1, 1), claim(2, 1), claim(3, 1)], [])
    managers([], [report(1, 2, token(1, 0, 1), Outcome.FAILED)])
    job(Pause(**about))
    managers([claim(3, 2)], [])
    job(Resume(**about))
    managers([claim(3, 3)], [report(2, 2, token(2, 1, 2), Outcome.COMPLETED)])
    job(StartRequest(**about, demand=1))
    managers([], [report(3, 4, token(3, 0, 3), Outcome.COMPLETED)])
    job(StartRequest(**about, demand=1))
    managers([claim(4, 1, 1)], [report(2, 2, token(2, 1, 2), Outcome.COMPLETED)])
    job(EndRequest(**about, round=1))
    managers([], [report(4, 2, token(4, 0, 4, 1), Outcome.DROPPED, 1)])
    job(CompleteJob(**about))
    job(StartRequest(**about, demand=1))
    return steps


def say(rig: Rig, step: Step, *, commit: bool = True, deliver: bool = True) -> list[Frames]:
    """One step in its own batch; what the peer got. Without commit everything stops before it."""
    link, header, message = step
    rig.core.receive(rig.now_ns, link, b"manager-0", encode(header, message))
    rig.core.flush(rig.now_ns)
    got = []
    while effects := rig.core.take_effects():
        for effect in effects:
            if isinstance(effect, Send) and effect.link == link:
                got.append(effect.frames)
            if isinstance(effect, Commit) and commit:
                rig.store.commit(effect.changes)
                rig.core.committed(rig.now_ns, effect.number)
    rig.core.check_invariants()
    return [frames for frames in got if not is_peering(frames)] if deliver else []


def is_peering(frames: Frames) -> bool:
    """A welcome or a beat."""
    return decode_header(frames[0]).kind in {"welcome", "beat"}


def payloads(frames: list[Frames]) -> list[bytes]:
    """What was said; headers between daemons name the incarnation, which changes."""
    return [payload for _, payload in frames]


def without_seq(answers: list[bytes]) -> list[dict[str, object]]:
    """Payloads as maps; job event numbers jump at a restart, on purpose."""
    fields = [msgspec.msgpack.decode(payload) for payload in answers]
    return [{key: value for key, value in field.items() if key != "seq"} for field in fields]


STEPS = script()


@pytest.fixture(scope="module")
def expected() -> list[list[bytes]]:
    """The answers when nothing dies."""
    rig = Rig()
    return [payloads(say(rig, step)) for step in STEPS]


def test_the_script_does_what_it_says(expected: list[list[bytes]]) -> None:
    """Each step is answered once, and the script has grants, refusals and ends in it."""
    assert [len(answers) for answers in expected] == [1] * len(STEPS)
    rig = Rig()
    for step in STEPS:
        say(rig, step)
    assert rig.job().state is JobState.COMPLETED
    assert rig.round(1, 0).state is RoundState.COMPLETED
    assert (rig.round(1, 0).failed, rig.round(1, 1).failed) == (1, 1)


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("durable", [False, True], ids=["before the commit", "after the commit"])
@pytest.mark.parametrize("crash_at", range(len(STEPS)))
def test_a_crash_at_every_commit(
    expected: list[list[bytes]], crash_at: int, durable: bool, boot: str
) -> None:
    """Whichever commit is the last, the repeat and all later requests are answered the same."""
    rig = Rig()
    for step in STEPS[:crash_at]:
        say(rig, step)
    lost = say(rig, STEPS[crash_at], commit=durable, deliver=durable)
    assert durable or lost == []
    rig.start(boot)
    for position in range(crash_at, len(STEPS)):
        answers = payloads(say(rig, STEPS[position]))
        assert without_seq(answers) == without_seq(expected[position]), STEPS[position]
    for position, (link, _, _) in enumerate(STEPS):
        if link == "jobs":
            assert payloads(say(rig, STEPS[position])) == expected[position]


def test_nothing_leaves_before_its_commit() -> None:
    """While commits are held back no step is answered, and in order when they are done."""
    rig = Rig()
    rig.commits = "held"
    for step in STEPS:
        rig.core.receive(rig.now_ns, step[0], b"manager-0", encode(step[1], step[2]))
        rig.settle()
    assert rig.answers() == []
    assert not [message for _, message in rig.answers("managers") if message.kind != "welcome"]
    assert rig.events == []
    rig.commits = "done"
    rig.carry_out()
    rig.work_off_commits()
    rig.carry_out()
    asked = [header.request for link, header, _ in STEPS if link == "jobs"]
    assert [header.request for header, _ in rig.answers()] == asked


def test_memory_after_a_restart_is_memory_before(expected: list[list[bytes]]) -> None:
    """Job, round and lease records of a new process are those that the old one had."""
    for end in range(len(STEPS)):
        rig = Rig()
        for step in STEPS[: end + 1]:
            say(rig, step)
        before = rig.core.book
        after = rig.start().book
        assert list(after.jobs.items()) == list(before.jobs.items())
        assert after.rounds == before.rounds
        assert after.leases == before.leases
        assert {ref: sorted(heap) for ref, heap in after.free.items()} == {
            ref: sorted(heap) for ref, heap in before.free.items()
        }


@pytest.fixture
def leased() -> tuple[Rig, JobServer, bytes]:
    """Job 1 with a lease of 60 s of a round with a deadline of 600 s, 50 s old."""
    rig = Rig()
    rig.advance(100)
    server = JobServer.registered(rig)
    server.start(2, lease_s=60.0, deadline_s=600.0)
    lease = rig.claim(1, 1)
    rig.advance(50)
    return rig, server, lease.token


def test_the_same_boot_gives_the_grace(leased: tuple[Rig, JobServer, bytes]) -> None:
    """A lease runs on, but nobody is declared dead within the grace after a restart."""
    rig, _, token_ = leased
    rig.now_ns += 3_000 * SECOND_NS
    rig.start()
    rig.advance(29.9)
    assert rig.round().state is RoundState.FAILED
    assert len(rig.core.book.leases) == 1
    assert rig.report(1, 1, token_).error == ""


def test_the_grace_ends(leased: tuple[Rig, JobServer, bytes]) -> None:
    """After the grace a lease that is over is over."""
    rig, _, token_ = leased
    rig.now_ns += 20 * SECOND_NS
    rig.start()
    rig.advance(30)
    assert rig.report(1, 1, token_).error == ErrorCode.STALE_TOKEN


def test_a_long_lease_is_not_lengthened(leased: tuple[Rig, JobServer, bytes]) -> None:
    """What remains is longer than the grace: the restart changes nothing."""
    rig, server, _ = leased
    server.do(EndRequest, round=0)
    server.start(1, lease_s=100.0)
    rig.claim(2, 1, 1)
    rig.advance(20)
    rig.start()
    rig.advance(79.9)
    assert len(rig.core.book.leases) == 1
    rig.advance(0.1)
    assert not rig.core.book.leases


def test_round_deadlines_are_not_extended(leased: tuple[Rig, JobServer, bytes]) -> None:
    """A deadline that passed while the job manager was dead takes effect at once."""
    rig, _, _ = leased
    rig.now_ns += 560 * SECOND_NS
    rig.start()
    rig.tick()
    assert rig.round().state is RoundState.FAILED


@pytest.mark.parametrize("clock", [lambda ns: 5 * SECOND_NS, lambda ns: ns + 10**15])
def test_another_boot_gives_a_full_lease(
    leased: tuple[Rig, JobServer, bytes], clock: Callable[[int], int]
) -> None:
    """The monotonic clock began anew: leases are whole again, the round's age is kept."""
    rig, _, _ = leased
    rig.now_ns = clock(rig.now_ns)
    rig.start("boot-2")
    rig.advance(59.9)
    assert len(rig.core.book.leases) == 1
    rig.advance(0.1)
    assert not rig.core.book.leases
    # At most 30 s of the 50 were not saved before the machine went down.
    left_s = (rig.round().deadline_ns - rig.now_ns) / SECOND_NS
    assert 600 - 50 - 60 <= left_s <= 600 - 50 - 60 + 30
    rig.advance(left_s)
    assert rig.round().state is RoundState.FAILED


def note_the_time(rig: Rig) -> None:
    """This much time is known to have passed, and then the power goes."""
    rig.core.book.save_clock(rig.now_ns, 0)
    rig.settle()


@pytest.mark.parametrize("clock_s", [5, 2_000])
def test_times_before_the_boot_are_times(
    leased: tuple[Rig, JobServer, bytes], clock_s: int
) -> None:
    """What happened before a reboot has happened, though the new clock puts it below zero."""
    rig, _, token_ = leased
    second = rig.claim(2, 1)
    assert rig.round().state is RoundState.FILLED
    rig.advance(8)
    note_the_time(rig)
    rig.now_ns = clock_s * SECOND_NS
    rig.start("boot-2")
    assert rig.report(1, 1, token_).error == ""
    assert rig.report(2, 1, second.token).error == ""
    assert rig.round().state is RoundState.COMPLETED


def test_ages_are_never_negative(leased: tuple[Rig, JobServer, bytes]) -> None:
    """What was done after the time was last noted looks younger than now after a reboot."""
    rig, _, _ = leased
    rig.now_ns = 5 * SECOND_NS
    rig.start("boot-2")
    rig.core.book.jobs[1].registered_ns = rig.now_ns + 20 * SECOND_NS
    rig.round().opened_ns = rig.now_ns + 20 * SECOND_NS
    status = job_status(rig.core.book, rig.now_ns, rig.core.book.jobs[1])
    assert (status.age_s, status.waiting_s) == (0.0, 0.0)
    assert decode_payload("job_status", encode_payload(status)) == status


def test_a_deadline_before_the_boot_takes_effect(leased: tuple[Rig, JobServer, bytes]) -> None:
    """A round whose deadline passed unseen ends, though the new clock puts that below zero."""
    rig, _, _ = leased
    rig.now_ns += 1_000 * SECOND_NS
    note_the_time(rig)
    rig.now_ns = 5 * SECOND_NS
    rig.start("boot-2")
    rig.start("boot-2")  # the second time, the record is what the first one made of it
    rig.tick()
    assert rig.round().state is RoundState.FAILED


def test_job_servers_get_their_time_again(leased: tuple[Rig, JobServer, bytes]) -> None:
    """No job expires for a silence that the job manager did not listen to."""
    rig, _, _ = leased
    rig.now_ns += 100_000 * SECOND_NS
    rig.start()
    rig.advance(rig.settings.job_silence_max_s - 1)
    assert rig.job().state is JobState.IDLE
    rig.advance(2)
    assert rig.job().state is JobState.EXPIRED


@pytest.mark.parametrize("jump_s", [-3_600.0, 3_600.0, 1e9])
def test_the_wall_clock_decides_nothing(jump_s: float, expected: list[list[bytes]]) -> None:
    """Whatever the wall clock shows at each start, every answer is the same."""
    rig = Rig()
    for step, answers in zip(STEPS, expected, strict=True):
        assert without_seq(payloads(say(rig, step))) == without_seq(answers)
        rig.wall_s += jump_s
        due_ns = rig.start().due_ns()
        assert due_ns is not None


def test_numbers_are_never_given_twice() -> None:
    """Leases, jobs and event numbers grow over restarts, also when what had them is gone."""
    rig = Rig(keep_finished_s=0.0)
    server = JobServer.registered(rig)
    server.start(1)
    first = rig.claim(1, 1)
    rig.report(1, 1, first.token)
    seq = rig.core.book.meta.seq_base
    server.do(CompleteJob)
    rig.advance(1)
    assert not rig.core.book.jobs
    rig.start()
    assert rig.core.book.meta.seq_base > seq
    again = JobServer.registered(rig, "again")
    assert again.number == 2
    again.start(1)
    assert tokens.verify(again.secret, rig.claim(2, 2).token).lease == 2


def test_the_master_key_is_the_store_s() -> None:
    """A key that is offered at a later start is not used: secrets stay as they are."""
    rig = Rig()
    server = JobServer.registered(rig)
    rig.start()
    assert rig.core.book.secrets[1] == server.secret == secret()


def test_records_of_another_version() -> None:
    """They are refused with one line that says what to do."""
    rig = Rig()
    meta = Meta(boot_id="b", master_key=b"k" * 32, seq_base=0, version=2)
    rig.store.commit([Put("meta", "state", msgspec.msgpack.encode(meta))])
    with pytest.raises(StoreError, match=r"version 2, .* reads 1: run the version that wrote") as e:
        rig.start()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("table", ["meta", "jobs", "rounds", "leases", "requirements"])
def test_damaged_and_missing_records(table: str) -> None:
    """A record that cannot be read, or that others refer to and is gone, stops the start."""
    rig = Rig()
    server = JobServer.registered(rig)
    server.start(2)
    rig.claim(1, 1)
    records = rig.store.load()
    key = next(iter(records[table]))
    rig.store.commit([Put(table, key, b"\xc1 not a record")])
    with pytest.raises(StoreError, match=f"table {table} is damaged") as damaged:
        rig.start()
    assert "\n" not in str(damaged.value)
    if table != "leases":
        rig.store.commit(
            [Put(name, k, v) for name, rows in records.items() for k, v in rows.items()]
        )
        rig.store._tables[table].clear()
        with pytest.raises(StoreError) as missing:
            rig.start()
        assert "\n" not in str(missing.value)


def test_a_manager_says_hello_to_the_new_process() -> None:
    """A client manager of before is told to introduce itself; no claim of it is decided."""
    rig = Rig()
    JobServer.registered(rig).start(1)
    rig.start()
    rig.core.managers.peers.clear()
    rig.core.managers._by_address.clear()
    answer = rig.claims([Claim(device(1), 1, 1, b"d", 1, 0, False)])
    assert answer is None
    assert not rig.core.book.leases
