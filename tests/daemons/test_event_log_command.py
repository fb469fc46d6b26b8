"""``propius log`` on logs with and without a planted bug."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemons.event_log_check import check
from daemons.event_log_command import app
from propius.messages import (
    BackOffChanged,
    CheckedIn,
    Claimed,
    JobRegistered,
    LeaseEnded,
    LeaseGranted,
    LogOpened,
    ManagerJoined,
    ManagerLeft,
    Message,
    Offered,
    Outcome,
    RoundOpened,
    SupplyReceived,
)
from propius.shell.event_log import EventLogWriter, segments

ONE, TWO = "1" * 32, "2" * 32


def write(folder: Path, daemon: str, *events: Message, incarnation: int = 1, at: int = 0) -> None:
    """A daemon's life that logs these events, one a nanosecond."""

    def opened(_now_ns: int) -> LogOpened:
        return LogOpened(
            daemon=daemon,
            incarnation=incarnation,
            package_version="1",
            schema="s",
            attributes=[("ram", 16.0)],
            wall_s=0.0,
        )

    writer = EventLogWriter(folder / daemon, opened, pytest.fail)
    for number, event in enumerate(events):
        writer.append(at + number, event)
    writer.flush(at)
    writer.close()


def registered(job: int = 1, ram: float = 4.0) -> JobRegistered:
    """A job that needs so much memory."""
    return JobRegistered(job=job, name="j", requirement_id=0, requirement=[ram], demand=1, rounds=1)


def round_opened(demand: int = 1) -> RoundOpened:
    """Round 0 of job 1."""
    return RoundOpened(job=1, round=0, demand=demand, reports_min=demand)


def granted(device: str, lease: int, allocated: int) -> LeaseGranted:
    """A lease of round 0 of job 1."""
    return LeaseGranted(
        job=1, round=0, slot=0, lease=lease, device_id=device, manager=0, allocated=allocated
    )


def ended(device: str, lease: int, allocated: int, outcome: Outcome = Outcome.FAILED) -> LeaseEnded:
    """Its end."""
    return LeaseEnded(
        job=1, round=0, lease=lease, device_id=device, outcome=outcome, allocated=allocated
    )


def back_off(state: str, probes: int = 0) -> BackOffChanged:
    """The back-off of job 1 is in another state."""
    return BackOffChanged(job=1, state=state, backoffs=1, wait_s=5.0, probes=probes, reason="")


def checked_in(device: str, ram: float = 8.0) -> CheckedIn:
    """A device with so much memory."""
    return CheckedIn(device_id=device, spec=[ram], option=1.0, hold_s=0.0)


def good(folder: Path) -> None:
    """A small system's log: offer, claim, lease, failure, lease again, completion."""
    write(
        folder,
        "client_manager-0",
        checked_in(ONE),
        Offered(device_id=ONE, plan_version=1, rounds=[(1, 0)]),
        Claimed(device_id=ONE, job=1, round=0),
        checked_in(TWO, 4.0),
        at=10,
    )
    write(
        folder,
        "job_manager",
        registered(),
        round_opened(),
        granted(ONE, 1, 1),
        ended(ONE, 1, 0),
        granted(TWO, 2, 1),
        ended(TWO, 2, 1, Outcome.COMPLETED),
        at=20,
    )


def test_good_log_has_no_violation(tmp_path: Path) -> None:
    """Everything is counted, nothing is complained of."""
    good(tmp_path)
    report = check(tmp_path)
    assert report.violations == []
    assert report.counts["leases granted"] == 2
    assert report.counts["offers"] == 1
    assert report.counts["devices"] == 2


