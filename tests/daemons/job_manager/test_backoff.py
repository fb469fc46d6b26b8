"""A job that fails its devices gets none for a while, then a few, and is paused at last."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from daemons.job_manager.backoff import WORKING_SHARE
from daemons.job_manager.pauses import Pauses
from daemons.job_manager.queries import job_status, round_status
from daemons.job_manager.settings import JobManagerSettings
from daemons.job_manager.states import BackOff, JobState
from propius.core import SECOND_NS
from propius.messages import (
    BackOffChanged,
    Beat,
    ClaimResult,
    CompleteJob,
    EndRequest,
    ErrorCode,
    JobEvents,
    JobList,
    ListJobs,
    Outcome,
    Pause,
    Resume,
    RoundStatus,
    WatchRound,
)
from tests.daemons.job_manager.rig import SCHEMA, JobServer, Rig, code_of

AFTER, FIRST_S, MAX_S, PROBES, ROW = 4, 2.0, 10.0, 2, 4
SETTINGS: dict[str, Any] = {
    "backoff_after": AFTER,
    "backoff_first_s": FIRST_S,
    "backoff_max_s": MAX_S,
    "backoff_probes": PROBES,
    "backoffs_max": ROW,
}
WAITS_S = [2.0, 4.0, 8.0, 10.0]  # of ROW back-offs: doubled, and capped
DEFAULTS = JobManagerSettings(schema=SCHEMA, package_version="1")


class Devices:
    """Devices that come one after the other, each once; they take the round's slots."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.came = rig, 0

    def take(self, job: int = 1, round_: int = 0) -> tuple[int, bytes, str]:
        """The next device claims: its number, its token, and why it got none."""
        self.came += 1
        result = self.rig.claim(self.came, job, round_)
        return self.came, result.token, result.error

    def serve(self, outcome: Outcome, job: int = 1, round_: int = 0) -> str:
        """The next device takes a slot and reports at once; why it got none."""
        who, token, error = self.take(job, round_)
        if not error:
            assert self.rig.report(who, job, token, outcome, round_).error == ""
        return error

    def fail(self, times: int, round_: int = 0) -> None:
        """So many devices fail."""
        for _ in range(times):
            assert self.serve(Outcome.FAILED, round_=round_) == ""


@pytest.fixture
def rig() -> Rig:
    """A job manager with little patience."""
    return Rig(**SETTINGS)


@pytest.fixture
def server(rig: Rig) -> JobServer:
    """Job 1 with a round of three devices, which no failure ends."""
    server = JobServer.registered(rig)
    server.start(3)
    return server


@pytest.fixture
def devices(rig: Rig, server: JobServer) -> Devices:
    """Devices for that job."""
    return Devices(rig)


def waiting_s(rig: Rig) -> float:
    """How long job 1 will get nobody, as it is shown."""
    return job_status(rig.core.book, rig.now_ns, rig.job()).backoff_s


def states(rig: Rig) -> list[tuple[str, float]]:
    """(state, wait) of each change of a back-off in the event log."""
    return [(e.state, e.wait_s) for e in rig.events if isinstance(e, BackOffChanged)]


def test_devices_that_all_fail_begin_a_back_off(rig: Rig, devices: Devices) -> None:
    """After so many failures in a row, and not one earlier, nobody gets a slot."""
    devices.fail(AFTER - 1)
    assert rig.job().backoff is BackOff.NONE
    devices.fail(1)
    assert devices.serve(Outcome.COMPLETED) == ErrorCode.JOB_BACKS_OFF
    assert waiting_s(rig) == FIRST_S
    assert rig.core.gauges()["jobs_backing_off"] == 1
    assert rig.core.counters["backoffs_waiting"] == 1
    assert "4 devices in a row" in rig.job().reason


def test_one_completion_begins_the_count_anew(rig: Rig, devices: Devices) -> None:
    """Failures before a completed task are forgotten."""
    for _ in range(2):
        devices.fail(AFTER - 1)
        assert devices.serve(Outcome.COMPLETED) == ""
        assert rig.job().failures == 0
    assert states(rig) == []


def test_a_new_round_does_not_reset_the_count(rig: Rig, server: JobServer) -> None:
    """The record is the job's: a job server that ends each round early gains nothing by it."""
    devices = Devices(rig)
    for round_ in range(AFTER):
        devices.fail(1, round_)
        server.do(EndRequest, round=round_)
        server.start(3)
    assert rig.job().backoff is BackOff.WAITING
    assert devices.serve(Outcome.COMPLETED, round_=AFTER) == ErrorCode.JOB_BACKS_OFF


