"""A plan of the engine as a message to a client manager.

All managers get the same but for the quotas. Not here: when one is made and who hears it
(:mod:`daemons.scheduler.core`), what a manager does with it (``daemons/client_manager``), and how
it stands in the event log (:mod:`propius.driver`).
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
