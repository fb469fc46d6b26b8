"""The demo's results: the table that ends it, and ``summary.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from evaluation.demo.scoreboard import Scoreboard
from evaluation.files import replacing

__all__ = ["ACCURACY_MIN", "results", "results_table", "write_summary"]

ACCURACY_MIN = 0.88
"""What each job must reach: mean test accuracy of its last three rounds."""


def results(board: Scoreboard) -> list[dict[str, Any]]:
    """One object per job, in the order of the jobs; an unfinished job has ``finished`` false."""
    rows = []
    for name, score in board.jobs.items():
        done = score.done
        row: dict[str, Any] = {
            "name": name,
            "finished": done is not None,
            "rounds": score.rounds_done,
            "demand": score.plan.demand,
            "requirement": dict(score.plan.requirement),
        }
        if done is not None:
            row |= {
                "job_id": done.job_id,
                "rounds": done.rounds,
                "rounds_failed": done.rounds_failed,
                "jct_s": round(done.jct_s, 3),
                "mean_scheduling_delay_s": round(done.mean_scheduling_delay_s, 3),
                "mean_response_s": round(done.mean_response_s, 3),
                "devices_used": done.devices_used,
                "devices_failed": done.devices_failed,
                "final_accuracy": round(done.final_accuracy, 4),
            }
        rows.append(row)
    return rows


def results_table(rows: list[dict[str, Any]], *, title: str) -> Table:
    """The table that a person reads."""
    table = Table(title=title, title_justify="left")
    table.add_column("job")
    for column in ("rounds", "JCT", "scheduling delay", "response time", "devices used", "failed",
                   "accuracy"):  # fmt: skip
        table.add_column(column, justify="right")
    for row in rows:
        if not row["finished"]:
            table.add_row(row["name"], str(row["rounds"]), "[red]not finished[/]")
            continue
        colour = "green" if row["final_accuracy"] >= ACCURACY_MIN else "red"
        table.add_row(
            row["name"],
            str(row["rounds"]),
            f"{row['jct_s']:.1f} s",
            f"{row['mean_scheduling_delay_s']:.2f} s",
            f"{row['mean_response_s']:.2f} s",
            str(row["devices_used"]),
            str(row["devices_failed"]),
            f"[{colour}]{row['final_accuracy']:.3f}[/]",
        )
    return table


def write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as JSON, all or nothing."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(rows, indent=2) + "\n")