def test_a_few_devices_try_the_job_and_one_that_completes_ends_it(
    rig: Rig, devices: Devices
) -> None:
    """After the wait so many slots are given and no more, until one completes."""
    devices.fail(AFTER)
    rig.advance(FIRST_S)
    first, second = devices.take(), devices.take()
    assert (first[2], second[2]) == ("", "")
    assert devices.take()[2] == ErrorCode.JOB_BACKS_OFF
    assert rig.report(first[0], 1, first[1]).error == ""
    assert rig.job().backoff is BackOff.NONE
    assert rig.job().reason == ""
    assert devices.take()[2] == ""
    assert states(rig) == [("waiting", FIRST_S), ("probing", MAX_S), ("none", 0.0)]


def test_each_back_off_is_twice_as_long_and_the_last_pauses_the_job(
    rig: Rig, server: JobServer
) -> None:
    """Waits double up to the cap; after the last the job is paused, with its reason on record."""
    devices = Devices(rig)
    devices.fail(AFTER)
    for wait_s in WAITS_S:
        assert waiting_s(rig) == wait_s
        rig.advance(wait_s - 0.001)
        assert devices.take()[2] == ErrorCode.JOB_BACKS_OFF
        rig.advance(0.001)
        devices.fail(PROBES)
    assert rig.job().paused
    assert devices.take()[2] == ErrorCode.ROUND_CLOSED
    status = job_status(rig.core.book, rig.now_ns, rig.job())
    assert (status.state, status.backoff) == ("paused", "none")
    assert "paused after 4 back-offs in a row: 2 devices" in status.reason
    assert rig.round().failed == AFTER + ROW * PROBES  # the leases burnt follow from the settings
    server.do(Resume)
    assert (rig.job().paused, rig.job().reason) == (False, "")
    devices.fail(AFTER - 1)  # a fresh count
    assert rig.job().backoff is BackOff.NONE


def test_an_operator_resumes_and_pauses_by_his_key(rig: Rig, devices: Devices) -> None:
    """Without a session, and also while the job waits."""
    operator = JobServer(rig, "operator", session=99)
    operator.number, operator.secret = 1, rig.core.book.operator_key
    devices.fail(AFTER)
    assert operator.do(Resume).kind == "ok"
    assert devices.serve(Outcome.FAILED) == ""
    assert operator.do(Pause).kind == "ok"
    assert devices.take()[2] == ErrorCode.ROUND_CLOSED
    operator.secret = bytes(32)
    assert code_of(operator.do(Resume)) is ErrorCode.WRONG_SECRET


def test_those_who_still_work_may_yet_succeed(rig: Rig) -> None:
    """A large round loses its hasty devices first; only when few still work is it the job."""
    server = JobServer.registered(rig)
    server.start(10)
    devices = Devices(rig)
    working = [devices.take() for _ in range(5)]
    devices.fail(WORKING_SHARE * 5 - 1)
    assert rig.job().backoff is BackOff.NONE
    devices.fail(1)
    assert rig.job().backoff is BackOff.WAITING
    rig.advance(FIRST_S)
    rig.report(*working[0][:1], 1, working[0][1], Outcome.FAILED)
    assert rig.job().failures == 0  # it was sent before: its failure says nothing new
    rig.report(*working[1][:1], 1, working[1][1])
    assert rig.job().backoff is BackOff.NONE


def test_late_comers_of_a_round_that_succeeded_do_not_count(rig: Rig) -> None:
    """Too many devices were asked; those who are turned away at the end fail for no fault."""
    server = JobServer.registered(rig)
    server.start(10, reports_min=2)
    devices = Devices(rig)
    took = [devices.take() for _ in range(10)]
    for number, (who, token, _) in enumerate(took):
        rig.report(who, 1, token, Outcome.COMPLETED if number < 2 else Outcome.FAILED)
    assert rig.job().state is JobState.IDLE
    assert (rig.job().failures, rig.round().failed) == (0, 8)
    assert states(rig) == []


