"""The scheduler's core, told as conversations on a virtual clock."""

from __future__ import annotations

import itertools

import msgspec

from propius.messages import (
    Beat,
    Error,
    ErrorCode,
    Header,
    JobHistory,
    JobsReceived,
    JobState,
    ManagerJoined,
    NeedSnapshot,
    Plan,
    PlanMade,
    PlannerStarted,
    Reject,
    Supply,
    SupplyBucket,
    SupplyReceived,
    Welcome,
    encode_header,
)
from tests.daemons.client_manager.kit import (
    SECOND,
    VERSION,
    keep_alive,
)
from tests.daemons.client_manager.manager_kit import World as ManagerWorld
from tests.daemons.scheduler.kit import MS, World, bucket, job, rounds_of

# --- jobs ----------------------------------------------------------------------------------------


def test_snapshot_becomes_a_plan_at_once() -> None:
    """The first plan leaves with the batch of the snapshot, with what a manager must know."""
    world = World()
    assert "snapshot" in world.core.not_ready()
    world.snapshot(job(1), job(2, round=-1), seq=10)
    plan = world.plan()
    assert (plan.version >= 1, plan.seq, plan.ranked) == (True, 10, True)
    (group,) = plan.groups
    assert group.requirement == [2.0, 2.0]
    assert rounds_of(plan) == [(1, 0, 10)]
    assert group.rounds[0].private_constraint == {"images": 1.0}
    assert world.core.not_ready() == ""


def test_events_that_follow_are_applied() -> None:
    """A round that opens, fills, and a job that is gone change the next plan."""
    world = World()
    world.snapshot(job(1), job(2, round=-1))
    world.events(job(2, round=3), first=11)
    world.driver.advance(0.1)
    world.events(job(1, allocated=4), first=12)
    world.driver.advance(0.1)
    world.events(first=13, removed=(2,))
    world.driver.advance(0.1)
    assert [rounds_of(plan) for plan in world.driver.take(Plan)] == [
        [(1, 0, 10)],
        [(1, 0, 10), (2, 3, 10)],
        [(1, 0, 6), (2, 3, 10)],
        [(1, 0, 6)],
    ]


def test_round_that_ends_leaves_the_plan() -> None:
    """A job whose state has no open round any more is not offered."""
    world = World()
    world.snapshot(job(1))
    world.driver.advance(0.1)
    world.events(job(1, round=-1), first=11)
    assert [rounds_of(plan) for plan in world.driver.take(Plan)] == [[(1, 0, 10)], []]


def test_repeated_and_old_events_change_nothing() -> None:
    """What was applied is known by its number."""
    world = World()
    world.snapshot(job(1), seq=10)
    world.events(job(1, allocated=5), first=11)
    world.live(0.5)
    world.driver.take(Plan)
    world.events(job(1, allocated=1), first=11)
    world.events(job(1, allocated=1), first=9, seq=10)
    world.snapshot(job(1), seq=10)
    world.live(0.5)
    assert world.driver.take(Plan) == []
    assert world.driver.take(NeedSnapshot) == []


def test_gap_asks_for_a_snapshot_and_keeps_the_plan() -> None:
    """Event 12 without 11: nothing is applied, and a snapshot is asked for, once."""
    world = World()
    world.snapshot(job(1), seq=10)
    world.driver.take(Plan)
    world.events(job(1, allocated=5), first=12)
    world.events(job(1, allocated=6), first=13)
    assert len(world.driver.take(NeedSnapshot)) == 1
    assert world.driver.take(Plan) == []
    world.snapshot(job(1, allocated=6), seq=13)
    world.driver.advance(0.1)
    assert rounds_of(world.plan()) == [(1, 0, 4)]


def test_overlapping_events_are_no_gap() -> None:
    """Events 9 to 12 are applied to a picture as of 10: each entry is a whole state."""
    world = World()
    world.snapshot(job(1), seq=10)
    world.driver.advance(0.1)
    world.driver.take(Plan)
    world.events(job(1, allocated=5), first=9, seq=12)
    assert rounds_of(world.plan()) == [(1, 0, 5)]
    assert world.driver.take(NeedSnapshot) == []


def test_event_that_was_lost_is_noticed_by_the_beat() -> None:
    """The job manager's beat names its last event; a snapshot is asked for until it comes."""
    world = World()
    world.snapshot(job(1), seq=10)
    world.live(2.0, seq=11)
    assert 2 <= len(world.driver.take(NeedSnapshot)) <= 5
    world.snapshot(job(1), seq=11)
    world.live(2.0)
    assert world.driver.take(NeedSnapshot) == []


