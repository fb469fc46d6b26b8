"""A plan means the same after the wire as within one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemons.client_manager.plans import PlanBook
from daemons.scheduler import plans
from propius import engine
from propius.engine import Matcher, Planner
from propius.messages import Plan, decode_payload, encode_payload

S = 1_000_000_000
EXAMPLES = str(Path(__file__).resolve().parents[3] / "examples")


def a_planner(policy: str) -> Planner:
    """Twelve jobs with a past, of four requirements that all contend, and two managers."""
    planner = Planner(policy=policy, dimensions=2, seed=11, options={"fairness": 1, "tiers": 2})
    for manager in range(2):
        planner.add_manager(manager)
    specs = [float(value) for i in range(64) for value in (i % 2, i // 2 % 2)]
    planner.add_supply(1, 0, 640, specs, [float(1 + i) for i in range(64)])
    for job in range(12):
        planner.put_job(job, job % 4, [float(job % 2), float(job // 2 % 2)], job, 9, 5)
    for number in range(4):
        for job in range(12):
            planner.set_history(job, number, 10 * job * number, S, 1_000 * S, 1_001 * S * number)
            planner.open_round(job, number, 5 + job * 7 % 9, allocated=0, opened_ns=job)
        if number < 3:
            planner.plan(number * S)
    return planner


@pytest.mark.parametrize("policy", [*engine.POLICIES, "policy:AgedSmallest"])
def test_a_plan_offers_the_same_after_the_wire(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Every device is offered the same rounds in the same order, whatever the policy."""
    monkeypatch.syspath_prepend(EXAMPLES)
    plan = a_planner(policy).plan(20 * S)
    message = plans.to_message(plan, plan.groups, manager=1, seq=4, constraints={})
    arrived = decode_payload("plan", encode_payload(message))
    assert isinstance(arrived, Plan)
    assert arrived == message
    inside, outside = Matcher(dimensions=2), Matcher(dimensions=2)
    assert engine.apply_plan(inside, 0, plan, manager=1, seq=4)
    assert PlanBook(outside).apply(0, arrived)
    offered = set()
    for i in range(400):
        spec, speed = [float(i % 2), float(i // 2 % 2)], float(1 + i % 64)
        ours = inside.check_in(i, f"{i:032x}", spec, speed, 0)
        assert outside.check_in(i, f"{i:032x}", spec, speed, 0) == ours
        offered |= set(ours)
    assert len(offered) == 12, "each round is offered to somebody"


def test_the_policies_of_this_test_use_what_a_plan_can_say() -> None:
    """Tiers, an order of each client's own, and parts are among them."""
    made = {policy: a_planner(policy).plan(20 * S) for policy in engine.POLICIES}
    tiers = [tier for _, _, rounds in made["venn"].groups for *_, tier, _ in rounds if tier]
    assert tiers
    assert made["random-per-client"].shuffle == 11
    assert made["static-partition"].partitions == 12
    parts = {part for _, _, rounds in made["static-partition"].groups for *_, part in rounds}
    assert parts == set(range(12))
