"""What a job's rounds came to: counted when they end, told to the scheduler, kept in the store."""

from __future__ import annotations

from daemons.job_manager.queries import offered_state
from propius.core import SECOND_NS
from propius.messages import EndRequest, JobHistory, Outcome
from tests.daemons.job_manager.rig import JobServer, Rig


def history(rig: Rig) -> JobHistory:
    """As the scheduler is told."""
    return offered_state(rig.core.book, rig.job()).history


def serve(rig: Rig, round_: int, *devices: int) -> None:
    """Both devices take a slot 5 s and 10 s after now, and report 30 s later."""
    results = []
    for device in devices:
        rig.advance(5)
        results.append(rig.claim(device, 1, round_))
    rig.advance(30)
    for device, result in zip(devices, results, strict=True):
        assert rig.report(device, 1, result.token, Outcome.COMPLETED, round_).error == ""


def test_a_round_that_succeeds_is_remembered(rig: Rig) -> None:
    """Filled after 10 s, enough reports 30 s later; the next one adds to the sums."""
    server = JobServer.registered(rig)
    assert history(rig) == JobHistory()
    server.start(2)
    serve(rig, 0, 1, 2)
    once = JobHistory(1, 2, 10 * SECOND_NS, 30 * SECOND_NS, 40 * SECOND_NS)
    assert history(rig) == once
    server.start(2)
    serve(rig, 1, 3, 4)
    assert history(rig) == JobHistory(2, 4, 10 * SECOND_NS, 30 * SECOND_NS, 80 * SECOND_NS)


def test_a_round_that_ends_early_counts_its_devices_alone(rig: Rig) -> None:
    """It served the job, but says nothing about how long a round takes."""
    server = JobServer.registered(rig)
    server.start(2)
    assert rig.claim(1, 1).error == ""
    server.do(EndRequest, round=0)
    assert history(rig) == JobHistory(devices_served=1)


def test_the_history_survives_a_restart_and_a_reboot(rig: Rig) -> None:
    """Durations mean the same on another boot."""
    server = JobServer.registered(rig)
    server.start(2)
    serve(rig, 0, 1, 2)
    before = history(rig)
    rig.start()
    assert history(rig) == before
    rig.now_ns = 7 * SECOND_NS
    rig.start("boot-2")
    assert history(rig) == before
