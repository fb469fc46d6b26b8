"""A restart or a reboot is not to be seen: what is told, and what comes due, is the same."""

from __future__ import annotations

from typing import Any, Final

import pytest

from daemons.job_manager.queries import list_jobs, round_status
from propius.core import SECOND_NS
from propius.messages import (
    Cancel,
    CompleteJob,
    EndRequest,
    JobList,
    JobStatus,
    ListJobs,
    Outcome,
    Pause,
    RoundStatus,
    Show,
    WatchRound,
)
from tests.daemons.job_manager.rig import JobServer, Rig

LIVES: Final = [
    ("same process", "", 0.0),
    ("restart", "boot-1", 0.0),
    ("clock set back", "boot-2", -5_900.0),
    ("clock far ahead", "boot-2", 1e6),
]
SETTINGS: Final[dict[str, Any]] = {
    "job_silence_max_s": 5_000.0,
    "lease_grace_s": 1.0,
    "keep_finished_s": 700.0,
    "backoff_after": 2,
    "backoff_first_s": 150.0,
}
STAGES: Final = (
    "registered", "open", "part-filled", "filled", "filled then lost", "enough", "ended",
    "failed by deadline", "cancelled", "paused", "completed", "second round",
    "enough before filled", "backing off",
)  # fmt: skip

HALF: Final = ("part-filled", "enough before filled")


class Site:
    """A job manager with a job in each stage of its life, some time ago."""

    def __init__(self, **settings: Any) -> None:
        self.rig = Rig(**(SETTINGS | settings))
        self.jobs: dict[str, JobServer] = {}
        self.devices = 0
        JobServer.registered(self.rig, "expired", name="expired", demand=2).start(2)
        self.rig.advance(5_001)
        for stage in STAGES:
            self.jobs[stage] = JobServer.registered(
                self.rig, stage.replace(" ", "-"), name=stage, demand=2
            )
            self.rig.advance(3)
        for stage in STAGES[1:]:
            deadline_s = {"failed by deadline": 20.0, "open": 300.0, "paused": 200.0}.get(stage, 0)
            self.jobs[stage].start(2, reports_min=1, lease_s=400.0, deadline_s=deadline_s)
            self.rig.advance(2)
        self.tokens = {
            stage: [self.claim(stage) for _ in range(1 if stage in HALF else 2)]
            for stage in STAGES[2:]
            if stage not in {"failed by deadline", "paused"}
        }
        self.report("filled then lost", Outcome.FAILED)
        self.report("backing off", Outcome.FAILED)
        self.report("backing off", Outcome.FAILED, 1)
        self.report("enough", Outcome.COMPLETED)
        self.report("enough before filled", Outcome.COMPLETED)
        self.report("completed", Outcome.COMPLETED)
        self.report("second round", Outcome.COMPLETED)
        self.jobs["ended"].do(EndRequest, round=0)
        self.jobs["cancelled"].do(Cancel, reason="enough of it")
        self.jobs["paused"].do(Pause)
        self.jobs["completed"].do(CompleteJob)
        self.jobs["second round"].start(1, reports_min=1, lease_s=350.0)
        self.rig.advance(4)
        self.note_the_time()

    def claim(self, stage: str) -> tuple[int, bytes]:
        """Another device takes a slot; who it is, and its token."""
        self.devices += 1
        self.rig.advance(1.5)
        return self.devices, self.rig.claim(self.devices, self.jobs[stage].number).token

    def report(self, stage: str, outcome: Outcome, place: int = 0) -> None:
        """The first device of the round, or another, says how it ended."""
        self.rig.advance(2.5)
        who, token = self.tokens[stage][place]
        assert self.rig.report(who, self.jobs[stage].number, token, outcome).error == ""

    def note_the_time(self) -> None:
        """This much time is known to have passed, and then the machine goes down."""
        self.rig.core.book.save_clock(self.rig.now_ns, 0)
        self.rig.settle()

    def live_on(self, boot: str, jump_s: float) -> None:
        """Another process, maybe after a boot, which begins the clock anew."""
        if boot:
            self.rig.now_ns += int(jump_s * SECOND_NS)
            self.rig.wall_s += jump_s
            self.rig.start(boot)

    def told(self) -> list[JobStatus | RoundStatus]:
        """All that is told about all jobs: by list, by show, and by watching each round."""
        book, now_ns = self.rig.core.book, self.rig.now_ns
        told: list[JobStatus | RoundStatus] = [*list_jobs(book, now_ns, ListJobs(secret=b"")).jobs]
        told += [round_status(book, now_ns, each) for _, each in sorted(book.rounds.items())]
        return told


