"""What policies are told live, and what becomes of a plan when one fails."""

from __future__ import annotations

import sys

import msgspec
import pytest

from propius import policy
from propius.messages import JobHistory
from tests.daemons.scheduler.kit import World, job, rounds_of


class Moody:
    """A policy that fails when it is told to."""

    fails = False

    def order(self, snapshot: policy.Snapshot) -> list[tuple[int, int]]:
        """The last job first."""
        if Moody.fails:
            raise RuntimeError("not today")
        return [(round_.job, round_.round) for round_ in reversed(snapshot.rounds)]


def test_a_policy_that_fails_leaves_the_last_plan_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted each time, said once until a plan is made again; then the order is the policy's."""
    monkeypatch.setitem(sys.modules, "moody", sys.modules[__name__])
    monkeypatch.setattr(Moody, "fails", False)
    world = World(policy="moody:Moody", replan_s=1.0)
    world.snapshot(job(1), job(2), seq=10)
    assert [round_[0] for round_ in rounds_of(world.plan())] == [2, 1]
    Moody.fails = True
    world.driver.said.clear()
    world.events(job(1, allocated=1), first=11)
    world.live(3.0)
    assert world.plans() == {}
    assert world.core.counters["policy_errors"] >= 3
    assert world.core.not_ready() == ""
    (said,) = [said for said in world.driver.said if said.event == "policy_failed"]
    assert said.fields["why"] == "policy moody:Moody raised: RuntimeError: not today"
    Moody.fails = False
    world.live(1.5)
    assert rounds_of(world.plan())[1] == (1, 0, 9)
    counts = world.core.counters["policy_errors"]
    world.live(3.0)
    assert world.core.counters["policy_errors"] == counts


def test_a_jobs_history_reaches_the_policy() -> None:
    """`las` puts the job first that fewer devices have served."""
    world = World(policy="las")
    served = msgspec.structs.replace(job(1), history=JobHistory(1, 40, 2, 3, 5))
    world.snapshot(served, job(2), seq=10)
    assert [round_[0] for round_ in rounds_of(world.plan())] == [2, 1]


def test_the_options_of_a_policy_are_the_engines() -> None:
    """What the configuration says is what plans are made by."""
    world = World(policy="static-partition", policy_options={"partitions": 7})
    world.snapshot(job(9), seq=10)
    plan = world.plan()
    assert (plan.partitions, plan.groups[0].rounds[0].part) == (7, 2)
