"""A plan of the engine as a message to a client manager, and as an event of the log.

All managers get the same but for the quotas. Not here: when one is made and who hears it
(:mod:`daemons.scheduler.core`), and what a manager does with it (``daemons/client_manager``).
"""

from __future__ import annotations

from collections.abc import Mapping

from propius import messages
from propius.engine import Plan, PlanGroup
from propius.messages import PlannedGroup, PlannedRound, PrivateConstraint


def to_message(
    plan: Plan,
    groups: list[PlanGroup],
    *,
    manager: int,
    seq: int,
    constraints: Mapping[int, PrivateConstraint],
) -> messages.Plan:
    """The plan for one manager. ``groups`` are the plan's, read out once for all of them."""
    quotas = iter(plan.quotas(manager))
    return messages.Plan(
        version=plan.version,
        seq=seq,
        ranked=plan.ranked,
        groups=[
            PlannedGroup(
                requirement_id,
                vector,
                [
                    PlannedRound(
                        job, number, rank, next(quotas), constraints.get(job, {}), tier, part
                    )
                    for job, number, rank, _, tier, part in rounds
                ],
            )
            for requirement_id, vector, rounds in groups
        ],
        preferences=plan.preferences,
        fallback=plan.fallback,
        shuffle=plan.shuffle,
        partitions=plan.partitions,
    )


def to_event(plan: Plan, groups: list[PlanGroup], *, seq: int, policy: str) -> messages.PlanMade:
    """The plan as it was made, with what each round lacks in the place of quotas."""
    return messages.PlanMade(
        version=plan.version,
        seq=seq,
        policy=policy,
        ranked=plan.ranked,
        groups=[(requirement_id, rounds) for requirement_id, _, rounds in groups],
        preferences=plan.preferences,
        fallback=plan.fallback,
        shuffle=plan.shuffle,
        partitions=plan.partitions,
    )
