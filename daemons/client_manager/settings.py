"""What an operator can set of a client manager; the program fills it from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from propius.messages import Schema


@dataclass(frozen=True, slots=True)
class ClientManagerSettings:
    """``event_log`` says whether somebody keeps the events; without it none are made."""

    schema: Schema
    package_version: str
    event_log: bool = False
    tasks_per_offer_max: int = 20
    offer_timeout_s: float = 10.0
    waiting_max: int = 100_000  # check-ins held at once
    declined_max: int = 64  # rounds remembered of one client
    supply_bucket_s: float = 1.0
    supply_sample_max: int = 256
    claim_timeout_s: float = 5.0  # until a client hears `busy` because the job manager is silent
    claim_again_s: float = 1.0  # until a claim that got no answer is sent again
    claims_max: int = 20_000  # under way at once; as many reports
    remember_s: float = 120.0  # how long a repeated request gets its first answer
    remembered_max: int = 200_000
    retry_min_s: float = 0.5  # bounds of what an empty offer says
    retry_max_s: float = 60.0
    retry_idle_s: float = 5.0  # about what it says to few clients when nothing at all is open
    retries_per_s: float = 2_000.0  # returns a second that are welcome
