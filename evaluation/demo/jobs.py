"""The demo's three jobs: what each asks of a device, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["DEMO_JOBS", "DemoJob"]


@dataclass(frozen=True)
class DemoJob:
    """One FL job.

    ``requirement`` names lower bounds on a device's public spec; ``private_constraint`` bounds that
    only the device itself compares. A round ends when ``reports_share`` of its ``demand`` devices
    have reported, as the paper's jobs do (80 %), or ``deadline_s`` after it was opened.
    """

    name: str
    requirement: Mapping[str, float]
    demand: int
    rounds: int
    private_constraint: Mapping[str, float] = field(default_factory=dict)
    reports_share: float = 0.8
    deadline_s: float = 30.0

    @property
    def reports_min(self) -> int:
        """How many reports are enough.

        >>> DemoJob("general", {}, demand=20, rounds=1).reports_min
        16
        """
        return math.ceil(self.demand * self.reports_share)


DEMO_JOBS: Final = (
    DemoJob(
        name="general",
        requirement={"cpu_f": 2, "ram": 2, "fp16_mem": 400, "android_os": 4},
        demand=20,
        rounds=40,
    ),
    DemoJob(
        name="compute-rich",
        requirement={"cpu_f": 7, "ram": 6, "fp16_mem": 900, "android_os": 7},
        demand=15,
        rounds=40,
        private_constraint={"dataset_size": 120},
    ),
    DemoJob(
        name="memory-rich",
        requirement={"cpu_f": 2, "ram": 4, "fp16_mem": 1200, "android_os": 6},
        demand=15,
        rounds=36,
    ),
)
