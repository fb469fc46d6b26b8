"""What an operator can set about the job manager, with the defaults of the packaged configuration.

Not here: reading a configuration file (``propius.config``), which only the program does.
"""

from __future__ import annotations

from dataclasses import dataclass

from propius.messages import Schema


@dataclass(frozen=True, slots=True)
class JobManagerSettings:
    """Limits and times of a job manager; every table it keeps has its bound here."""

    schema: Schema
    package_version: str
    lease_default_s: float = 600.0  # of a round that asks for none
    lease_max_s: float = 86_400.0  # the longest that a round may ask for
    lease_grace_s: float = 30.0  # after a restart nobody is declared dead for this long
    job_silence_max_s: float = 1_800.0  # a job that says nothing for longer is expired
    keep_finished_s: float = 7 * 86_400.0  # finished jobs can be shown for this long …
    keep_finished_max: int = 1_000  # … and are at most so many
    jobs_max: int = 10_000  # live ones
    rounds_kept_max: int = 1_000  # rounds of one job that can still be watched
    leases_max: int = 1_000_000  # held at once, over all jobs
    served_max: int = 1_000_000  # devices remembered that served live rounds
    backoff_after: int = 16  # leases of a job that fail in a row until nobody is sent there …
    backoff_first_s: float = 5.0  # … for this long the first time, twice as long each next …
    backoff_max_s: float = 300.0  # … and at most this long
    backoff_probes: int = 3  # devices that are sent when a back-off is over
    backoffs_max: int = 12  # in a row, until the job is paused
    answer_horizon_s: float = 120.0  # how long a device may repeat a request
    device_answers_max: int = 200_000  # remembered answers, one a device
    staged_max: int = 50_000  # answers that wait for the store before new requests get `busy`
    busy_retry_s: float = 2.0  # what `busy` tells the caller to wait