@pytest.mark.parametrize("others_complete", [True, False])
def test_leases_that_run_out_count_if_others_complete(others_complete: bool) -> None:
    """Devices that vanish tell of the job only if somebody else's tasks come through."""
    rig = Rig(lease_grace_s=0.1, **SETTINGS)
    hangs, works = (JobServer.registered(rig, name) for name in ("hangs", "works"))
    hangs.start(AFTER, lease_s=5.0)
    works.start(9)
    devices = Devices(rig)
    for _ in range(AFTER):
        assert devices.take(1)[2] == ""
    if others_complete:
        assert devices.serve(Outcome.COMPLETED, job=2) == ""
    rig.advance(6.0)
    assert rig.round(1).expired == AFTER
    assert rig.job(1).backoff is (BackOff.WAITING if others_complete else BackOff.NONE)


def test_devices_that_say_nothing_are_followed_by_a_few_more(rig: Rig, devices: Devices) -> None:
    """A device that vanished with a long lease does not keep the job waiting for all of it."""
    devices.fail(AFTER)
    rig.advance(FIRST_S)
    for _ in range(PROBES):
        assert devices.take()[2] == ""
    rig.advance(MAX_S - 0.001)
    assert devices.take()[2] == ErrorCode.JOB_BACKS_OFF
    rig.advance(0.001)
    assert devices.take()[2] == ""


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_population_that_fails_often_never_begins_a_back_off(share: float) -> None:
    """10 of 200 devices fail in the demo; at 30 %, in either order, nothing happens either."""
    rig = Rig()
    server = JobServer.registered(rig)
    dice = Random(7)
    devices = Devices(rig)
    for round_ in range(60):
        demand = dice.choice([1, 5, 20])
        server.start(demand)
        hasty = round_ % 2 == 0  # those who fail do so before any other is done
        working: list[tuple[int, bytes]] = []
        while not rig.round(1, round_).completed and len(working) < demand:
            who, token, error = devices.take(round_=round_)
            assert error == ""
            if dice.random() < share:
                rig.report(who, 1, token, Outcome.FAILED, round_)
            elif hasty:
                working.append((who, token))
            else:
                rig.report(who, 1, token, Outcome.COMPLETED, round_)
        for who, token in working:
            rig.report(who, 1, token, Outcome.COMPLETED, round_)
        server.do(EndRequest, round=round_)
    assert states(rig) == []


@pytest.mark.parametrize("phase", ["counting", "waiting", "probing"])
@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("clock_s", [-700, 1, 10**6])
def test_a_restart_changes_nothing(phase: str, boot: str, clock_s: int) -> None:
    """Count, wait and tries are what they would have been, on this boot and after a reboot."""
    lives = []
    for restarts in (False, True):
        rig = Rig(**SETTINGS)
        server = JobServer.registered(rig)
        server.start(3)
        devices = Devices(rig)
        devices.fail(AFTER - 1 if phase == "counting" else AFTER)
        rig.advance(0.5 if phase == "waiting" else FIRST_S + 1 if phase == "probing" else 0)
        if phase == "probing":
            devices.fail(1)
        if restarts:
            book = rig.core.book
            book.save_clock(rig.now_ns, 0)
            rig.settle()
            if boot == "boot-2":
                rig.now_ns += clock_s * SECOND_NS
            rig.start(boot)
        begin_ns, seen = rig.now_ns, []
        for _ in range(12):
            seen.append((rig.job().backoff, waiting_s(rig), devices.serve(Outcome.FAILED)))
            rig.advance(0.5)
        assert rig.now_ns - begin_ns == 6 * SECOND_NS
        lives.append(seen)
    assert lives[0] == lives[1]
    assert {state for state, _, _ in lives[0]} > {BackOff.WAITING}


def test_the_scheduler_hears_of_it(rig: Rig, server: JobServer) -> None:
    """While the job waits its round is not there; then it wants as many as may try it."""
    rig.welcome_scheduler()
    rig.answers("scheduler")
    devices = Devices(rig)

    def last() -> tuple[int, int]:
        found = [m for _, m in rig.answers("scheduler") if isinstance(m, JobEvents)]
        state = found[-1].changed[-1]
        return state.round, state.demand - state.allocated

    devices.fail(AFTER - 1)
    assert last() == (0, 3)
    devices.fail(1)
    assert last() == (-1, 0)
    for _ in range(4):
        rig.from_scheduler(Beat())
        rig.advance(FIRST_S / 4)
    assert last() == (0, PROBES)
    who, token, _ = devices.take()
    assert last() == (0, PROBES - 1)
    rig.report(who, 1, token)
    assert last() == (0, 2)


