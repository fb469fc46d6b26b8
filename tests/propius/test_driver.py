"""From events to the engine: what the drivers do where something does not fit."""

from __future__ import annotations

import pytest

from propius.driver import (
    HOLD_OVER,
    JobFeed,
    MatcherDriver,
    PlannerDriver,
    planner_of,
)
from propius.engine import EngineError
from propius.messages import (
    CheckedIn,
    ClientForgotten,
    JobsReceived,
    JobState,
    ManagerJoined,
    MatcherStarted,
    Plan,
    PlanApplied,
    PlanMade,
    PlannerStarted,
    TimeLooked,
)

PLANNER = PlannerStarted(
    policy="fifo", options={}, dimensions=1, seed=0, supply_window_ns=10, supply_samples_max=9
)
MATCHER = MatcherStarted(
    manager=0, dimensions=1, tasks_per_offer_max=20, offer_timeout_ns=10, waiting_max=1,
    declined_max=9, supply_bucket_ns=10, supply_sample_max=9, seed=0,
)  # fmt: skip
ONE, TWO = "1" * 32, "2" * 32


def job(number: int, requirement: list[float], round_: int = 0) -> JobState:
    """A job with an open round for three devices (-1: with none)."""
    return JobState(number, 0, requirement, {}, 0, 3, 1, round_, 3, 0, 0)


def test_a_job_that_does_not_fit_is_forgotten() -> None:
    """Its state is refused, and neither it nor its round stays behind."""
    planner = planner_of(PLANNER)
    feed = JobFeed(planner)
    feed.put(job(1, [1.0]))
    with pytest.raises(EngineError):
        feed.put(job(1, [1.0, 2.0]))
    assert feed.open == {}
    assert planner.counts()["jobs"] == 0


def test_a_round_that_is_not_there_any_more_is_closed() -> None:
    """A state without a round ends the one before; a snapshot ends all."""
    planner = planner_of(PLANNER)
    feed = JobFeed(planner)
    feed.put(job(1, [1.0]))
    feed.put(job(2, [1.0], round_=4))
    assert feed.open == {1: 0, 2: 4}
    feed.put(job(1, [1.0], round_=-1))
    assert (feed.open, planner.counts()["open_rounds"]) == ({2: 4}, 1)
    feed.reset()
    assert (feed.open, planner.counts()["jobs"]) == ({}, 0)


def test_a_refused_job_does_not_keep_the_others_from_a_plan() -> None:
    """As the scheduler does, the driver goes on without it."""
    driver = PlannerDriver(PLANNER)
    driver.take(1, ManagerJoined(manager=3, incarnation=1))
    jobs = [job(1, [1.0, 2.0]), job(2, [0.5])]
    driver.take(1, JobsReceived(whole=True, seq=7, changed=jobs, removed=[]))
    made = driver.plan(2)
    assert isinstance(made, PlanMade)
    assert (made.seq, made.groups) == (7, [(0, [(2, 0, 0, 3, None, 0)])])
    assert made.quotas == [(3, [3])]


def test_a_refused_check_in_decides_nothing() -> None:
    """Too many wait: the device heard `busy`. The one before it waits until its time is over."""
    driver = MatcherDriver(MATCHER)
    for device in (ONE, TWO):
        event = CheckedIn(device_id=device, spec=[1.0], option=1.0, hold_s=1.0)
        assert driver.take(1, event) == []
    assert driver.matcher.counts()["waiting"] == 1
    over = driver.take(2_000_000_000, TimeLooked())
    assert over == [ClientForgotten(device_id=ONE, reason=HOLD_OVER)]
    assert driver.take(3_000_000_000, over[0]) == []  # a decision, and no input


def test_a_plan_that_the_matcher_does_not_take_is_an_error() -> None:
    """A client manager logs those only that its matcher took."""
    driver = MatcherDriver(MATCHER)
    new, old = (
        Plan(version=version, seq=1, ranked=True, groups=[], preferences=[], fallback=[])
        for version in (2, 1)
    )
    driver.take(1, PlanApplied(plan=new))
    with pytest.raises(EngineError, match="plan 1 is older"):
        driver.take(1, PlanApplied(plan=old))


def test_wrong_settings_are_errors_of_the_engine() -> None:
    """No such policy, no such option."""
    with pytest.raises(EngineError, match="best"):
        PlannerDriver(PLANNER, policy="best")
    with pytest.raises(EngineError, match="hurry"):
        PlannerDriver(PLANNER, options={"hurry": 1.0})