def test_lost_snapshot_is_asked_for() -> None:
    """A job manager was welcomed, but its snapshot did not arrive."""
    world = World()
    world.live(1.2)
    assert len(world.driver.take(NeedSnapshot)) >= 1


def test_restarted_job_manager_replaces_everything() -> None:
    """A new incarnation's snapshot is taken whatever its number; its events before it are not."""
    world = World()
    world.snapshot(job(1), job(2), seq=1_000)
    world.driver.take(Plan)
    world.job_manager.incarnation = 2
    world.job_manager.hello()
    world.driver.advance(0.1)
    world.events(job(3), first=1_001)
    assert world.driver.take(Plan) == []
    world.snapshot(job(2), seq=500)
    plan = world.plan()
    assert plan.seq == 500
    assert rounds_of(plan) == [(2, 0, 10)]


def test_job_manager_that_is_lost_leaves_the_last_plan() -> None:
    """A manager that comes meanwhile still hears a plan."""
    world = World()
    world.snapshot(job(1))
    world.live(3.0, world.job_manager)
    assert "job manager" in world.core.not_ready()
    world.driver.take(Plan)
    late = world.manager(5)
    late.hello()
    plans = world.plans()
    assert rounds_of(plans["client_manager-5"][0])


def test_unknown_job_manager_must_say_hello() -> None:
    """Whoever did not say hello is told so, and changes nothing."""
    world = World(jobs=False)
    world.snapshot(job(1))
    assert world.driver.one(Error).code is ErrorCode.UNKNOWN_SESSION
    assert world.driver.take(Plan) == []


def test_job_that_the_planner_cannot_take_is_left_out() -> None:
    """A requirement of the wrong length is reported; the other jobs are planned."""
    world = World()
    broken = JobState(1, 0, [2.0], {}, 1, 1, 1, 0, 1, 0, 1)
    world.snapshot(broken, job(2, requirement_id=1))
    assert rounds_of(world.plan()) == [(2, 0, 10)]
    assert world.core.counters["refused_jobs"] == 1
    assert "job 1" in str([said.fields for said in world.driver.said])


# --- when plans are made -------------------------------------------------------------------------


def test_first_plan_leaves_at_once_and_later_ones_20_ms_apart() -> None:
    """Ten changes in 20 ms: one plan at the first, one at the end."""
    world = World()
    world.snapshot(job(1, demand=100))
    world.driver.advance(1.0)
    world.driver.take(Plan)
    times = []
    for number in range(50):
        world.events(job(1, demand=100, allocated=number + 1), first=11 + number)
        if world.driver.take(Plan):
            times.append(world.driver.now_ns)
        world.driver.now_ns += 2 * MS
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 20 * MS
    assert 4 <= len(times) <= 6


def test_last_change_is_planned_by_the_timer() -> None:
    """A change within 20 ms of a plan needs no further message to be planned."""
    world = World()
    world.snapshot(job(1))
    world.driver.take(Plan)
    world.events(job(1, allocated=5), first=11)
    assert world.driver.take(Plan) == []
    world.driver.advance(0.021)
    assert rounds_of(world.plan()) == [(1, 0, 5)]


def test_supply_alone_is_planned_once_a_second() -> None:
    """Supply changes the order of some policies, but not in a hurry."""
    world = World(policy="irs")
    world.snapshot(job(1))
    world.live(1.5)
    world.driver.take(Plan)
    for number in range(1, 9):
        world.managers[0].say(Supply(seq=number, buckets=[bucket(number)]))
        world.live(0.25)
    assert 1 <= len(world.driver.take(Plan)) <= 3


def test_nothing_changed_means_no_plan() -> None:
    """Plans are not made for the sake of it."""
    world = World()
    world.snapshot(job(1))
    world.driver.take(Plan)
    world.live(5.0)
    assert world.driver.take(Plan) == []