def test_whoever_watches_the_round_hears_why_nobody_comes(rig: Rig, devices: Devices) -> None:
    """A held watch is answered when the back-off begins, with the time and the reason."""
    devices.fail(AFTER - 1)
    who, token, _ = devices.take()
    watcher = JobServer(rig, "job-server", session=11)
    watcher.number, watcher.secret, watcher.request = 1, rig.core.book.secrets[1], 50
    asked = watcher.about(WatchRound, round=0, seen=rig.round().version, wait_s=60.0)
    assert watcher.say(asked) is None
    rig.report(who, 1, token, Outcome.FAILED)
    (status,) = [m for _, m in rig.answers() if isinstance(m, RoundStatus)]
    assert (status.backoff, status.backoff_s) == ("waiting", FIRST_S)
    assert "4 devices in a row" in status.reason
    rig.advance(1.5)
    assert round_status(rig.core.book, rig.now_ns, rig.round()).backoff_s == 0.5


def test_a_job_that_ends_has_no_back_off(rig: Rig, server: JobServer) -> None:
    """A finished job waits for nothing, and is shown so."""
    Devices(rig).fail(AFTER)
    server.do(CompleteJob)
    operator = JobServer(rig, "operator", session=99)
    jobs = operator.ask(ListJobs(secret=rig.core.book.operator_key))
    assert isinstance(jobs, JobList)
    assert (jobs.jobs[0].state, jobs.jobs[0].backoff, jobs.jobs[0].reason) == (
        "completed",
        "none",
        "",
    )
    rig.advance(60.0)
    assert rig.core.gauges()["jobs_backing_off"] == 0


def test_the_first_waits_follow_from_the_settings() -> None:
    """What docs/design.md says of the defaults: 16 + 12 × 3 leases in half an hour at most."""
    waits = [
        min(DEFAULTS.backoff_first_s * 2**n, DEFAULTS.backoff_max_s)
        for n in range(DEFAULTS.backoffs_max)
    ]
    assert sum(waits) == 2115.0
    assert DEFAULTS.backoff_after + DEFAULTS.backoffs_max * DEFAULTS.backoff_probes == 52


def test_a_device_is_not_sent_again_at_once_to_what_failed_it() -> None:
    """The pause is of the device and the job, over all rounds; it doubles, and ends at the cap."""
    rig = Rig(device_pause_first_s=2.0, device_pause_max_s=6.0)
    failing, other = JobServer.registered(rig, "failing"), JobServer.registered(rig, "other")
    request = 0

    def claim(who: int, job: int, round_: int) -> ClaimResult:
        nonlocal request
        request += 1
        return rig.claim(who, job, round_, request=request)

    for round_, pause_s in enumerate([2.0, 4.0, 6.0, 6.0]):
        failing.start(3)
        token = claim(1, 1, round_).token
        request += 1
        rig.report(1, 1, token, Outcome.FAILED, round_, request=request)
        rig.advance(pause_s - 0.001)
        assert claim(1, 1, round_).error == ErrorCode.TOO_SOON
        rig.advance(0.001)
        failing.do(EndRequest, round=round_)
    other.start(3)
    assert claim(1, 2, 0).error == ""
    failing.start(3)
    assert claim(2, 1, 4).error == ""


@pytest.mark.parametrize("lasts_s", [5.0, 60.0])
def test_a_lease_that_runs_out_and_a_completed_task_count_too(lasts_s: float) -> None:
    """A device that vanished with a lease has its pause; a completed task begins it anew."""
    rig = Rig(lease_grace_s=0.1, device_pause_first_s=4.0)
    server = JobServer.registered(rig)
    server.start(3, lease_s=lasts_s)
    token = rig.claim(1, 1).token
    if lasts_s == 60.0:
        rig.report(1, 1, token, request=2)
        assert rig.claim(1, 1, request=3).error == ""
        return
    rig.advance(lasts_s)
    assert rig.claim(1, 1, request=3).error == ErrorCode.TOO_SOON
    rig.advance(4.0)
    assert rig.claim(1, 1, request=4).error == ""


def test_pauses_are_remembered_up_to_a_number() -> None:
    """The oldest gives way, and what is long over is forgotten."""
    pauses = Pauses(first_ns=10, longest_ns=100, pauses_max=2)
    for number in range(3):
        pauses.failed(number, f"device-{number}", 1)
    assert len(pauses) == 2
    assert pauses.left_ns(5, "device-0", 1) == 0
    assert pauses.left_ns(5, "device-2", 1) == 7
    pauses.failed(200, "device-9", 1)
    assert len(pauses) == 1
