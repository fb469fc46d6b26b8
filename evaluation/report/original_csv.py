"""A run as the CSV files of the original testbed, for scripts that read those.

A folder for each policy and seed, named after both, has ``job_<n>_<alg>.csv``,
``test_<n>_<alg>.csv``, ``train_<n>_<alg>.csv`` and ``client_result.csv``; ``alg`` is the policy.
Columns are the original's, in its order; those that we add stand at the end. What differs:

* failed attempts have rows, with the times that they really took, and ``state`` says how they
  ended;
* the row ``-1`` has the means over completed rounds, divided by their number, and the row ``-2``
  the counts of time-outs.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evaluation.files import replacing
from evaluation.report.summary import JobSummary, Spread
from evaluation.results.reader import PolicyResults
from evaluation.results.rows import RoundRow

__all__ = ["write_original_csv"]


def write_original_csv(result: PolicyResults, jobs: Sequence[JobSummary], folder: Path) -> None:
    """Write the files of one policy and seed into ``folder``; ``jobs`` are its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        rows = [row for row in result.rounds if row.job == job.job]
        name = f"{job.job}_{result.policy.replace(':', '.')}.csv"
        scores = [row for row in result.scores if row.job == job.job]
        tables: dict[str, tuple[str, Iterable[Sequence[Any]]]] = {
            f"job_{name}": (
                "round,round_time,sched_delay,response_collection_time,attempt,state",
                _job_rows(rows, job),
            ),
            f"test_{name}": (
                "round,cnt,test_loss,acc,acc_5,test_len",
                [
                    (row.round, 1, row.test_loss, row.accuracy, row.accuracy_top5, row.samples)
                    for row in scores
                ],
            ),
            f"train_{name}": (
                "round,cnt,moving_loss,avg_moving_loss,trained_size",
                [_train_row(row) for row in rows if row.state == "completed"],
            ),
        }
        for file, table in tables.items():
            _write(folder / file, *table)
    clients = [(row.utilised_s, row.active_s, row.client) for row in result.clients]
    _write(folder / "client_result.csv", "utilize_time,active_time,client", clients)


def _job_rows(rows: Sequence[RoundRow], job: JobSummary) -> list[Sequence[Any]]:
    table: list[Sequence[Any]] = []
    for row in rows:
        filled_s = row.ended_s if row.filled_s is None else row.filled_s
        table.append(
            (row.round, row.ended_s - job.arrived_s, filled_s - row.opened_s,
             row.ended_s - filled_s, row.attempt, row.state)
        )  # fmt: skip
    averages = (_mean(job.scheduling_delay_s), _mean(job.response_time_s))
    table.append((-1, -1, *averages, "", ""))
    table.append((-2, -2, job.scheduling_timeouts, job.response_timeouts, "", ""))
    return table


def _mean(spread: Spread | None) -> float:
    return spread.mean if spread else 0.0


def _train_row(row: RoundRow) -> Sequence[Any]:
    mean = row.moving_loss or 0.0
    return (row.round, row.completed, mean * row.completed, mean, row.trained_samples)


def _write(path: Path, columns: str, rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as draft, draft.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns.split(","))
        writer.writerows(rows)