@pytest.mark.parametrize("boot, jump_s", [life[1:] for life in LIVES], ids=[x[0] for x in LIVES])
def test_what_is_told_is_the_same_before_and_after(boot: str, jump_s: float) -> None:
    """Every duration, state and count of every stage, seen by operators and by job servers."""
    site = Site()
    before = site.told()
    assert {each.state for each in before if isinstance(each, RoundStatus)} >= {
        "open", "filled", "ended", "failed", "completed"
    }  # fmt: skip
    assert {each.state for each in before if isinstance(each, JobStatus)} >= {
        "idle", "requesting", "paused", "completed", "cancelled", "expired"
    }  # fmt: skip
    site.live_on(boot, jump_s)
    assert site.told() == before
    for stage, server in site.jobs.items():
        attached = server.attached(session=99) if stage not in {"cancelled", "completed"} else None
        if attached is None:
            continue
        shown = attached.do(Show)
        assert shown in before, stage
        if isinstance(shown, JobStatus) and shown.round >= 0:
            watched = attached.do(WatchRound, round=shown.round, seen=0, wait_s=0.0)
            assert watched in before, stage
    assert site.told() == before


def history(site: Site, steps: int, step_s: float) -> list[list[tuple[Any, ...]]]:
    """What is told as time goes by."""
    told = []
    for _ in range(steps):
        site.rig.advance(step_s)
        told.append([(type(each), *astuple(each)) for each in site.told()])
    return told


def astuple(status: JobStatus | RoundStatus) -> tuple[Any, ...]:
    """Its fields, without the last digits of numbers."""
    values = [getattr(status, name) for name in status.__struct_fields__]
    return tuple(round(v, 3) if isinstance(v, float) else v for v in values if v != [])


@pytest.mark.parametrize(
    "boot, jump_s", [life[1:] for life in LIVES[1:]], ids=[x[0] for x in LIVES[1:]]
)
def test_what_comes_due_comes_due_at_the_same_time(boot: str, jump_s: float) -> None:
    """Deadlines, and the forgetting of finished jobs, as if there had been no restart."""
    one, other = Site(), Site()
    other.live_on(boot, jump_s)
    for site in (one, other):
        site.claim("enough before filled")
    # No lease ends in this time: those are whole again after a reboot, by design.
    for left, right in zip(history(one, 28, 10.0), history(other, 28, 10.0), strict=True):
        assert left == right
    states = {each.state for each in one.told() if isinstance(each, RoundStatus)}
    assert "failed" in states, "a deadline was in this time"


@pytest.mark.parametrize("boot, jump_s", [life[1:] for life in LIVES], ids=[x[0] for x in LIVES])
def test_finished_jobs_are_forgotten_when_their_time_is_over(boot: str, jump_s: float) -> None:
    """Neither sooner nor later for a restart."""
    site = Site(keep_finished_s=100.0)
    site.rig.advance(50)
    site.note_the_time()
    done = site.jobs["cancelled"].number
    left_s = (site.rig.core.book.finished[done] - site.rig.now_ns) / SECOND_NS + 100.0
    site.live_on(boot, jump_s)
    site.rig.advance(left_s - 1)
    assert done in site.rig.core.book.jobs
    site.rig.advance(7)
    assert done not in site.rig.core.book.jobs


def test_two_reboots_are_as_one() -> None:
    """What the first one moved is not moved twice, nor forgotten."""
    site = Site()
    before = site.told()
    site.live_on("boot-2", -5_900.0)
    site.live_on("boot-2", 0.0)
    site.note_the_time()
    site.live_on("boot-3", 7_000.0)
    assert site.told() == before
    assert isinstance(list_jobs(site.rig.core.book, 0, ListJobs(secret=b"")), JobList)
