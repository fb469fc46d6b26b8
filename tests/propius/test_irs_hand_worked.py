"""IRS (the rule of Venn) on cases worked by hand, from jobs and supply to what a device is offered.

Four requirements on two attributes, and the four kinds of device that there are:

    0 general [1, 1]    1 compute [5, 1]    2 memory [1, 5]    3 high [5, 5]

    G = (1, 1) meets 0    C = (5, 1) meets 0, 1    M = (1, 5) meets 0, 2    H = (5, 5) meets all

In the comments, per group: `S` the devices that meet it, `own` the kinds that it owns, `num` how
many they are, `q` its jobs, `D` what they lack, and m the jobs served before the scarcer group has
none left. A group e takes from a scarcer one c when m / num[e] > q[c] / num[c].
"""

from __future__ import annotations

from propius import engine
from propius.engine import Matcher, Plan, Planner

Spec = tuple[float, float]
VECTORS = {0: [1.0, 1.0], 1: [5.0, 1.0], 2: [1.0, 5.0], 3: [5.0, 5.0]}
G, C, M, H = (1.0, 1.0), (5.0, 1.0), (1.0, 5.0), (5.0, 5.0)


def a_plan(supply: dict[Spec, int], demands: dict[int, list[int]]) -> Plan:
    """The plan for this supply and, by requirement, what its jobs lack.

    Job 10 * r + i is the i-th of requirement r.
    """
    planner = Planner(policy="irs", dimensions=2)
    planner.add_manager(0)
    devices = [spec for spec, count in supply.items() for _ in range(count)]
    specs = [value for spec in devices for value in spec]
    planner.add_supply(0, 0, len(devices), specs, [1.0] * len(devices))
    for requirement, lacking in demands.items():
        for i, demand in enumerate(lacking):
            job = 10 * requirement + i
            planner.put_job(job, requirement, VECTORS[requirement], job, demand, 1)
            planner.open_round(job, 0, demand, 0, 0)
    return planner.plan(0)


def offer(plan: Plan, spec: Spec) -> list[int]:
    """The jobs that a device of this kind is offered, in order."""
    matcher = Matcher(dimensions=2, tasks_per_offer_max=100)
    engine.apply_plan(matcher, 0, plan, manager=0, seq=0)
    return [job for job, _ in matcher.would_offer(list(spec))]


def test_the_scarcer_group_keeps_what_both_want_when_queues_are_equal() -> None:
    """The first step alone: the intersection belongs to the scarcer group.

    S: compute 40, general 100. own: compute {C} num 40, general {G} num 60.
    general looks at compute: 10/60 = 0.17 <= 10/40 = 0.25, so m = 1; 1/60 < 1/40: it takes nothing.
    """
    plan = a_plan({G: 60, C: 40}, {0: [10], 1: [10]})
    assert plan.fallback == [1, 0]
    assert plan.preferences == []
    assert (offer(plan, G), offer(plan, C)) == ([0], [10, 0])


def test_a_longer_queue_takes_the_intersection_from_the_scarcer_group() -> None:
    """More jobs per owned device wait for general, and they do not delay compute's for nothing.

    own: compute {C} num 40 q 1, general {G} num 60 q 4.
    general looks at compute: 4 * 10/60 = 0.67 <= 40/40 = 1, so m = 4; 4/60 = 0.067 > 1/40 = 0.025:
    it takes C. Compute keeps nothing, but its jobs still follow in the offers to C.
    """
    plan = a_plan({G: 60, C: 40}, {0: [10] * 4, 1: [40]})
    assert plan.preferences == [([0, 1], [0])]
    assert (offer(plan, G), offer(plan, C)) == ([0, 1, 2, 3], [0, 1, 2, 3, 10])


def test_a_queue_that_drains_late_does_not_take() -> None:
    """m counts only the jobs that are served before the scarcer group has none left.

    As above, but compute lacks 10: it drains at 10/40 = 0.25. General's jobs end at 0.17, 0.33 …:
    the first to end at or after 0.25 is number 1 (from 0), so m = 1; 1/60 < 1/40.
    """
    plan = a_plan({G: 60, C: 40}, {0: [10] * 4, 1: [10]})
    assert plan.preferences == []
    assert offer(plan, C) == [10, 0, 1, 2, 3]


def test_the_devices_of_the_papers_trace_one_job_each() -> None:
    """The eligibility of the published trace: H 417, G 305, M 124, C 78 of 924.

    S: high 417, compute 495, memory 541, general 924; own: {H} 417, {C} 78, {M} 124, {G} 305.
    general at memory:  100/305 = 0.33 <= 50/124 = 0.40, m = 1; 1/305 < 1/124: no.
    memory at compute:  50/124 = 0.40 <= 50/78 = 0.64, m = 1; 1/124 < 1/78: no.
    compute at high:    50/78 = 0.64 > 20/417 = 0.05, m = 0: no.
    """
    plan = a_plan({G: 305, C: 78, M: 124, H: 417}, {0: [100], 1: [50], 2: [50], 3: [20]})
    assert plan.fallback == [3, 1, 2, 0]
    assert plan.preferences == []
    assert offer(plan, H) == [30, 10, 20, 0]
    assert (offer(plan, C), offer(plan, M), offer(plan, G)) == ([10, 0], [20, 0], [0])


