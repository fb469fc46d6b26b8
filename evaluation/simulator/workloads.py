"""Job lists: which FL jobs arrive when, and what they ask for.

A job list is a JSON array of objects with the fields of :class:`SimulatedJob`. The nine workloads
of the Venn paper come with Propius, each at two scales:

* ``full``: as published, 50 jobs that arrive every 30 minutes on average;
* ``small``: a tenth of the participants, rounds and gaps between arrivals, for traces with a tenth
  of the check-ins.

``even`` mixes all job sizes; ``small`` and ``large`` have jobs below and above the average total
demand, ``low`` and ``high`` below and above the average demand of a round; in ``general``,
``comp_heavy``, ``mem_heavy`` and ``res_intensive`` most jobs ask for one class of devices.

Not here: what a job does in the simulation (``rust_core/src/simulator/jobs.rs``).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from propius.errors import PropiusError

__all__ = ["SCALES", "WORKLOADS", "JobListError", "SimulatedJob", "load_jobs"]

Scale = Literal["small", "full"]

WORKLOADS: Final = (
    "even",
    "small",
    "large",
    "low",
    "high",
    "general",
    "comp_heavy",
    "mem_heavy",
    "res_intensive",
)
"""The paper's workloads: Table 1 has the first five, Table 4 the others."""
SCALES: Final[tuple[Scale, ...]] = ("small", "full")
JOBS_MAX: Final = 100_000


class JobListError(PropiusError):
    """A job list that cannot be simulated; one line with the file and the job."""


Positive = Annotated[float, Meta(gt=0, le=1e9)]


class SimulatedJob(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """One job of a simulation.

    ``start_s``: when it arrives; ``participants``: devices of a round; ``rounds``: until it is
    done; ``requirement``: the class of devices that it wants, from 1; ``deadline_s``: after which a
    round is judged, 0 for none; ``min_response``: the share of the participants that must report;
    ``workload``: units of computation of a task; ``communication``: units sent and received.

    ``kind``: ``sync`` rounds end with enough reports, or at the deadline, and are tried again if
    that was too few; ``refill`` rounds have no deadline and replace devices that fail; ``async``
    jobs keep ``participants`` devices at work and count a round for every ``buffer`` reports (all
    participants, if not given) that are at most ``staleness`` rounds old (any, if not given).

    >>> SimulatedJob(start_s=0, participants=10, rounds=3, deadline_s=300, requirement=1).kind
    'sync'
    """

    start_s: Annotated[float, Meta(ge=0, le=1e9)]
    participants: Annotated[int, Meta(ge=1, le=10_000_000)]
    rounds: Annotated[int, Meta(ge=1, le=10_000_000)]
    deadline_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    requirement: Annotated[int, Meta(ge=1, le=9)]
    min_response: Annotated[float, Meta(gt=0, le=1)] = 0.8
    workload: Positive = 30.0
    communication: Annotated[float, Meta(ge=0, le=1e9)] = 10.0
    kind: Literal["sync", "refill", "async"] = "sync"
    buffer: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    staleness: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None

    def check(self) -> str:
        """What is wrong with the fields taken together; empty if nothing."""
        if self.kind == "sync" and self.deadline_s == 0:
            return "a sync job needs a deadline_s above 0 (kind refill has none)"
        if self.kind != "sync" and self.deadline_s != 0:
            return f"a {self.kind} job has no deadline_s"
        if self.kind == "async" and (self.buffer or 0) > self.participants:
            return f"a buffer of {self.buffer} is never full with {self.participants} participants"
        if self.kind != "async" and (self.buffer, self.staleness) != (None, None):
            return f"a {self.kind} job has neither buffer nor staleness"
        return ""


def load_jobs(name_or_file: str, scale: Scale = "small") -> list[SimulatedJob]:
    """The jobs of a named workload at this scale, or of a JSON file.

    Raises :class:`JobListError`.

    >>> len(load_jobs("even")), load_jobs("even", "full")[0].participants
    (50, 100)
    """
    if name_or_file in WORKLOADS:
        where = files("evaluation.simulator") / "job_lists" / f"{scale}_scale"
        return _decode(name_or_file, (where / f"{name_or_file}.json").read_bytes())
    path = Path(name_or_file)
    if not path.suffix and not path.exists():
        known = ", ".join(WORKLOADS)
        raise JobListError(f"no workload and no file {name_or_file!r}; workloads: {known}")
    try:
        return _decode(name_or_file, path.read_bytes())
    except OSError as error:
        raise JobListError(f"{name_or_file}: {error.strerror}") from error


def _decode(where: str, text: bytes) -> list[SimulatedJob]:
    try:
        rows = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise JobListError(f"{where}: not a JSON list of jobs: {error}") from error
    if not 1 <= len(rows) <= JOBS_MAX:
        raise JobListError(f"{where}: {len(rows)} jobs; there must be 1 to {JOBS_MAX:,}")
    return [_job(where, number, row) for number, row in enumerate(rows, 1)]


def _job(where: str, number: int, row: msgspec.Raw) -> SimulatedJob:
    try:
        job = msgspec.json.decode(row, type=SimulatedJob)
    except msgspec.DecodeError as error:
        raise JobListError(f"{where}: job {number}: {error}") from error
    if wrong := job.check():
        raise JobListError(f"{where}: job {number}: {wrong}")
    return job
