"""What the demo's processes tell their parent: JSON lines on standard output, one object a line.

A job server prints :class:`Watched` whenever its round changes, :class:`RoundDone` after each
aggregation and :class:`JobDone` at the end; the devices' process prints :class:`Devices` once a
second. The parent reads them with :func:`read_progress`; a line that is none of these is an error,
not noise to be skipped.

>>> board = Devices(t_s=1.5, online=250, working=40, completed=7, failed=1, vanished=0)
>>> read_progress(msgspec.json.encode(board).decode()).online
250
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "Devices",
    "JobDone",
    "Progress",
    "RoundDone",
    "Watched",
    "read_progress",
]


class Watched(msgspec.Struct, tag="watched", frozen=True, kw_only=True):
    """A job's round changed; times are seconds since the demo's start."""

    t_s: float
    job: str
    round: int
    state: str
    demand: int
    held: int
    completed: int
    waiting_s: float


class RoundDone(msgspec.Struct, tag="round_done", frozen=True, kw_only=True):
    """A round was aggregated and the new weights were tested on the held-out set."""

    t_s: float
    job: str
    round: int
    updates: int
    accuracy: float


class JobDone(msgspec.Struct, tag="job_done", frozen=True, kw_only=True):
    """The job completed; the figures are those of ``summary.json``."""

    t_s: float
    job: str
    job_id: int
    rounds: int
    rounds_failed: int
    jct_s: float
    mean_scheduling_delay_s: float
    mean_response_s: float
    devices_used: int
    devices_failed: int
    final_accuracy: float


class Devices(msgspec.Struct, tag="devices", frozen=True, kw_only=True):
    """The fleet: how many devices are on and at work, and how their tasks ended so far."""

    t_s: float
    online: int
    working: int
    completed: int
    failed: int
    vanished: int


Progress: TypeAlias = Watched | RoundDone | JobDone | Devices

_DECODER: msgspec.json.Decoder[Progress] = msgspec.json.Decoder(Progress)


def read_progress(line: str) -> Progress:
    """Read a line; raises ValueError with the line if it is none."""
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError as error:
        message = f"not a progress line ({error}): {line[:200]!r}"
        raise ValueError(message) from error
