"""When which job arrives: from a trace of ``gap profile`` lines, or a Poisson process.

A gap is the time in seconds since the arrival before, a profile the number of its file. The
job's number is its place among the arrivals; that, and not the profile's number, is what names a
job from then on.

Not here: the profiles (:mod:`evaluation.jobs.profiles`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation.jobs.yaml_file import SettingsError

__all__ = ["Arrival", "poisson", "read_trace"]

STREAM: Final = 0xA881
JOBS_MAX: Final = 10_000


@dataclass(frozen=True)
class Arrival:
    """One job: it comes at ``at_s`` and is of this profile."""

    job: int
    at_s: float
    profile: int


def read_trace(path: Path, profiles: Collection[int], jobs: int | None = None) -> list[Arrival]:
    """The first ``jobs`` arrivals of a trace (None: all). Empty lines and ``#`` comments are none.

    Raises :class:`SettingsError` with file and line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    arrivals: list[Arrival] = []
    now_s = 0.0
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        gap_s, profile = _line(f"{path}: line {number}", fields, profiles)
        now_s += gap_s
        arrivals.append(Arrival(len(arrivals), now_s, profile))
    if not arrivals or len(arrivals) > JOBS_MAX:
        raise SettingsError(f"{path}: {len(arrivals)} arrivals; there must be 1 to {JOBS_MAX}")
    if jobs is not None and jobs > len(arrivals):
        raise SettingsError(f"{path}: {len(arrivals)} arrivals, total_job asks for {jobs}")
    return arrivals[:jobs]


def _line(where: str, fields: list[str], profiles: Collection[int]) -> tuple[float, int]:
    try:
        gap, number = fields
        gap_s, profile = float(gap), int(number)
    except ValueError:
        raise SettingsError(f"{where}: write `gap profile`, as in `120 3`") from None
    if not (math.isfinite(gap_s) and gap_s >= 0):
        raise SettingsError(f"{where}: the gap is {gap}, it must be 0 or more seconds")
    if profile not in profiles:
        known = ", ".join(map(str, sorted(profiles)[:20]))
        raise SettingsError(f"{where}: there is no profile {profile}; there are {known}")
    return gap_s, profile


def poisson(jobs: int, gap_mean_s: float, profiles: Collection[int], seed: int) -> list[Arrival]:
    """So many arrivals with exponential gaps, the first at 0; profiles in turn.

    >>> poisson(3, 60.0, [0, 1], seed=1) == poisson(3, 60.0, [0, 1], seed=1)
    True
    """
    draws = random.Random(f"{STREAM}:{seed}")
    numbers = sorted(profiles)
    now_s, arrivals = 0.0, []
    for job in range(jobs):
        if job:
            now_s += draws.expovariate(1 / gap_mean_s) if gap_mean_s > 0 else 0.0
        arrivals.append(Arrival(job, now_s, numbers[job % len(numbers)]))
    return arrivals
