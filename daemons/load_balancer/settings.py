"""What an operator can set of the load balancer; the program fills it from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from propius.messages import Schema


@dataclass(frozen=True, slots=True)
class LoadBalancerSettings:
    """Limits are numbers of requests; ``retries_per_s`` returns a second are welcome."""

    schema: Schema
    package_version: str
    event_log: bool = False  # a load balancer decides nothing worth recording
    pending_max: int = 200_000
    pending_per_connection_max: int = 20_000
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0
    retries_per_s: float = 2_000.0
    refusals_per_s: int = 1_000  # answers a second to garbage; the rest is only counted
