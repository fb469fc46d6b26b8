"""The rows of a run's tables, and how one stands as a line of CSV.

Times are simulated seconds since the run began. A field that is None is empty in the file. Floats
are written so that they read back exactly, hence two equal runs write equal bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, Final, Self, TypeAlias, TypeVar

from evaluation.training.specs import Score
from propius.errors import PropiusError

__all__ = ["ATTEMPT_STATES", "ClientRow", "JobRow", "ResultsError", "RoundRow", "Row", "ScoreRow",
           "header", "line", "parse"]  # fmt: skip


class ResultsError(PropiusError):
    """A run folder that is not one, or is broken; one line with the file."""


ATTEMPT_STATES: Final = ("completed", "failed", "timed_out_scheduling", "timed_out_response")


@dataclass(frozen=True)
class RoundRow:
    """One attempt at a round: ``attempt`` counts from 0, ``state`` is one of `ATTEMPT_STATES`.

    ``filled_s``: when its last slot was allocated first, None if it never was. ``completed``:
    results that count for the model; ``failed``: allocated slots that ended otherwise.
    ``version``: of the weights that the attempt left behind. ``training_wait_s``: how long devices
    waited for their training, which is 0 where devices set the pace. ``trained_samples``: those of
    the results that count. ``diverged``: results that had no weights and were dropped.
    """

    job: int
    round: int
    attempt: int
    state: str
    opened_s: float
    filled_s: float | None
    ended_s: float
    demand: int
    allocated: int
    completed: int
    failed: int
    version: int
    moving_loss: float | None
    training_wait_s: float
    trained_samples: int = 0
    diverged: int = 0

    def __post_init__(self) -> None:
        """Raises ResultsError for a state that there is not."""
        if self.state not in ATTEMPT_STATES:
            raise ResultsError(f"an attempt has no state {self.state!r}")


@dataclass(frozen=True)
class ScoreRow:
    """The weights ``version`` of a job on the test split, as they were at ``time_s``."""

    job: int
    round: int
    time_s: float
    version: int
    test_loss: float
    accuracy: float
    accuracy_top5: float
    samples: int

    @classmethod
    def of(cls, job: int, version: int, time_s: float, score: Score) -> Self:
        """The row of a score; a round's number is the version of the weights it begins with."""
        return cls(
            job=job,
            round=version,
            time_s=time_s,
            version=version,
            test_loss=score.loss,
            accuracy=score.accuracy,
            accuracy_top5=score.correct_top5 / score.samples,
            samples=score.samples,
        )


@dataclass(frozen=True)
class JobRow:
    """One job that is over. Means are over its completed rounds, None without any."""

    job: int
    profile: str
    arrived_s: float
    finished_s: float | None
    jct_s: float | None
    rounds: int
    mean_scheduling_delay_s: float | None
    mean_response_time_s: float | None
    scheduling_timeouts: int
    response_timeouts: int
    state: str

    @classmethod
    def of(
        cls,
        job: int,
        profile_no: int,
        *,
        arrived_s: float,
        finished_s: float | None,
        rounds: int,
        delays_s: Sequence[float],
        responses_s: Sequence[float],
        scheduling_timeouts: int,
        response_timeouts: int,
    ) -> Self:
        """The row of a job from the times of its completed rounds; without an end, unfinished."""
        return cls(
            job=job,
            profile=str(profile_no),
            arrived_s=arrived_s,
            finished_s=finished_s,
            jct_s=None if finished_s is None else finished_s - arrived_s,
            rounds=rounds,
            mean_scheduling_delay_s=fmean(delays_s) if delays_s else None,
            mean_response_time_s=fmean(responses_s) if responses_s else None,
            scheduling_timeouts=scheduling_timeouts,
            response_timeouts=response_timeouts,
            state="unfinished" if finished_s is None else "finished",
        )


@dataclass(frozen=True)
class ClientRow:
    """One client: how long it was there, how long it worked, and what became of its tasks.

    ``dropped``: its time was over first, or there was nothing to do; ``failed``: it failed in the
    middle of one.
    """

    client: int
    active_s: float
    utilised_s: float
    tasks: int
    completed: int
    dropped: int
    failed: int = 0


Row: TypeAlias = RoundRow | ScoreRow | JobRow | ClientRow
R = TypeVar("R", RoundRow, ScoreRow, JobRow, ClientRow)


def header(kind: type[Row]) -> str:
    r"""Column names, as the first line of a file.

    >>> header(ClientRow)
    'client,active_s,utilised_s,tasks,completed,dropped,failed\n'
    """
    return ",".join(field.name for field in fields(kind)) + "\n"


def line(row: Row) -> str:
    r"""One row as a line.

    >>> line(ClientRow(1, 10.0, 0.1, 2, 2, 0))
    '1,10.0,0.1,2,2,0,0\n'
    """
    text = io.StringIO()
    values = (getattr(row, field.name) for field in fields(row))
    csv.writer(text, lineterminator="\n").writerow(
        [_WRITE[str(field.type)](value) for field, value in zip(fields(row), values, strict=True)]
    )
    return text.getvalue()


def parse(kind: type[R], lines: Iterable[str], where: str) -> Iterator[R]:
    """The rows of a file; raises ResultsError with ``where`` and the line's number."""
    reader = csv.reader(lines)
    columns = next(reader, None)
    expected = [field.name for field in fields(kind)]
    if columns is None:
        return
    if columns != expected:
        raise ResultsError(f"{where}: line 1: the columns must be {','.join(expected)}")
    readers = [_READ[str(field.type)] for field in fields(kind)]
    for cells in reader:
        try:
            yield kind(*(read(cell) for read, cell in zip(readers, cells, strict=True)))
        except (ValueError, ResultsError) as error:
            raise ResultsError(f"{where}: line {reader.line_num}: {error}") from None


def _optional(value: Any) -> str:
    return "" if value is None else _float(value)


def _float(value: Any) -> str:
    return repr(float(value))


# Annotations are text here, because of `from __future__ import annotations`.
_WRITE: Final[dict[str, Callable[[Any], str]]] = {
    "int": lambda value: str(int(value)),
    "float": _float,
    "float | None": _optional,
    "str": str,
}
_READ: Final[dict[str, Callable[[str], Any]]] = {
    "int": int,
    "float": float,
    "float | None": lambda cell: float(cell) if cell else None,
    "str": str,
}
