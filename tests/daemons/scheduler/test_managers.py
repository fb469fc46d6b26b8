"""Client managers come and go: who is planned for, and with which quotas."""

from __future__ import annotations

from propius.messages import (
    ManagerJoined,
    ManagerLeft,
    Plan,
    Reject,
    Welcome,
)
from propius.peering import PEERS_MAX
from tests.daemons.client_manager.kit import (
    keep_alive,
)
from tests.daemons.scheduler.kit import World, job, rounds_of


def test_coming_and_going_of_managers_is_recorded() -> None:
    """Quotas depend on who is there: each joins once and leaves once, restarts included."""
    world = World(managers=2)
    again = world.manager(0, incarnation=7)
    again.hello()
    keep_alive(world.driver, 2.0, again, world.job_manager)
    events = [
        (type(event), event.manager, event.incarnation)
        for event in world.driver.take_events()
        if isinstance(event, ManagerJoined | ManagerLeft)
    ]
    first = world.managers[0].incarnation
    assert events == [
        (ManagerJoined, 0, first),
        (ManagerJoined, 1, first),
        (ManagerLeft, 0, first),
        (ManagerJoined, 0, 7),
        (ManagerLeft, 1, first),
    ]


def test_first_plan_waits_for_the_managers_to_come_back() -> None:
    """After a restart no manager gets the whole demand because it was the first to say hello."""
    world = World(managers=0, settle_s=0.7)
    world.snapshot(job(1, demand=10))
    for number in range(3):
        world.driver.advance(0.2)
        manager = world.manager(number)
        manager.hello()
        world.managers.append(manager)
    assert world.driver.take(Plan) == []
    world.driver.advance(0.2)
    quotas = [
        round_.quota
        for (plan,) in world.plans().values()
        for group in plan.groups
        for round_ in group.rounds
    ]
    assert len(quotas) == 3
    assert sum(quotas) <= 10 + 2


def test_number_of_managers_is_bounded() -> None:
    """One more than PEERS_MAX is told so, and comes in when another one has gone."""
    world = World(managers=0, jobs=False)
    for number in range(PEERS_MAX):
        world.manager(number).hello()
    late = world.manager(PEERS_MAX)
    late.hello()
    assert str(PEERS_MAX) in world.driver.one(Reject).text
    assert len(world.core.managers) == PEERS_MAX
    world.driver.undeliverable(world.driver.take_sent(Welcome)[0])
    world.driver.advance(0.0)
    late.hello()
    assert len(world.core.managers) == PEERS_MAX


def test_lost_manager_leaves_its_quota_to_the_others() -> None:
    """A manager that falls silent is noticed within three seconds."""
    world = World(managers=2)
    world.snapshot(job(1, demand=10))
    world.driver.take(Plan)
    world.live(3.0, world.managers[1])
    plans = world.plans()
    assert [rounds_of(plan) for plan in plans["client_manager-0"]] == [[(1, 0, 10)]]
    assert "client_manager-1" not in plans


def test_manager_that_says_hello_again_gets_the_plan_again() -> None:
    """Its link was cut; whatever was on the way is lost."""
    world = World()
    world.snapshot(job(1))
    first = world.plan()
    world.managers[0].hello()
    assert world.plan() == first


def test_restarted_manager_is_planned_for_anew() -> None:
    """A new incarnation is a new manager with the same quotas."""
    world = World()
    world.snapshot(job(1))
    world.live(1.0)
    world.driver.take(Plan)
    world.managers[0].incarnation = 2
    world.managers[0].hello()
    assert rounds_of(world.driver.take(Plan)[-1]) == [(1, 0, 10)]


def test_late_manager_gets_a_plan_and_the_others_new_quotas() -> None:
    """A manager that comes when all is quiet is not left without work."""
    world = World()
    world.snapshot(job(1, demand=10))
    world.live(1.0)
    world.driver.take(Plan)
    late = world.manager(1)
    world.managers.append(late)
    late.hello()
    world.driver.advance(0.1)
    plans = world.plans()
    assert [rounds_of(plan) for plan in plans["client_manager-1"]] == [[(1, 0, 5)]]
    assert [rounds_of(plan) for plan in plans["client_manager-0"]] == [[(1, 0, 5)]]