@pytest.mark.parametrize(
    "said,daemon,events",
    [
        ("does not meet", "client_manager-1",
         [checked_in(ONE, 3.9), Offered(device_id=ONE, plan_version=1, rounds=[(1, 0)])]),
        ("does not meet", "client_manager-1",
         [checked_in(ONE, 3.9), Claimed(device_id=ONE, job=1, round=0)]),
        ("never checked in", "client_manager-1",
         [Offered(device_id=ONE, plan_version=1, rounds=[(1, 0)])]),
        ("2 allocated of 1", "job_manager",
         [registered(), round_opened(1), granted(ONE, 3, 1), granted(TWO, 4, 2)]),
        ("the events before it 0", "job_manager",
         [registered(), round_opened(2), granted(ONE, 3, 1), ended(ONE, 3, 1)]),
        ("which holds 3", "job_manager",
         [registered(), round_opened(2), granted(ONE, 3, 1), granted(ONE, 4, 2)]),
        ("granted after lease 4", "job_manager",
         [registered(), round_opened(2), granted(ONE, 4, 1), granted(TWO, 4, 2)]),
        ("lease 3 while the job backs off", "job_manager",
         [registered(), round_opened(1), back_off("waiting"), granted(ONE, 3, 1)]),
        ("lease 4 while the job backs off", "job_manager",
         [registered(), round_opened(2), back_off("waiting"), back_off("probing", probes=1),
          granted(ONE, 3, 1), granted(TWO, 4, 2)]),
        ("which had one before", "job_manager",
         [registered(),
          RoundOpened(job=1, round=0, demand=2, reports_min=2, once_per_device=True),
          granted(ONE, 3, 1), ended(ONE, 3, 0), granted(ONE, 4, 1)]),
        ("but it holds 3", "job_manager",
         [registered(), round_opened(2), granted(ONE, 3, 1), ended(ONE, 2, 0)]),
    ],
)  # fmt: skip
def test_each_broken_promise_is_found(
    tmp_path: Path, said: str, daemon: str, events: list[Message]
) -> None:
    """A planted bug of each kind is one violation that says what and where."""
    good(tmp_path)
    write(tmp_path, daemon, *events, incarnation=2, at=40)
    report = check(tmp_path)
    assert report.violations_count == 1, report.violations
    assert said in report.violations[0]


def test_lease_to_a_device_that_is_not_eligible_is_found(tmp_path: Path) -> None:
    """The job manager's grants are checked against what the device said to its manager."""
    write(tmp_path, "client_manager-0", checked_in(ONE, 3.0))
    write(tmp_path, "job_manager", registered(), round_opened(), granted(ONE, 1, 1), at=5)
    (violation,) = check(tmp_path).violations
    assert "lease 1" in violation


def test_restart_of_the_job_manager_is_tolerated(tmp_path: Path) -> None:
    """What a killed job manager had no time to log is no violation; a reused lease id is."""
    write(tmp_path, "job_manager", registered(), round_opened(3), granted(ONE, 1, 1))
    write(tmp_path, "job_manager", granted(ONE, 4, 2), ended(TWO, 2, 1), incarnation=2, at=9)
    assert check(tmp_path).violations == []
    write(tmp_path, "job_manager", granted(TWO, 4, 2), incarnation=3, at=12)
    assert check(tmp_path).violations_count == 1


def test_new_segment_of_the_same_process_changes_nothing(tmp_path: Path) -> None:
    """Sums go on over the border of two segments."""
    write(tmp_path, "job_manager", registered(), round_opened(2), granted(ONE, 1, 1))
    write(tmp_path, "job_manager", granted(ONE, 2, 2), at=9)
    (violation,) = check(tmp_path).violations
    assert "which holds 1" in violation


Runner = Callable[..., tuple[int, str]]


@pytest.fixture
def run() -> Runner:
    """Runs the command: exit code and output."""

    def invoke(*arguments: str | Path) -> tuple[int, str]:
        outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return outcome.exit_code, outcome.output

    return invoke


def test_verify_prints_a_table_and_exits_0(tmp_path: Path, run: Runner) -> None:
    """A good log: what was checked, and a clear last line."""
    good(tmp_path)
    code, output = run("verify", tmp_path)
    assert code == 0
    assert output.rstrip().endswith("no violation")
    assert "leases granted" in output


def test_verify_exits_1_with_the_violations(tmp_path: Path, run: Runner) -> None:
    """A bad log: the violations, for people and for programs."""
    good(tmp_path)
    write(tmp_path, "job_manager", granted(TWO, 2, 0), incarnation=2, at=40)
    code, output = run("verify", tmp_path)
    assert code == 1
    assert "lease 2 granted after lease 2" in output
    code, output = run("verify", "--json", tmp_path)
    assert code == 1
    assert json.loads(output)["violations_count"] == 1