def test_tier_is_dropped_in_time_though_nothing_happens() -> None:
    """The third round of a job waits for fast devices, for no longer than they could save."""
    world = World(policy="venn")
    speeds = [float(speed) for speed in range(1, 41)]
    supply = SupplyBucket(world.driver.now_ns, len(speeds), [4.0, 4.0] * len(speeds), speeds)
    for number in range(3):
        past = JobHistory(number, 5 * number, SECOND, 10 * SECOND, 11 * SECOND * number)
        state = msgspec.structs.replace(
            job(1, round=number), history=past, opened_ns=world.driver.now_ns
        )
        if number:
            world.events(state, first=10 + number)
        else:
            world.snapshot(state)
            world.managers[0].say(Supply(seq=1, buckets=[supply]))
        world.live(1.25)
    tiers = [
        p.tier for plan in world.driver.take(Plan) for group in plan.groups for p in group.rounds
    ]
    # Of 40 devices in some 3 s: 10 / 6 + 10 * 9 / 25 s, and of the fastest 10 / 3 + 10 * 9 / 31.
    assert tiers[-1] == (21.0, None)
    world.live(20.0)
    assert [p.tier for p in world.plan().groups[0].rounds] == [None]


# --- managers ------------------------------------------------------------------------------------


def test_quotas_of_two_managers_hardly_exceed_what_remains() -> None:
    """Over all managers at most managers - 1 devices more than needed are woken, per round."""
    world = World(managers=2)
    world.managers[0].say(Supply(seq=1, buckets=[bucket(1, devices=30)]))
    world.managers[1].say(Supply(seq=1, buckets=[bucket(1, devices=10)]))
    world.snapshot(job(1, demand=10), job(2, demand=1), job(3, demand=7, allocated=4))
    plans = world.plans()
    assert set(plans) == {"client_manager-0", "client_manager-1"}
    (zero,), (one,) = plans["client_manager-0"], plans["client_manager-1"]
    assert zero.version == one.version
    remaining = {1: 10, 2: 1, 3: 3}
    for (name, _, first), (_, _, second) in zip(rounds_of(zero), rounds_of(one), strict=True):
        assert 1 <= first <= remaining[name]
        assert 1 <= second <= remaining[name]
        assert remaining[name] <= first + second <= remaining[name] + 1


def test_lost_plan_is_sent_again() -> None:
    """A manager whose beat shows an older plan gets the present one, about once a second."""
    world = World()
    world.snapshot(job(1))
    version = world.plan().version
    world.job_manager.say(Beat(seq=10))
    keep_alive(world.driver, 3.0, world.managers[0], seq=version - 1)
    again = world.driver.take(Plan)
    assert 2 <= len(again) <= 3
    assert {plan.version for plan in again} == {version}
    world.live(3.0)
    assert world.driver.take(Plan) == []


def test_plan_that_could_not_be_sent_is_not_sent_again_at_once() -> None:
    """To a peer that is gone, that would go on for ever; it counts as gone until its next hello."""
    world = World()
    world.snapshot(job(1))
    (sent,) = world.driver.take_sent(Plan)
    world.driver.undeliverable(sent)
    world.driver.advance(0.1)
    assert world.driver.take(Plan) == []
    assert not world.core.managers
    world.managers[0].hello()
    assert world.plan().groups == sent.message.groups


def test_other_version_or_schema_is_rejected_with_both_named() -> None:
    """One line says what does not fit."""
    world = World(managers=0, jobs=False)
    world.manager(0, version="9.9.9").hello()
    text = world.driver.one(Reject).text
    assert "9.9.9" in text
    assert VERSION in text
    world.manager(0, schema="other").hello()
    text = world.driver.one(Reject).text
    assert "other" in text
    assert "s1" in text
    assert world.driver.take(Welcome) == []


def test_garbage_is_refused() -> None:
    """What cannot be read is answered with the field and changes nothing."""
    world = World()
    header = encode_header(Header(kind="supply", sender="client_manager-0", session=1, request=1))
    world.driver.receive("inside", b"client_manager-0", header, b"\x81\xa3seq\xff")
    error = world.driver.one(Error)
    assert (error.code, error.field) == (ErrorCode.INVALID, "seq")
    assert world.core.counters["refused_messages"] == 1


# --- supply --------------------------------------------------------------------------------------


