"""What an operator can set of the scheduler; the program fills it from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from propius.messages import Schema


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """``event_log`` says whether somebody keeps the events; without it none are made."""

    schema: Schema
    package_version: str
    event_log: bool = False
    policy: str = "irs"
    policy_options: Mapping[str, float] = field(default_factory=dict)
    supply_window_s: float = 600.0
    supply_samples_max: int = 65_536
    plan_interval_s: float = 0.020  # between plans while jobs change; the first one leaves at once
    settle_s: float = 0.7  # from the start to the first plan: for the managers to say hello
    replan_s: float = 1.0  # between plans while only the supply changes