def test_verify_tolerates_a_torn_tail(tmp_path: Path, run: Runner) -> None:
    """The log of a killed program is read to its last whole record."""
    good(tmp_path)
    (path,) = segments(tmp_path / "job_manager")
    path.write_bytes(path.read_bytes()[:-3])
    code, output = run("verify", tmp_path)
    assert code == 0
    assert "torn" in output


def test_damaged_log_exits_2(tmp_path: Path, run: Runner) -> None:
    """A file that is no event log is named in one line."""
    good(tmp_path)
    (path,) = segments(tmp_path / "job_manager")
    path.write_bytes(b"nonsense" * 9)
    code, output = run("verify", tmp_path)
    assert code == 2
    assert path.name in output


def test_folder_without_a_log_exits_2(tmp_path: Path, run: Runner) -> None:
    """An empty folder is a mistake, not a good log."""
    assert run("verify", tmp_path)[0] == 2


def test_show_prints_events_in_order_of_time(tmp_path: Path, run: Runner) -> None:
    """All daemons' events merged; JSON lines for programs; one kind if asked."""
    good(tmp_path)
    lines = run("show", "--json", tmp_path)[1].splitlines()
    records = [json.loads(line) for line in lines]
    assert [each["now_ns"] for each in records] == sorted(each["now_ns"] for each in records)
    assert {each["daemon"] for each in records} == {"client_manager-0", "job_manager"}
    code, output = run("show", "--kind", "lease_granted", tmp_path)
    assert code == 0
    assert output.count("\n") == 2


def test_managers_come_and_go_in_order(tmp_path: Path) -> None:
    """Joins and leaves are counted; a scheduler that was restarted starts with nobody."""
    joined, left = ManagerJoined(manager=1, incarnation=5), ManagerLeft(manager=1, incarnation=5)
    supply = SupplyReceived(manager=1, seq=1, buckets=[])
    write(tmp_path, "scheduler", joined, supply, left, joined)
    write(tmp_path, "scheduler", joined, supply, incarnation=2, at=10)
    report = check(tmp_path)
    assert not report.violations
    assert report.counts["client managers joined"] == 3
    assert report.counts["client managers left"] == 1


@pytest.mark.parametrize(
    "events,said",
    [
        ([ManagerJoined(manager=1, incarnation=5)] * 2, "joined twice"),
        ([ManagerLeft(manager=1, incarnation=5)], "left, but was not there"),
        (
            [ManagerJoined(manager=1, incarnation=5), ManagerLeft(manager=1, incarnation=6)],
            "left, but was not there",
        ),
        ([SupplyReceived(manager=1, seq=1, buckets=[])], "which is not there"),
    ],
)
def test_managers_out_of_order_are_found(tmp_path: Path, events: list[Message], said: str) -> None:
    """Quotas cannot be replayed from a log that does not say who was there."""
    write(tmp_path, "scheduler", *events)
    (violation,) = check(tmp_path).violations
    assert said in violation


def test_leases_of_a_job_that_is_tried_again_are_no_violation(tmp_path: Path) -> None:
    """So many as may try it, a few more when those said nothing, and all when it is over."""
    write(
        tmp_path,
        "job_manager",
        registered(),
        round_opened(4),
        back_off("waiting"),
        back_off("probing", probes=1),
        granted("1" * 32, 1, 1),
        back_off("probing", probes=1),
        granted("2" * 32, 2, 2),
        back_off("none"),
        granted("3" * 32, 3, 3),
        granted("4" * 32, 4, 4),
    )
    report = check(tmp_path)
    assert report.violations == []
    assert report.counts["changes of back-offs"] == 4


def test_kind_that_no_event_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    """Silence would look like an event that never happened."""
    write(tmp_path, "job_manager-1", round_opened())
    done = CliRunner().invoke(app, ["show", str(tmp_path), "--kind", "lease_grant"])
    assert done.exit_code == 2
    assert "did you mean lease_granted?" in done.output


def test_folder_without_a_log_is_said_so(tmp_path: Path) -> None:
    """An empty folder has no events to be silent about."""
    done = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert done.exit_code == 2
    assert "no event log here" in done.output