def supplied(world: World) -> list[tuple[int, list[int]]]:
    """(seq, bucket starts in seconds) of the supply that counted."""
    return [
        (event.seq, [each.bucket_start_ns // SECOND for each in event.buckets])
        for event in world.driver.take_events()
        if isinstance(event, SupplyReceived)
    ]


def test_supply_counts_once_however_often_it_is_sent() -> None:
    """Messages overlap on purpose; the number of the last bucket tells what is new."""
    world = World()
    (manager,) = world.managers
    manager.say(Supply(seq=1, buckets=[bucket(1)]))
    manager.say(Supply(seq=1, buckets=[bucket(1)]))
    manager.say(Supply(seq=3, buckets=[bucket(1), bucket(2), bucket(3)]))
    manager.say(Supply(seq=2, buckets=[bucket(1), bucket(2)]))
    assert supplied(world) == [(1, [1]), (3, [2, 3])]


def test_supply_of_a_manager_that_was_lost_for_a_while_counts_once() -> None:
    """It sends its last window again when it is back; only the news counts."""
    world = World()
    (manager,) = world.managers
    manager.say(Supply(seq=2, buckets=[bucket(1), bucket(2)]))
    world.driver.advance(5.0)
    assert world.core.managers == {}
    manager.hello()
    manager.say(Supply(seq=3, buckets=[bucket(1), bucket(2), bucket(3)]))
    assert supplied(world) == [(2, [1, 2]), (3, [3])]


def test_supply_of_a_restarted_manager_is_numbered_from_anew() -> None:
    """Bucket 1 of a new incarnation is another bucket."""
    world = World()
    (manager,) = world.managers
    manager.say(Supply(seq=5, buckets=[bucket(5)]))
    manager.incarnation = 2
    manager.hello()
    manager.say(Supply(seq=1, buckets=[bucket(9)]))
    assert supplied(world) == [(5, [5]), (1, [9])]


def test_broken_supply_is_counted_away() -> None:
    """A bucket whose lengths do not fit is refused, and the scheduler goes on."""
    world = World()
    broken = SupplyBucket(SECOND, 3, [1.0], [1.0])
    world.managers[0].say(Supply(seq=1, buckets=[broken]))
    assert world.core.counters["refused_buckets"] == 1


# --- the event log -------------------------------------------------------------------------------


def test_events_are_the_inputs_of_every_plan_in_order() -> None:
    """Jobs and supply as they were applied, then the plan that was made of them."""
    world = World()
    world.snapshot(job(1), seq=10)
    world.managers[0].say(Supply(seq=1, buckets=[bucket(1)]))
    world.driver.advance(0.05)
    world.events(job(1, allocated=1), first=11)
    events = world.driver.take_events()
    kinds = [type(event) for event in events]
    assert kinds == [
        PlannerStarted, ManagerJoined, JobsReceived, PlanMade, SupplyReceived, JobsReceived,
        PlanMade,
    ]  # fmt: skip
    snapshot, made = events[2], events[3]
    assert isinstance(snapshot, JobsReceived)
    assert isinstance(made, PlanMade)
    assert (snapshot.whole, snapshot.seq) == (True, 10)
    assert (made.seq, made.policy, made.groups) == (10, "fifo", [(0, [(1, 0, 0, 10, None, 0)])])


def test_no_event_is_made_when_nobody_keeps_them() -> None:
    """With the event log off, nothing is recorded."""
    world = World(event_log=False)
    world.snapshot(job(1))
    assert world.driver.take_events() == []


# --- with a client manager -----------------------------------------------------------------------


def test_last_of_2000_jobs_is_offered_to_the_only_client_that_can_serve_it() -> None:
    """No job is invisible because there are many."""
    for policy in ("fifo", "irs"):
        world = World(policy=policy)
        jobs = [
            job(number, bounds=(9.0, 9.0), requirement_id=number % 7) for number in range(2_000)
        ]
        jobs[-1] = job(1_999, bounds=(1.0, 1.0), requirement_id=99)
        jobs = [
            state
            if state.requirement_id == 99
            else job(
                state.job,
                bounds=(9.0, 2.0 + state.requirement_id),
                requirement_id=state.requirement_id,
            )
            for state in jobs
        ]
        world.snapshot(*jobs)
        plan = world.plan()
        manager = ManagerWorld()
        manager.say("scheduler", plan)
        manager.check_in(1, spec=(1.5, 1.5))
        offer = manager.answer()
        assert [(task.job, task.round) for task in offer.tasks] == [(1_999, 0)]


def test_conversation_of_scheduler_and_manager_over_a_lost_plan() -> None:
    """The manager's beat brings back a plan that never arrived, and its clients are served."""
    world, manager = World(), ManagerWorld()
    manager.check_in(1, wait_s=60.0)
    world.snapshot(job(1))
    world.driver.take(Plan)  # lost on the way
    manager.driver.take(Beat)
    world.driver.advance(1.1)
    manager.advance(0.5)
    for beat in manager.driver.take(Beat, "scheduler"):
        world.managers[0].say(beat)
    manager.say("scheduler", world.plan())
    assert [task.job for task in manager.answer().tasks] == [1]
