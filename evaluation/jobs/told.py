"""What the processes of a live run tell the one that started them: a line of JSON each.

Rows travel as they will stand in the run folder, which one process alone writes. Times are seconds
of the devices' time since the run's start.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from evaluation.results.rows import ClientRow, JobRow, RoundRow, ScoreRow

__all__ = [
    "Attempted",
    "ClientsTold",
    "Happened",
    "JobOver",
    "Ready",
    "Scored",
    "Told",
    "read_told",
]


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The process waits for the start, which it reads from its standard input."""


class Attempted(msgspec.Struct, tag="attempted", frozen=True):
    """An attempt at a round is over."""

    row: RoundRow


class Scored(msgspec.Struct, tag="scored", frozen=True):
    """A version of a job's weights was tested."""

    row: ScoreRow


class JobOver(msgspec.Struct, tag="job_over", frozen=True):
    """A job has done all its rounds."""

    row: JobRow


class ClientsTold(msgspec.Struct, tag="clients", frozen=True):
    """What those clients did that did something since the last time."""

    rows: list[ClientRow]


class Happened(msgspec.Struct, tag="happened", frozen=True):
    """Something that befell the run."""

    what: str
    values: dict[str, float | int | str]


Told: TypeAlias = Ready | Attempted | Scored | JobOver | ClientsTold | Happened

_DECODER: msgspec.json.Decoder[Told] = msgspec.json.Decoder(Told)


def read_told(line: str) -> Told:
    """Read a line; raises ValueError with the line if it is none.

    >>> read_told('{"type":"ready"}')
    Ready()
    """
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a line of ours ({error}): {line[:200]!r}") from error