def test_compute_takes_the_high_devices_when_short_jobs_wait_for_it() -> None:
    """The same supply; compute has three jobs, lacking 2, 4 and 50.

    general at memory:  as before, no.
    memory at compute:  50/124 = 0.40 <= 56/78 = 0.72, m = 1; 1/124 = 0.008 < 3/78 = 0.038: no.
    compute at high:    jobs end at 2/78 = 0.026, 6/78 = 0.077, 0.72; high drains at 20/417 = 0.048:
                        m = 1; 1/78 = 0.0128 > 1/417 = 0.0024: it takes H, all that high owns.
    """
    plan = a_plan({G: 305, C: 78, M: 124, H: 417}, {0: [100], 1: [50, 4, 2], 2: [50], 3: [20]})
    assert plan.preferences == [([0, 1, 2, 3], [1])]
    assert offer(plan, H) == [12, 11, 10, 30, 20, 0]


def test_a_group_never_takes_devices_that_it_cannot_use() -> None:
    """The fault of the published code (its groups absorb whole allocations) is not copied.

    general at memory:  100/305 = 0.33 > 30/124 = 0.24, m = 0: no.
    memory at compute:  30/124 = 0.24 <= 500/78 = 6.4, m = 3; 3/124 = 0.024 > 1/78 = 0.013: it takes
                        what compute owns *and memory can use*, own {C} & {M, H} = nothing. The
                        published code moves C to memory, whose jobs C does not meet.
    memory at high:     10/124 = 0.08 > 20/417 = 0.05, m = 0: no.
    """
    plan = a_plan({G: 305, C: 78, M: 124, H: 417}, {0: [100], 1: [500], 2: [10] * 3, 3: [20]})
    assert plan.preferences == []
    assert offer(plan, C) == [10, 0], "compute first, and memory's jobs 20 to 22 never"
    assert offer(plan, M) == [20, 21, 22, 0]


def test_a_take_over_leaves_the_scarcer_group_what_only_it_can_use() -> None:
    """The paper's S'_j with (S_j & S_k) added: only the intersection moves.

    S: compute C + H = 50, memory M + H = 90. own: compute {C, H} num 50, memory {M} num 60.
    memory at compute:  20/60 = 0.33 <= 50/50 = 1, m = 2; 2/60 = 0.033 > 1/50 = 0.02: it takes H.
    Compute keeps C.
    """
    plan = a_plan({C: 20, M: 60, H: 30}, {1: [50], 2: [10, 10]})
    assert plan.fallback == [1, 2]
    assert plan.preferences == [([1, 2], [2])]
    assert offer(plan, H) == [20, 21, 10]
    assert (offer(plan, C), offer(plan, M)) == ([10], [20, 21])


def test_groups_that_share_no_device_leave_each_other_alone() -> None:
    """Without H nothing contends, however long the queue is."""
    plan = a_plan({C: 20, M: 60}, {1: [50], 2: [1] * 30})
    assert plan.preferences == []
    assert offer(plan, C) == [10]


def test_without_supply_the_strictest_requirement_counts_as_the_scarcest() -> None:
    """Nothing is known yet: ties go to the larger sum of bounds, then to the smaller id."""
    plan = a_plan({}, {0: [1], 1: [1], 2: [1], 3: [1]})
    assert plan.fallback == [3, 1, 2, 0]
    assert offer(plan, H) == [30, 10, 20, 0]


def test_a_group_that_nobody_has_met_yet_is_served_first_when_somebody_does() -> None:
    """A group without supply owns nothing and loses nothing: the next device it meets is its."""
    plan = a_plan({G: 60, C: 40}, {0: [1] * 5, 1: [90], 3: [7]})
    assert plan.fallback == [3, 1, 0]
    assert offer(plan, H)[0] == 30


def test_within_a_group_the_round_that_lacks_least_is_first() -> None:
    """Ties go to the job that registered first."""
    plan = a_plan({G: 10}, {0: [5, 3, 5, 1]})
    assert offer(plan, G) == [3, 1, 0, 2]
    assert [rank for _, _, rounds in plan.groups for _, _, rank, *_ in rounds] == [0, 1, 2, 3]


def test_the_supply_of_a_requirement_that_is_new_is_known_at_once() -> None:
    """Supply is kept by spec: devices that came before the job was registered count for it."""
    planner = Planner(policy="irs", dimensions=2)
    planner.add_manager(0)
    planner.add_supply(0, 0, 100, [5.0, 5.0, 1.0, 1.0], [1.0, 1.0])
    planner.put_job(1, 9, [1.0, 1.0], 0, 1, 1)
    planner.open_round(1, 0, 1, 0, 0)
    planner.put_job(2, 8, [5.0, 5.0], 0, 1, 1)
    planner.open_round(2, 0, 1, 0, 0)
    plan = planner.plan(0)
    assert "group 8 supply 50.0" in plan.explain()
    assert "group 9 supply 100.0" in plan.explain()
